"""The documentation pages in a real browser: what they load, and that what they show can be tried."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.web.conftest import PLAIN, Served

from labeling_ground.api.schemas.common import EXAMPLE_IMAGE

BELOW = "/label"


@pytest.fixture(scope="module")
def below(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server below a path."""
    server = Served(tmp_path_factory.mktemp("below"), LABELING_GROUND_ROOT_PATH=BELOW)
    server.start()
    yield server
    server.kill()


def hosts(page: Any) -> set[str]:
    """The hosts that a page asks for anything, filled while it is used."""
    found: set[str] = set()
    page.on("request", lambda request: found.add(urlsplit(request.url).netloc))  # empty for data: and blob:
    return found


@pytest.mark.parametrize("where", ["", BELOW])
@pytest.mark.parametrize("name", ["127.0.0.1", PLAIN])
def test_both_pages_show_the_api_and_ask_no_other_host(
    served: Served, below: Served, context: Any, shots: Path, where: str, name: str
) -> None:
    """Also to a reader on another machine, for whom such pages like to ask their makers' hosts for more."""
    server = below if where else served
    page = context.new_page()
    asked = hosts(page)
    page.goto(f"http://{name}:{server.port}{where}/docs")
    page.locator(".opblock").first.wait_for()
    assert page.locator(".opblock").count() >= 19
    assert page.locator(".opblock-summary-path", has_text="/metrics").count() == 1
    assert page.locator(".errors-wrapper").count() == 0
    page.screenshot(path=str(shots / f"docs{where.replace('/', '-')}.png"))
    page.goto(f"http://{name}:{server.port}{where}/redoc")
    page.get_by_role("heading", name="Masks for one or many prompts").wait_for()
    page.get_by_placeholder("Search").fill("purge")
    page.locator("[role=search] [role=menuitem]").first.wait_for()
    page.screenshot(path=str(shots / f"redoc{where.replace('/', '-')}.png"))
    assert asked <= {"", f"{name}:{server.port}"}


def test_the_other_pages_stand_below_a_path_too(below: Served, context: Any) -> None:
    """From the path without its closing slash on, and every file that they load."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
    page.goto(f"http://127.0.0.1:{below.port}{BELOW}")
    assert page.url == f"http://127.0.0.1:{below.port}{BELOW}/"
    page.locator("input[type=file]").first.wait_for(state="attached")
    page.goto(f"http://127.0.0.1:{below.port}{BELOW}/cache")
    with page.expect_response(lambda answer: answer.url.endswith(f"{BELOW}/v1/cache")):
        pass
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", BELOW])
def test_the_examples_can_be_tried_from_above_to_below(
    served: Served, below: Served, context: Any, shots: Path, where: str
) -> None:
    """With the image that the page offers, and nothing typed in."""
    server = below if where else served
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}{where}/docs")
    section = page.locator(".opblock-tag-section", has=page.locator("#operations-tag-images_and_masks"))
    section.locator(".opblock").first.wait_for()
    blocks = section.locator(".opblock")
    tried: list[str] = []
    for index in range(blocks.count()):
        block = blocks.nth(index)
        block.locator(".opblock-summary-control").click()
        block.locator("button.execute").wait_for()
        if not tried:  # the upload comes first; its form may be drawn later than its button
            block.locator("input[type=file]").wait_for(state="attached")
        if (chooser := block.locator("input[type=file]")).count():
            with page.expect_download() as offered:
                block.get_by_role("link", name="the image of the examples").click()
            file = offered.value.path().read_bytes()
            assert file == base64.b64decode(EXAMPLE_IMAGE)
            chooser.set_input_files({"name": "example.png", "mimeType": "image/png", "buffer": file})
        block.locator("button.execute").click()
        status = block.locator(".live-responses-table .response-col_status").last
        status.wait_for()
        path = block.locator(".opblock-summary-path").inner_text().replace("\u200b", "")
        # The engine without weights reads no phrases, and says so.
        wanted = {"/v1/images/{image_id}/concepts": "501", "/v1/upcoming": "202"}.get(path, "200")
        assert status.inner_text().startswith(wanted), block.inner_text()
        tried.append(path)
        if index == blocks.count() - 2:
            page.screenshot(path=str(shots / f"docs{where.replace('/', '-')}-tried.png"))
    assert len(tried) == 9
    assert tried[0] == "/v1/images"
    assert tried[-1] == "/v1/images/{image_id}"
