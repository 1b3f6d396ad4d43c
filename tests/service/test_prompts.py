"""Where a prompt's points and box may lie."""

import math

import pytest

from labeling_ground.errors import BadPrompt
from labeling_ground.key import STEP
from labeling_ground.service.asks import check_box, check_point, fit
from labeling_ground.types import Box, Point, Prompt


@pytest.mark.parametrize(("x", "y"), [(0, 0), (39.99, 29.99), (0, 29)])
def test_points_on_the_image_pass(x: float, y: float) -> None:
    check_point(Point(x, y, 1), 40, 30)


@pytest.mark.parametrize(("x", "y"), [(40, 0), (0, 30), (-0.01, 5), (5, math.nan)])
def test_points_outside_are_refused_and_the_sentence_says_how_large_the_image_is(x: float, y: float) -> None:
    with pytest.raises(BadPrompt, match="40 × 30 pixels"):
        check_point(Point(x, y, 1), 40, 30)


@pytest.mark.parametrize("box", [Box(-5, -5, 1, 1), Box(39, 29, 80, 80), Box(80, 80, 39, 29), Box(-9, -9, 99, 99)])
def test_a_box_that_overlaps_the_image_passes(box: Box) -> None:
    check_box(box, 40, 30)


@pytest.mark.parametrize("box", [Box(40, 0, 50, 9), Box(0, 30, 9, 50), Box(-9, -9, 0, 9), Box(-9, -9, 9, 0)])
def test_a_box_beside_the_image_is_refused(box: Box) -> None:
    with pytest.raises(BadPrompt, match="outside the image"):
        check_box(box, 40, 30)


def test_a_prompt_is_fitted_into_the_image() -> None:
    """What snapped onto the edge is taken back by a step, and a box is cut off on all four sides."""
    fitted = fit(Prompt((Point(40, 30, 1), Point(3, 4, 0)), Box(-1, -2, 44, 33)), 40, 30)
    assert fitted.points == (Point(40 - STEP, 30 - STEP, 1), Point(3, 4, 0))
    assert fitted.box == Box(0, 0, 40, 30)
    assert fit(Prompt((Point(1, 1, 1),)), 40, 30).box is None
    with pytest.raises(BadPrompt):
        fit(Prompt((Point(40 + STEP, 3, 1),)), 40, 30)
