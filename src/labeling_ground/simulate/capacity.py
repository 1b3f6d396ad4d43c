"""How many engines, how much memory and how much money a team needs: a made-up day, counted and queued.

The day is that of ``synth``. The cache is taken to have room for all that is in use, so that idle time alone decides
what is computed again; how little room is enough is what ``cache simulate`` finds out.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadSettings
from labeling_ground.simulate.queueing import Engines, Need
from labeling_ground.simulate.synth import Work, synthesise
from labeling_ground.trace.events import KINDS, What
from labeling_ground.types import Kind, Priority

_MASK = KINDS.index(Kind.MASK)
MOST_ENGINES = 256
PATIENCE_S = 1.0
"""A person waits for no more than one encode and so long, at the 99th percentile of those who wait at all."""
CLICK_PATIENCE_S = 0.1
"""The same for one click and its decode."""
STORED_EMBEDDINGS = 256
"""Embeddings that one decoder stores for the clicks that follow."""


@dataclass(frozen=True, slots=True)
class Team:
    """The people and jobs of a working day.

    Attributes:
        annotators: people.
        hours: of the day.
        prefetch: images sent ahead of the one on the screen.
        job_images: images that a job queues after a quarter of the day.
        idle_s: seconds without use after which an entry goes.
    """

    annotators: int
    hours: float = 8.0
    prefetch: int = 2
    job_images: int = 0
    idle_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What one computation takes.

    Attributes:
        encode_s: seconds of one engine for an image.
        decode_s: seconds of one decoder worker for a click.
        embedding_bytes: of an image, in the cache.
        image_bytes: of an image file.
        stored_embeddings: embeddings that one decoder stores for the clicks that follow.
    """

    encode_s: float
    decode_s: float
    embedding_bytes: int
    image_bytes: int = 3_000_000
    stored_embeddings: int = STORED_EMBEDDINGS


@dataclass(frozen=True, slots=True)
class DayLoad:
    """What a day asks of the parts.

    Attributes:
        seconds: the team's hours; what is reviewed later counts, too.
        opens: images opened by people.
        clicks: masks asked for.
        needs: of embeddings, in the order of time, those that the cache has too.
        decodes: when a click reached a decoder, and of which embedding.
        peak_entries: embeddings and masks in use at the busiest moment.
    """

    seconds: float
    opens: int
    clicks: int
    needs: Sequence[Need]
    decodes: Sequence[tuple[float, int]]
    peak_entries: tuple[int, int]

    @property
    def encodes(self) -> int:
        """Images that are computed."""
        return sum(need.is_missing for need in self.needs)


@dataclass(frozen=True, slots=True)
class Waits:
    """How busy some engines are, and how long one waits, the computation included.

    Attributes:
        engines: how many.
        utilisation: share of the day that they compute.
        busiest: the same of the busiest minute's work; above 1 it waits for the next minute.
        p50_s, p99_s, max_s: of the people who have to wait.
        waiting_share: how often somebody has to wait, by images opened, or by clicks.
        job_hours: hours from a job's beginning to its last image; 0 without one.
    """

    engines: int
    utilisation: float
    busiest: float
    p50_s: float
    p99_s: float
    max_s: float
    waiting_share: float
    job_hours: float = 0.0


def day(team: Team, seed: int = 0) -> DayLoad:
    """What the team's day asks for, without a job."""
    work = Work(mix="one", annotators=team.annotators, hours=team.hours, prefetch=team.prefetch)
    events = synthesise(seed, work)
    events = events[(events["what"] == What.ASKED) | (events["what"] == What.PREFETCHED)]
    is_mask = events["kind"] == _MASK
    masks = events[is_mask]
    new_masks = _missing(masks["time"], masks["key"], team.idle_s)
    missing = _missing(events["time"], events["embedding"], team.idle_s)
    # A mask that is cached needs no embedding, but its use keeps the embedding, too.
    wants = ~is_mask
    wants[np.flatnonzero(is_mask)[new_masks]] = True
    is_ahead = events["what"] == What.PREFETCHED
    needs = [
        Need(time, key, Priority.PREFETCH if ahead else Priority.INTERACTIVE, lacks)
        for time, key, ahead, lacks in zip(
            events["time"][wants].tolist(),
            events["embedding"][wants].tolist(),
            is_ahead[wants].tolist(),
            missing[wants].tolist(),
            strict=True,
        )
    ]
    decoded = masks[new_masks]
    return DayLoad(
        seconds=team.hours * 3600,
        opens=int((~is_mask & ~is_ahead).sum()),
        clicks=len(masks),
        needs=needs,
        decodes=list(zip(decoded["time"].tolist(), decoded["embedding"].tolist(), strict=True)),
        peak_entries=(
            _most_at_once(events["time"], events["embedding"], team.idle_s),
            _most_at_once(masks["time"], masks["key"], team.idle_s),
        ),
    )


