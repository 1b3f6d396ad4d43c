"""Opened predictions: once for an entry, gone with it, bounded in bytes."""

import gc

import numpy as np
import pytest

from labeling_ground.codec.records import CachedPrediction, open_prediction, seal_prediction
from labeling_ground.errors import DamagedEntry
from labeling_ground.service.asks import OpenedPredictions
from labeling_ground.types import Entry, Mask, Point, Prediction, Prompt


def entry(key: str, side: int = 9) -> Entry:
    pixels = np.eye(side, dtype=np.bool_)
    mask = Mask(pixels, 0.5, np.zeros((256, 256), np.float32))
    return seal_prediction(key, Prediction((mask,)), Prompt((Point(1, 1, 1),)), None, cost=1.0, created=2.0)


class Writer:
    """Counts how often it writes."""

    def __init__(self) -> None:
        self.written = 0

    def __call__(self, prediction: CachedPrediction) -> bytes:
        self.written += 1
        return prediction.masks[0].counts.encode() * 100


def test_an_entry_is_opened_and_written_once_in_each_form() -> None:
    opened, write, kept = OpenedPredictions(1 << 20), Writer(), entry("a")
    first = opened.open("a", kept)
    assert first.prediction == open_prediction(kept, "a")
    texts = {opened.open("a", kept).text(form, write) for _ in range(3) for form in ("rle", "session")}
    assert (opened.open("a", kept), write.written, len(texts)) == (first, 2, 1)
    assert opened.bytes == kept.size + 2 * len(texts.pop())


def test_another_entry_under_the_same_key_is_opened_anew() -> None:
    opened, old, new = OpenedPredictions(1 << 20), entry("a"), entry("a", side=12)
    before = opened.open("a", old)
    assert opened.open("a", new).prediction.width == 12
    assert (before.prediction.width, len(opened), opened.bytes) == (9, 1, new.size)
    before.text("rle", Writer())
    assert opened.bytes == new.size, "who still holds the old one pays for it"


def test_it_goes_with_its_entry() -> None:
    opened, other = OpenedPredictions(1 << 20), entry("b")
    gone = entry("a")
    opened.open("a", gone).text("rle", Writer())
    del gone
    gc.collect()
    opened.open("b", other)
    assert (len(opened), opened.bytes) == (1, other.size)


@pytest.mark.parametrize("room", [0, 3])
def test_the_bound_holds_with_every_text_and_the_least_recently_used_goes(room: int) -> None:
    entries = {name: entry(name) for name in "abcde"}
    size = entries["a"].size + len(Writer()(open_prediction(entries["a"], "a")))
    opened = OpenedPredictions(room * size)
    for name in "abcade":
        opened.open(name, entries[name]).text("rle", Writer())
        assert opened.bytes <= room * size
    assert len(opened) == room
    write = Writer()
    for name in "ade"[:room]:
        opened.open(name, entries[name]).text("rle", write)
    assert write.written == 0


def test_something_else_is_refused_and_not_kept() -> None:
    opened = OpenedPredictions(1 << 20)
    with pytest.raises(DamagedEntry):
        opened.open("b", entry("a"))
    assert len(opened) == 0
