"""«Find all …» on the labeling page, with a model that finds colours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file
from tests.web.conftest import Served
from tests.web.labeler import Labeler

from labeling_ground.codec.mask import from_rle

SIZE = (64, 48)


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose default model takes text, and whose second one does not."""
    models = "labeling_ground.testing.toy_concepts:create,classical"
    server = Served(tmp_path_factory.mktemp("finding"), LABELING_GROUND_MODELS=models)
    server.start()
    yield server
    server.kill()


def find(page: Any, phrase: str) -> None:
    page.fill("#find-all input", phrase)
    page.keyboard.press("Enter")


def test_all_that_a_phrase_names_is_found_dropped_one_by_one_kept_and_exported(
    finding: Served, context: Any, shots: Path, tmp_path: Path
) -> None:
    """Red is found and picked, one dropped, the rest kept in the class of that name; then blue, by another phrase."""
    (tmp_path / "squares.png").write_bytes(squares_file())
    labeler = Labeler(context.new_page(), finding.url)
    page = labeler.page
    page.fill("#add-class input", "Red")
    page.keyboard.press("Enter")
    page.fill("#add-class input", "other")
    page.keyboard.press("Enter")
    labeler.open(tmp_path / "squares.png")
    find(page, "violet")
    page.locator("#hint", has_text="No «violet» was found.").wait_for()
    find(page, "red")
    page.locator("#found-text", has_text="2 masks, 2 picked").wait_for()
    page.screenshot(path=shots / "concepts.png")
    labeler.click_only(35, 8, SIZE)
    page.locator("#found-text", has_text="1 picked").wait_for()
    page.keyboard.press("Enter")
    page.locator("#objects li").wait_for()
    page.keyboard.press("Escape")
    page.locator("#found-bar").wait_for(state="hidden")
    find(page, "blue")
    page.locator("#found-text", has_text="2 masks, 2 picked").wait_for()
    page.click("#found-keep")
    page.locator("#objects li").nth(2).wait_for()
    coco = labeler.coco(tmp_path)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    kept = {}
    for one in coco["annotations"]:
        rle = one["segmentation"]
        kept[tuple(one["bbox"])] = names[one["category_id"]]
        assert from_rle(rle["size"], rle["counts"]).sum() == one["area"]
    expected = {(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (RED_BOXES[0], *BLUE_BOXES)}
    assert set(kept) == expected
    x0, y0, x1, y1 = RED_BOXES[0]
    assert kept[x0, y0, x1 - x0, y1 - y0] == "Red", "the class of that name is chosen by itself"
    page.locator("#canvas").focus()
    page.keyboard.press("Control+z")
    page.locator("#objects li").nth(1).wait_for(state="detached")
    assert labeler.objects() == 1, "what was kept together is one step"
    page.select_option("#model-id", "classical")
    page.locator("#find-all").wait_for(state="hidden")
    page.select_option("#language", "ko")
    page.select_option("#model-id", index=0)
    page.locator("#find-all button", has_text="모두 찾기").wait_for()
