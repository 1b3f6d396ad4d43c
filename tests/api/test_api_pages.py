"""The files of the labeling page and of the operator's: how they are sent, and what they may do."""

import gzip
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


PAGES = ["", "cache"]


async def names(server: "Running", page: str) -> list[str]:
    """Every file that a page loads, scripts of scripts too."""
    html = (await server.client.get(f"/{page}")).text
    found = list(dict.fromkeys(re.findall(r'(?:src|href)="(web/[^"]+)"', html)))
    for name in found:
        if name.endswith(".js"):
            text = (await server.client.get(f"/{name}")).text
            folder = name.rpartition("/")[0]
            for target in re.findall(r'from "(\.[^"]+)"', text):
                path = f"{folder}/{target}".replace("/./", "/")
                path = re.sub(r"[^/]+/\.\./", "", path)
                if path not in found:
                    found.append(path)
    return found


async def test_the_root_is_the_labeling_page(server: "Running") -> None:
    answer = await server.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Labeling Ground</title>" in answer.text
    assert (await server.client.head("/")).status_code == 200


async def test_the_operators_page_is_open_where_its_figures_are_not(start: "Start") -> None:
    async with start(api_keys=("one",)) as server:
        answer = await server.client.get("/cache")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "<title>Labeling Ground: cache</title>" in answer.text
        assert (await server.client.head("/cache")).status_code == 200
        assert (await server.client.get("/v1/cache")).status_code == 401


@pytest.mark.parametrize("page", PAGES)
async def test_every_file_is_there_with_its_kind(server: "Running", page: str) -> None:
    kinds = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
    found = await names(server, page)
    assert len(found) > 12
    for name in found:
        answer = await server.client.get(f"/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kinds[name.rpartition(".")[2]]), name


@pytest.mark.parametrize("page", PAGES)
async def test_the_policy_lets_nothing_of_others_run(server: "Running", page: str) -> None:
    """No inline script or style, nothing from elsewhere, and the page has none of it."""
    answer = await server.client.get(f"/{page}")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|(?:src|href)=\"(?:https?:)?//", answer.text)
    for name in await names(server, page):
        text = (await server.client.get(f"/{name}")).text
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )


async def test_what_the_browser_has_is_not_sent_again(server: "Running") -> None:
    """Plain and compressed are two representations, each with its own tag."""
    seen = set()
    for encoding in ("gzip", "identity"):
        first = await server.client.get("/web/labeling/main.js", headers={"Accept-Encoding": encoding})
        assert first.headers.get("content-encoding", "identity") == encoding
        assert first.headers["vary"] == "Accept-Encoding"
        seen.add(first.headers["etag"])
        asked = {"Accept-Encoding": encoding, "If-None-Match": f'"other", W/{first.headers["etag"]}'}
        again = await server.client.get("/web/labeling/main.js", headers=asked)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        other = await server.client.get("/web/labeling/style.css", headers=asked)
        assert other.status_code == 200
    assert len(seen) == 2


@pytest.mark.parametrize("page", PAGES)
async def test_the_whole_page_is_light(server: "Running", page: str) -> None:
    total = 0
    for name in [page, *await names(server, page)]:
        answer = await server.client.get(f"/{name}", headers={"Accept-Encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        total += len(gzip.compress(answer.content))
    assert total <= 150 * 1024


@pytest.mark.parametrize("name", ["nope.js", "..%2f__init__.py", "%2e%2e/pages.py", "labeling", "labeling/", ""])
async def test_only_the_pages_own_files_are_served(server: "Running", name: str) -> None:
    assert (await server.client.get(f"/web/{name}")).status_code == 404
