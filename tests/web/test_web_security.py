"""What a page of another web site can do with the server, in a real browser."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.web.conftest import FOREIGN, PLAIN, Served, profile

from labeling_ground.api.schemas.common import EXAMPLE_ID, EXAMPLE_IMAGE
from labeling_ground.key import image_id

if TYPE_CHECKING:
    from pathlib import Path

FILE = base64.b64decode(EXAMPLE_IMAGE)
NAMES = ["127.0.0.1", PLAIN]
"""To the first the browser says which page a request comes from (Sec-Fetch-Site), to the second it does not."""


class EmptyPage(BaseHTTPRequestHandler):
    """The other web site."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body>")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        return


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of another web site. What the browser writes about refusals is what is wanted here."""
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage)
    thread = threading.Thread(target=elsewhere.serve_forever)
    thread.start()
    context = profile(chromium)
    page = context.new_page()
    page.goto(f"http://{FOREIGN}:{elsewhere.server_address[1]}/")
    yield page
    context.close()
    elsewhere.shutdown()
    thread.join(60)
    elsewhere.server_close()


def test_a_name_that_was_made_to_lead_here_leads_to_nothing(served: Served, chromium: Any) -> None:
    context = profile(chromium)
    page = context.new_page()
    answer = page.goto(f"http://{FOREIGN}:{served.port}/")
    assert answer.status == 421
    asked = "path => fetch(path, {method: 'DELETE'}).then(answer => answer.status)"
    assert page.evaluate(asked, "/v1/cache") == 421
    context.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_any_page_may_send_does_nothing(served: Served, page: Any, name: str, kind: str, tmp_path: "Path") -> None:
    """Requests that need no leave of the server: it gets them, and does not do what they say."""
    httpx.post(f"{served.url}api/sam/image", json={"image": EXAMPLE_IMAGE, "session_id": "s"}, timeout=60)
    file = FILE + kind.encode() + name.encode()  # what stands behind a PNG changes its id only
    sent = """async ([url, body, kind]) => {
        const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
        const blob = new Blob([bytes], { type: kind });
        const form = new FormData();
        form.append("file", blob);
        const options = { method: "POST", mode: "no-cors", body: kind.startsWith("multipart") ? form : blob };
        return fetch(url, options).then(() => "sent", () => "sent");  // the answer is kept from the page
    }"""
    click = base64.b64encode(b'{"points": [32, 24], "session_id": "s"}').decode()
    there = f"http://{name}:{served.port}"
    page.evaluate(sent, [f"{there}/v1/images", base64.b64encode(file).decode(), kind])
    page.evaluate(sent, [f"{there}/api/sam/click", click, kind])
    assert httpx.get(f"{served.url}v1/images/{image_id(file)}").status_code == 404
    undone = httpx.post(f"{served.url}api/sam/undo", json={"session_id": "s"}, timeout=60)
    assert undone.json()["points"] == []
    first = httpx.post(f"{served.url}api/sam/click", json={"points": [5, 5], "session_id": "s"}, timeout=60)
    assert len(first.json()["points"]) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("element", ["object", "embed", "iframe", "img", "script", "link", "video"])
def test_no_element_tells_whether_an_image_is_known(served: Served, page: Any, name: str, element: str) -> None:
    """Load or error, and the same size on the page: whether the image was ever sent or not."""
    assert httpx.post(f"{served.url}v1/images", content=FILE, timeout=60).status_code == 200
    tried = """([name, url]) => new Promise((resolve) => {
        const element = document.createElement(name);
        const tell = (event) => resolve([event.type, element.offsetWidth, element.offsetHeight]);
        element.onload = element.onloadeddata = element.onerror = tell;
        if (name === "link") element.rel = "stylesheet";
        element[{ object: "data", link: "href" }[name] ?? "src"] = url;
        document.body.append(element);
    })"""
    there = f"http://{name}:{served.port}/v1/images"
    known, unknown = (page.evaluate(tried, [element, f"{there}/{one}"]) for one in (EXAMPLE_ID, "0" * 64))
    assert known == unknown
    assert known[0] == ("load" if element in ("embed", "iframe") else "error")
