"""A server's own recording, replayed under its own settings, comes to the server's own figures."""

import contextlib
from contextlib import aclosing
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.doubles import (
    TENANT,
    Clock,
    MemoryAsStore,
    ToyBackend,
    counted,
    dice,
    image_bytes,
    memory_store,
    serving,
    until,
)

from labeling_ground import key as keys
from labeling_ground.cache.choose import choose
from labeling_ground.errors import NotFound
from labeling_ground.service import batching, images, masks
from labeling_ground.service.asks import PromptAsk
from labeling_ground.service.predictor import Predictor
from labeling_ground.simulate.prepared import prepare
from labeling_ground.simulate.replay import SWEEP_EVERY_S, UNBOUNDED, Replay, Setup
from labeling_ground.testing.toy_concepts import ToyConcepts
from labeling_ground.trace.events import EVENT, OUTCOMES, What
from labeling_ground.trace.files import TraceWriter, read
from labeling_ground.trace.recorder import Recorder
from labeling_ground.types import Concept, Kind, Outcome, Point

pytestmark = pytest.mark.anyio

FILES = [image_bytes(seed) for seed in range(14)]


def recorder(path: Path, clock: Clock) -> Recorder:
    return Recorder(TraceWriter(path, max_bytes=1 << 20, files=2), clock)


async def work(predictor: Predictor, clock: Clock, seed: int, steps: int = 350) -> None:
    """Two people label at random: new images, old ones, clicks, refinements, breaks, a purge now and then."""
    rng = dice(seed)
    current: dict[str, str] = {}
    last: dict[str, str] = {}
    sweep_at: float | None = None
    for _ in range(steps):
        time = clock.now + rng.choice([1.0, 5.0, 40.0, 400.0])
        sweep_at = time + SWEEP_EVERY_S if sweep_at is None else sweep_at
        while sweep_at <= time:
            clock.now = sweep_at
            await predictor.store.sweep()
            sweep_at += SWEEP_EVERY_S
        clock.now = time
        client = rng.choice(["ann", "bob"])
        chance = rng.random()
        if client not in current or chance < 0.25:
            file = rng.choice(FILES)
            answer = await predictor.open_image(TENANT, file, keys.image_id(file), client=client)
            current[client] = answer.image_id
            last.pop(client, None)
        elif chance < 0.27:
            await predictor.purge(TENANT, image_id=current.pop(client))
        elif chance < 0.275:
            await predictor.purge(TENANT)
            current.clear()
        else:
            point = Point(5.0 * rng.randrange(6), 15.0, 1)
            parent = (last[client], 0) if client in last and rng.random() < 0.4 else None
            ask = PromptAsk(points=[point], mask_input=parent)
            try:
                [mask] = await predictor.masks(TENANT, current[client], [ask], client=client)
                last[client] = mask.prediction_id
            except NotFound:  # purged by the other one
                current.pop(client)
                last.pop(client, None)
        await until(lambda: not predictor.is_working)  # a mask's logits are stored after its answer
        await predictor.store.drain()


