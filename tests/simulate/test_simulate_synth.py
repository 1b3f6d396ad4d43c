"""Work that is made up: the same every time, and in the proportions of the study that it was calibrated to."""

from dataclasses import replace

import numpy as np
import pytest

from labeling_ground.simulate.synth import MIXES, Work, synthesise
from labeling_ground.trace.events import EVENT, KINDS, Events, What
from labeling_ground.types import Kind

EMBEDDING, MASK = KINDS.index(Kind.EMBEDDING), KINDS.index(Kind.MASK)
TEAM = Work(annotators=8, hours=2.0, projects=4)


@pytest.fixture(scope="module")
def events() -> Events:
    return synthesise(7, TEAM)


def asked(events: Events, kind: int) -> Events:
    found: Events = events[(events["kind"] == kind) & (events["what"] == What.ASKED)]
    return found


def test_the_same_seed_gives_the_same_bits(events: Events) -> None:
    assert synthesise(7, TEAM).tobytes() == events.tobytes()
    assert events.dtype == EVENT
    assert synthesise(8, TEAM).tobytes() != events.tobytes()


def test_people_click_about_nine_times_on_an_image_and_hardly_twice_on_the_same_spot(events: Events) -> None:
    """As in the study: a few hits among masks, many among embeddings."""
    clicks = asked(events, MASK)
    assert 7 < len(clicks) / len(set(clicks["image"].tolist())) < 12
    assert 0.03 < 1 - len(set(clicks["key"].tolist())) / len(clicks) < 0.2
    per_hour = len(set(events["image"].tolist())) / TEAM.annotators / TEAM.hours
    assert 10 < per_hour < 30


def test_images_are_sent_ahead_opened_and_done(events: Events) -> None:
    """Nobody opens what was not sent, and every image that somebody finished is done in the end."""
    ahead = events[events["what"] == What.PREFETCHED]
    opened = asked(events, EMBEDDING)
    done = events[events["what"] == What.DONE]
    first_opened = {image: time for time, image in zip(opened["time"], opened["image"], strict=True)}
    assert len(set(ahead["image"].tolist()) & set(first_opened)) > 0.8 * len(ahead)
    assert set(done["image"].tolist()) <= set(first_opened)
    last = {image: time for time, image in zip(done["time"], done["image"], strict=True)}
    closed = [image for image, time in first_opened.items() if last.get(image, -1.0) > time]
    assert len(closed) > 0.95 * len(first_opened)


def test_a_refinement_names_a_mask_of_the_same_image(events: Events) -> None:
    clicks = asked(events, MASK)
    image_of = dict(zip(clicks["key"].tolist(), clicks["image"].tolist(), strict=True))
    refined = clicks[clicks["parent"] != 0]
    assert 0.2 < len(refined) / len(clicks) < 0.6
    assert all(image_of[row["parent"].item()] == row["image"] for row in refined)


def test_sizes_and_costs_are_the_models(events: Events) -> None:
    kinds = {(model.embedding_bytes, round(model.encode_s, 4)) for model in MIXES["mixed"]}
    found = asked(events, EMBEDDING)
    assert {(row["bytes"].item(), round(row["cost"].item(), 4)) for row in found} <= kinds
    assert set(asked(events, MASK)["beside"].tolist()) == {394_000}
    assert not synthesise(7, replace(TEAM, beside=False))["beside"].any()


def test_nights_are_quiet_and_each_day_has_its_own_images() -> None:
    found = synthesise(1, replace(TEAM, days=2, reviewed=0.0, twice=0.0, demos=0, revisited=0.0, interrupted=0.0))
    hours = (found["time"] - found["time"].min()) / 3600
    first, second = hours < 12, hours >= 12
    assert not ((hours > 4) & (hours < 22)).any()
    assert first.any()
    assert second.any()
    assert not set(found["image"][first].tolist()) & set(found["image"][second].tolist())


def test_a_bulk_job_sends_new_images_within_an_hour() -> None:
    plain, bulk = synthesise(2, TEAM), synthesise(2, replace(TEAM, bulk=300))
    new = set(bulk["image"].tolist()) - set(plain["image"].tolist())
    sent = bulk[np.isin(bulk["image"], list(new))]
    assert len(new) >= 300
    assert sent["time"].max() - sent["time"].min() < 3600


def test_a_swap_gives_the_same_images_new_embeddings() -> None:
    found = asked(synthesise(3, replace(TEAM, swap=True, revisited=0.5, reviewed=0.5)), EMBEDDING)
    versions: dict[int, set[int]] = {}
    for row in found:
        versions.setdefault(row["image"].item(), set()).add(row["embedding"].item())
    assert max(len(each) for each in versions.values()) == 2


@pytest.mark.parametrize("hours", [0.1, 0.5, 24.0])
def test_a_day_may_be_short_or_long(hours: float) -> None:
    found = synthesise(4, replace(TEAM, annotators=2, hours=hours))
    assert len(asked(found, MASK)) > 0