def encoders(load: DayLoad, team: Team, costs: Costs, engines: int) -> Waits:
    """The day through so many encoders."""
    start = load.needs[0].time
    job_at = start + load.seconds / 4
    job = [Need(job_at, -1 - number, Priority.JOB) for number in range(team.job_images)]
    needs = sorted([*load.needs, *job], key=lambda need: need.time)
    done = Engines(engines, costs.encode_s).run(needs)
    waited = done.waited[Priority.INTERACTIVE]
    work = np.array([need.time for need in load.needs if need.is_missing]) - start
    return Waits(
        engines,
        load.encodes * costs.encode_s / (engines * load.seconds),
        _busiest_minute(work) * costs.encode_s / (60 * engines),
        *_percentiles(waited),
        len(waited) / load.opens,
        max(done.waited[Priority.JOB], default=0.0) / 3600,
    )


def decoders(load: DayLoad, costs: Costs, workers: int) -> Waits:
    """The day's clicks through so many decoder workers."""
    needs = (Need(time, number, Priority.INTERACTIVE) for number, (time, _) in enumerate(load.decodes))
    done = Engines(workers, costs.decode_s).run(needs)
    waited = done.waited[Priority.INTERACTIVE]
    times = np.array([time for time, _ in load.decodes]) - load.decodes[0][0]
    return Waits(
        workers,
        len(times) * costs.decode_s / (workers * load.seconds),
        _busiest_minute(times) * costs.decode_s / (60 * workers),
        *_percentiles(waited),
        len(times) / load.clicks,
    )


def fewest_encoders(load: DayLoad, team: Team, costs: Costs) -> Waits:
    """The fewest encoders with which people wait for one encode and ``PATIENCE_S`` at most.

    Raises:
        BadSettings: ``MOST_ENGINES`` are too few.
    """
    least = int(load.encodes * costs.encode_s / load.seconds) + 1  # fewer never catch up
    for count in range(least, MOST_ENGINES + 1):
        found = encoders(load, team, costs, count)
        if found.p99_s <= costs.encode_s + PATIENCE_S:
            return found
    raise BadSettings(f"More than {MOST_ENGINES} encoders would be needed: take a lighter model, or a faster machine.")


def fewest_decoders(load: DayLoad, costs: Costs) -> Waits:
    """The fewest decoder workers with which clicks wait for one decode and ``CLICK_PATIENCE_S`` at most.

    Raises:
        BadSettings: ``MOST_ENGINES`` are too few.
    """
    least = int(len(load.decodes) * costs.decode_s / load.seconds) + 1
    for count in range(least, MOST_ENGINES + 1):
        found = decoders(load, costs, count)
        if found.p99_s <= costs.decode_s + CLICK_PATIENCE_S:
            return found
    raise BadSettings(f"More than {MOST_ENGINES} decoder workers would be needed: take a faster machine.")


def resent(load: DayLoad, costs: Costs, servers: int) -> int:
    """Decodes whose embedding has to be sent with them: each image has its decoder, which keeps the last ones."""
    stores: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(servers)]
    count = 0
    for _, embedding in load.decodes:
        store = stores[embedding % servers]
        if embedding in store:
            store.move_to_end(embedding)
            continue
        count += 1
        store[embedding] = None
        if len(store) > costs.stored_embeddings:
            store.popitem(last=False)
    return count


def _missing(times: NDArray[np.float64], keys: NDArray[np.uint64], idle_s: float) -> NDArray[np.bool_]:
    """Of each use, in the order of time: whether it is the first, or the one before was too long ago."""
    order = np.lexsort((times, keys))
    same = np.concatenate(([False], keys[order][1:] == keys[order][:-1]))
    gaps = np.concatenate(([0.0], np.diff(times[order])))
    found = np.empty(len(times), np.bool_)
    found[order] = ~same | (gaps >= idle_s)
    return found


def _most_at_once(times: NDArray[np.float64], keys: NDArray[np.uint64], idle_s: float) -> int:
    """The most keys that were used within the last ``idle_s``."""
    begins = _missing(times, keys, idle_s)
    ends = times[_missing(-times[::-1], keys[::-1], idle_s)[::-1]]  # no use follows: the day read backwards
    moments = np.concatenate((times[begins], ends + idle_s))
    steps = np.concatenate((np.ones(int(begins.sum())), -np.ones(len(ends))))
    return int(np.cumsum(steps[np.argsort(moments, kind="stable")]).max())


def _percentiles(waited: Sequence[float]) -> tuple[float, float, float]:
    """The median, the 99th percentile and the longest; zeros where nobody waits."""
    found = np.percentile(waited or [0.0], (50, 99, 100))
    return float(found[0]), float(found[1]), float(found[2])


def _busiest_minute(times: NDArray[np.float64]) -> int:
    return int(np.bincount((times // 60).astype(int)).max())
