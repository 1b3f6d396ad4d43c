"""The page where a server serves several models: one is chosen, remembered, and asked for what is being made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.web.conftest import Served
from tests.web.labeler import Labeler, go, reload

COFFEE = (600, 400)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The weight-free engine, and another model beside it."""
    models = {"LABELING_GROUND_MODELS": "classical,tests.web.second_model:make"}
    server = Served(tmp_path_factory.mktemp("of_two"), **models)
    server.start()
    yield server
    server.kill()


def model_of(labeler: Labeler) -> str:
    return str(labeler.page.locator("#badge").locator("> *").nth(2).inner_text())


def choose(labeler: Labeler, model: str) -> None:
    labeler.page.get_by_role("combobox", name="Model").select_option(model)


def test_another_model_answers_for_what_is_being_made_and_finished_objects_keep_their_masks(
    of_two: Served, context: Any, photos: dict[str, Path], shots: Path
) -> None:
    labeler = Labeler(context.new_page(), of_two.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    labeler.click(300, 200, COFFEE)
    assert model_of(labeler) == "classical"
    labeler.finish()
    labeler.begin(420, 120, COFFEE)
    zoom = page.locator("#where").inner_text()
    choose(labeler, "tests.web.second_model:make")
    page.locator("#badge", has_text="second").wait_for()
    assert page.locator("#where").inner_text() == zoom, "the view stays"
    page.screenshot(path=shots / "models.png")
    labeler.finish()
    titles = [page.locator("#objects .pick").nth(n).get_attribute("title") for n in range(2)]
    assert [title.splitlines()[-1] for title in titles if title] == ["Model: classical", "Model: second"]
    reload(page)
    labeler.begin(200, 300, COFFEE)
    assert model_of(labeler) == "second", "it is remembered"


def test_a_model_that_cannot_be_loaded_is_told_and_another_one_can_be_chosen(
    tmp_path: Path, context: Any, photos: dict[str, Path]
) -> None:
    """The page's own words for it first, then the server's, for as long as it is asked for."""
    server = Served(tmp_path, LABELING_GROUND_MODELS="classical,os:getcwd")
    try:
        server.start()
        labeler = Labeler(context.new_page(), server.url)
        page = labeler.page
        labeler.open(photos["coffee"])
        choose(labeler, "os:getcwd")
        banner = page.locator("#banner")
        banner.get_by_text("The model 'os:getcwd' cannot be served").wait_for()
        page.select_option("#language", "ko")
        banner.get_by_text("모델이 응답하지 않았습니다.").wait_for()
        page.select_option("#model-id", "classical")
        banner.wait_for(state="hidden")
        labeler.click(300, 200, COFFEE)
        assert model_of(labeler) == "classical"
    finally:
        server.kill()


def test_in_korean_the_choice_is_named_as_well(of_two: Served, context: Any) -> None:
    labeler = Labeler(context.new_page(), of_two.url)
    labeler.page.select_option("#language", "ko")
    assert labeler.page.get_by_role("combobox", name="모델").locator("option").all_inner_texts()[0] == "classical"


def test_where_one_model_is_served_there_is_no_choice(served: Served, context: Any) -> None:
    labeler = Labeler(context.new_page(), served.url)
    labeler.page.locator("html[data-started]").wait_for()
    assert labeler.page.locator("#model-choice").is_hidden()


def test_the_operators_page_lists_the_models_and_unloads_and_loads_one(
    tmp_path: Path, context: Any, shots: Path
) -> None:
    other = "tests.web.second_model:make"
    server = Served(tmp_path, LABELING_GROUND_MODELS=f"classical,{other}", LABELING_GROUND_ADMIN_KEY="the admin key")
    try:
        server.start()
        page = context.new_page()
        go(page, server.url + "cache")
        parts = page.locator("#models .part")
        page.get_by_role("button", name=f"Load {other}").click()
        page.click("#ask-yes")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "the admin key")
        page.keyboard.press("Enter")
        page.get_by_role("button", name=f"Unload {other}").wait_for()
        first, second = parts.all_inner_texts()
        assert "default · loaded" in first
        assert "takes points, box, mask" in first
        assert parts.nth(0).get_by_role("button").count() == 0, "the default model stays loaded"
        assert "loaded" in second
        assert "not loaded" not in second
        queues = page.locator("#engines tr[data-model=second]")
        queues.nth(1).wait_for()
        assert [row.get_attribute("data-queue") for row in queues.all()] == ["encoder", "decoder"]
        assert queues.first.inner_text().split("\t")[0].endswith(", second")
        page.screenshot(path=shots / "operator_models.png", full_page=True)
        page.select_option("#language", "ko")
        page.get_by_role("button", name=f"{other} 언로드").click()
        page.click("#ask-yes")
        page.get_by_role("button", name=f"{other} 로드").wait_for()
        assert "로드 안 됨" in parts.nth(1).inner_text()
        queues.first.wait_for(state="detached")
    finally:
        server.kill()