@pytest.mark.parametrize(("policy", "tiered"), [("lru", False), ("lru", True), ("gds", True)])
@pytest.mark.parametrize("budget", [3_200_000, 4_000_000])
async def test_a_replay_of_a_recording_agrees_exactly(
    tmp_path: Path, policy: str, tiered: bool, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits by kind, evictions by reason, bytes held, all to the last one."""
    clock = Clock(1_000_000.0)
    memory = memory_store(budget, policy=choose(policy).make(), clock=clock)
    # The lower tier is one that forgets what is idle, as the disk does.
    below = memory_store(1 << 40, clock=clock)
    lower = [MemoryAsStore(below)] if tiered else []
    async with serving(
        ToyBackend(),
        *lower,
        memory=memory,
        clock=clock,
        wall_clock=clock,
        recorder=recorder(tmp_path / "t", clock),
        mode="first",  # whether a prediction is lost to a late look-up is no matter of the trace
    ) as predictor:
        # What is computed again costs what it cost at first: a trace has one cost for a key.
        ticks = count()
        for module in (batching, images, masks):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
        predictor.encode_queue.typical_s = 1.0
        await work(predictor, clock, seed=budget + tiered)
        await predictor.store.drain()
        figures_of = {kind: counted(predictor, kind) for kind in (Kind.EMBEDDING, Kind.MASK)}
        held, evictions = memory.bytes, memory.evictions
    trace = prepare(read([tmp_path / "t"]))
    replay = Replay(Setup(policy, budget, UNBOUNDED if tiered else 0))
    found = replay.run(trace)
    assert found.evictions["memory"] == evictions
    assert evictions["budget"] > 20
    assert replay.memory.bytes == held
    for kind, figures in figures_of.items():
        assert (kind, found.lookups[kind], found.hits[kind]) == (kind, figures.lookups, figures.hits)
        assert figures.hits > 10


async def test_what_is_recorded_says_nothing_of_images_and_prompts(tmp_path: Path) -> None:
    """Digests and numbers: no id, no name, no coordinate."""
    clock = Clock(1_000_000.0)
    async with serving(ToyBackend(), recorder=recorder(tmp_path / "t", clock)) as predictor:
        image_id = keys.image_id(FILES[0])
        await predictor.open_image(TENANT, FILES[0], image_id, client="ann")
        for _ in range(2):
            await predictor.masks(TENANT, image_id, [PromptAsk(points=[Point(12.0, 13.0, 1)])], client="ann")
        await predictor.prefetch(TENANT, FILES[0], image_id, client="bob")
    content = (tmp_path / "t").read_bytes()
    for secret in (image_id, TENANT, "ann", "toy"):
        assert secret.encode() not in content.split(b"\n", 1)[1]
    assert bytes.fromhex(image_id) not in content
    events = read([tmp_path / "t"])
    assert [What(value).name for value in events["what"]] == ["ASKED", "OPENED", "ASKED", "ASKED", "PREFETCHED"]
    asked = events[events["key"] != 0]
    assert [OUTCOMES[value] for value in asked["outcome"]] == [
        Outcome.MISS, Outcome.MISS, Outcome.HIT, Outcome.HIT,
    ]  # fmt: skip
    assert len(set(asked["embedding"].tolist())) == 1
    assert asked["beside"][0] > len(FILES[0])
    assert np.all(events["time"] == clock.now)
    assert content.split(b"\n", 1)[1].__len__() == len(events) * EVENT.itemsize


CONCEPTS = [keys.canonical_concept(phrase) for phrase in ("red", "blue", "green")]


async def look_for(predictor: Predictor, image_id: str, concept: Concept) -> None:
    assert predictor.concepts is not None
    async with aclosing(predictor.concepts.find(TENANT, image_id, [concept], client="ann")) as found:
        assert [answer.detections_id async for _, answer in found]


@pytest.mark.parametrize("tiered", [False, True])
async def test_a_replay_agrees_about_trunks_and_what_is_made_from_them(tmp_path: Path, tiered: bool) -> None:
    """Phrases, clicks, uploads and purges in any order, with breaks in which entries become idle."""
    clock = Clock(1_000_000.0)
    lower = [MemoryAsStore(memory_store(1 << 40, clock=clock))] if tiered else []
    rng = dice(5)
    async with serving(
        ToyConcepts(),
        *lower,
        memory=memory_store(1 << 40, clock=clock),
        clock=clock,
        wall_clock=clock,
        recorder=recorder(tmp_path / "t", clock),
        mode="first",
    ) as predictor:
        sweep_at = 0.0
        for _ in range(400):
            time = clock.now + rng.choice([5.0, 100.0, 600.0])
            sweep_at = sweep_at or time + SWEEP_EVERY_S
            while sweep_at <= time:
                clock.now = sweep_at
                await predictor.store.sweep()
                sweep_at += SWEEP_EVERY_S
            clock.now, file, chance = time, rng.choice(FILES[:4]), rng.random()
            image_id = keys.image_id(file)
            if chance < 0.03:
                await predictor.purge(TENANT, image_id=image_id)
            elif chance < 0.35:
                await predictor.open_image(TENANT, file, image_id, client="ann")
            else:
                with contextlib.suppress(NotFound):  # it was never sent, or is gone
                    if chance < 0.6:
                        await predictor.masks(TENANT, image_id, [PromptAsk([Point(5.0 * rng.randrange(2), 15.0, 1)])])
                    else:
                        await look_for(predictor, image_id, rng.choice(CONCEPTS))
            await predictor.store.drain()
            await until(lambda: not any(tier.calls.unfinished for tier in predictor.store.lower))
        kinds = Kind.TRUNK, Kind.DETECTIONS, Kind.EMBEDDING, Kind.MASK
        figures_of = {kind: counted(predictor, kind) for kind in kinds}
    events = read([tmp_path / "t"])
    assert np.count_nonzero(events["what"] == What.COMPUTED) == figures_of[Kind.TRUNK].misses > 4
    found = Replay(Setup("lru", UNBOUNDED, UNBOUNDED if tiered else 0)).run(prepare(events))
    for kind, figures in figures_of.items():
        assert (kind, found.lookups[kind], found.hits[kind]) == (kind, figures.lookups, figures.hits)
        assert figures.hits > 10
