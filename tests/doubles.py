"""Small honest doubles: a real tiny model, stores that misbehave, and a loop whose time is a number.

Nothing is patched anywhere; all of these stand behind the same ports as the real things.
"""

import asyncio
import io
import random
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar, TypeVarTuple

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image as Pillow

from labeling_ground import key as keys
from labeling_ground.cache.choose import choose
from labeling_ground.cache.lease import Claim
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policies.ranked import RankedPolicy
from labeling_ground.cache.store import Store
from labeling_ground.cache.tier import Tier
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec import frame
from labeling_ground.codec.records import open_embedding, seal_embedding
from labeling_ground.inference.backend import Backend, DecodeAsk
from labeling_ground.key import ImageKeys
from labeling_ground.pools import Pools
from labeling_ground.service.asks import MaskAnswer, PromptAsk
from labeling_ground.service.counters import lookups_of
from labeling_ground.service.once import HedgeOutcome
from labeling_ground.service.predictor import Predictor, PredictorOptions
from labeling_ground.service.queues import FairQueue
from labeling_ground.service.sessions import Sessions
from labeling_ground.supervisor import Supervisor
from labeling_ground.testing.dict_store import BrokenStore as BrokenStore
from labeling_ground.testing.dict_store import DamagingStore as DamagingStore
from labeling_ground.testing.dict_store import DictStore as DictStore
from labeling_ground.testing.dict_store import HangingStore as HangingStore
from labeling_ground.testing.dict_store import SlowStore as SlowStore
from labeling_ground.testing.dict_store import damage as damage
from labeling_ground.testing.toy_backend import TOY as TOY
from labeling_ground.testing.toy_backend import ToyBackend as ToyBackend
from labeling_ground.types import (
    Box,
    Embedding,
    Entry,
    Image,
    Kind,
    Point,
    Priority,
    Prompt,
    StoreStats,
)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TENANT = keys.PUBLIC

LONG_S = 60.0
"""Longer than this machine, busy as it may be with other things, stands still."""

patient = settings(deadline=None, max_examples=60)
"""For properties: no deadline, for the machine may be busy with other things."""


# --- images ------------------------------------------------------------------------------------------------------


def bits_of(png: bytes) -> NDArray[np.bool_]:
    """A mask from its PNG, ``bool [height, width]``."""
    with Pillow.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("L")) > 127


def image_bytes(seed: int = 0, *, width: int = 40, height: int = 30, form: str = "PNG") -> bytes:
    """An image file: blobs of colour that depend on the seed."""
    tiles = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    picture = Pillow.fromarray(tiles).resize((width, height), Pillow.Resampling.BILINEAR)
    out = io.BytesIO()
    picture.save(out, form)
    return out.getvalue()


def click(x: float = 20.0, y: float = 15.0, label: int = 1) -> PromptAsk:
    """The prompt of one click."""
    return PromptAsk(points=[Point(x, y, label)])


# --- the model -----------------------------------------------------------------------------------------------------


async def encoded(backend: Backend, image: Image) -> Embedding:
    """The embedding of one image."""
    [embedding] = await backend.encode([image])
    return embedding


def on(embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodeAsk]:
    """Asks for these prompts on one image's embedding."""
    return [(embedding, prompt) for prompt in prompts]


def through_the_cache(embedding: Embedding) -> Embedding:
    """As it comes back in half precision."""
    return open_embedding(seal_embedding("k", embedding, cost=1.0, created=0.0, precision="fp16"), "k")


# --- stores --------------------------------------------------------------------------------------------------------


def sealed(key: str, size: int = 100, *, cost: float = 1.0, created: float = 0.0) -> Entry:
    """A real entry for an embedding's or an image's key, with about this many bytes of content."""
    kind = Kind(key.split("/")[3])
    meta = {"width": 4, "height": 3}
    tensors: dict[str, NDArray[Any]] = {"file": np.full(size, 7, np.uint8)}
    return frame.seal(key, kind, cost=cost, created=created, meta=meta, tensors=tensors)


# --- leases ----------------------------------------------------------------------------------------------------------


class DictLeases:
    """Leases as simple as can be, for several who share this very object.

    Args:
        kept: the keys whose values the shared tier has.
        clock: seconds; the running loop's time by default.
    """

    def __init__(self, kept: Container[str] = (), *, clock: Callable[[], float] | None = None) -> None:
        self.kept = kept
        self.clock = clock or now
        self.held: dict[str, tuple[str, float]] = {}
        """Key → token, and when it expires."""
        self.awaited: dict[str, Priority] = {}
        self.calls: Counter[str] = Counter()
        self.listeners: dict[str, list[asyncio.Event]] = {}
        self.deaf = False
        """Whether notices are lost."""
        self.error: Exception | None = None
        """Where there is one, calls raise it."""
        self.delay_s: float = 0.0
        """How long an answer takes."""
        self.closed = False

    def holder(self, key: str) -> str | None:
        """Whose token holds the lease now."""
        token, expires = self.held.get(key, ("", 0.0))
        return token if token and self.clock() < expires else None

    async def take(self, key: str, token: str, seconds: float, priority: Priority = Priority.INTERACTIVE) -> Claim:
        """See ``Leases``."""
        await self._work("take")
        if key in self.kept:
            return Claim.STORED
        if self.holder(key) is not None:
            self.awaited[key] = min(priority, self.awaited.get(key, priority))
            return Claim.TAKEN
        self.awaited.pop(key, None)
        self.held[key] = token, self.clock() + seconds
        return Claim.GRANTED

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """See ``Leases``."""
        await self._work("renew")
        if self.holder(key) != token:
            return False
        self.held[key] = token, self.clock() + seconds
        return True

    async def awaited_as(self, key: str) -> Priority | None:
        """See ``Leases``."""
        return self.awaited.get(key)

    async def release(self, key: str, token: str) -> bool:
        """See ``Leases``."""
        await self._work("release")
        if self.holder(key) != token:
            return False
        del self.held[key]
        for event in () if self.deaf else self.listeners.get(key, ()):
            event.set()
        return True

    @asynccontextmanager
    async def listen(self, key: str) -> AsyncIterator[asyncio.Event]:
        """See ``Leases``."""
        event = asyncio.Event()
        self.listeners.setdefault(key, []).append(event)
        try:
            yield event
        finally:
            self.listeners[key].remove(event)

    async def aclose(self) -> None:
        """See ``Leases``."""
        self.closed = True

    async def _work(self, verb: str) -> None:
        self.calls[verb] += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error


# --- the server's heart ----------------------------------------------------------------------------------------------


class MemoryAsStore:
    """A memory store behind the port of the others: where it stands in for a lower tier."""

    name = "memory"

    def __init__(self, memory: MemoryStore) -> None:
        self.memory = memory

    async def open(self) -> None:
        """There is nothing to make ready."""

    async def get(self, key: str) -> Entry | None:
        return self.memory.peek(key)

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        self.memory.insert(key, entry, used)

    async def touch(self, key: str) -> bool:
        return self.memory.peek(key) is not None

    async def has(self, key: str) -> bool:
        record = self.memory._records.get(key)
        return record is not None and self.memory._expired(record, self.memory._clock()) is None

    async def mark_done(self, group: str, done: bool) -> None:
        self.memory.mark(group, done)

    async def delete(self, pattern: str) -> int:
        return await self.memory.delete(pattern)

    async def drop_damaged(self, key: str) -> None:
        self.memory.drop_damaged(key)

    async def sweep(self) -> int:
        return self.memory.expire()

    async def stats(self) -> StoreStats:
        return self.memory.stats()

    async def aclose(self) -> None:
        """Nothing is open."""


def memory_store(budget: int = 64 << 20, **options: Any) -> MemoryStore:
    """A memory tier as ``wiring`` makes it."""
    given: dict[str, Any] = {"idle_s": 1800.0, "max_age_s": None, "policy": RankedPolicy(choose("gds").ranking)}
    if "clock" in options:  # a test's clock is the time of all
        given["wall_clock"] = options["clock"]
    return MemoryStore(budget_bytes=budget, **(given | options))


@asynccontextmanager
async def serving(
    backend: ToyBackend | None = None,
    *lower: Store,
    memory: MemoryStore | None = None,
    clock: Callable[[], float] | None = None,
    slots: int = 2,
    queue: int = 64,
    deadline_s: float | None = None,
    **given: Any,
) -> AsyncIterator[Predictor]:
    """A Predictor over these tiers, with the options and parts that are given, closed in the end.

    Deadline and windows are short in virtual time only: in real time a look-up that is late is this machine's doing,
    and what an answer is must not depend on it.
    """
    clocks: dict[str, Any] = {} if clock is None else {"clock": clock}
    if isinstance(asyncio.get_running_loop(), _VirtualLoop):
        deadline_s = 0.1 if deadline_s is None else deadline_s
    else:
        deadline_s = LONG_S if deadline_s is None else deadline_s
        given = {"mask_window_s": LONG_S, "embedding_window_s": LONG_S} | given
    backend = backend or ToyBackend()
    predictor = Predictor(
        store=TieredStore(memory or memory_store(), lower, deadline_s=deadline_s, **clocks),
        backend=backend,
        encode_queue=FairQueue("encoder", slots, queue, batch=backend.info.encode_batch, **clocks),
        decode_queue=FairQueue("decoder", slots, queue, batch=backend.info.decode_batch, **clocks),
        pools=given.pop("pools", None) or Pools.sized(),
        options=PredictorOptions(**{name: given.pop(name) for name in PredictorOptions.__slots__ if name in given}),
        **given,
    )
    try:
        yield predictor
    finally:
        await predictor.aclose()


def keys_of(file: bytes, tenant: str = TENANT) -> ImageKeys:
    """The keys of an image file."""
    return ImageKeys(tenant, keys.image_id(file))


async def send(predictor: Predictor, file: bytes, tenant: str = TENANT) -> str:
    """Send an image and return its id."""
    image_id = keys.image_id(file)
    await predictor.open_image(tenant, file, image_id)
    return image_id


async def mask(predictor: Predictor, image_id: str, ask: PromptAsk | None = None, tenant: str = TENANT) -> MaskAnswer:
    """Ask for one prompt."""
    [answer] = await predictor.masks(tenant, image_id, [ask or click()])
    return answer


def counted(predictor: Predictor, kind: Kind | None = None) -> Any:
    """The model's look-ups of a kind, or of all kinds: attributes as ``/v1/cache`` names them."""
    labels = {"model": predictor.counters.model} | ({} if kind is None else {"kind": kind.value})
    return SimpleNamespace(**lookups_of(predictor.counters.metrics.figures(), **labels))


def hedged(predictor: Predictor, kind: Kind, outcome: HedgeOutcome) -> int:
    """How many queued predictions of a kind had this outcome."""
    return int(predictor.counters.metrics.figures().sum("predictions", kind=kind, outcome=outcome))


def errors_of(tier: Tier) -> Counter[str]:
    """By reason, what a tier failed at."""
    found = tier.health.metrics.figures().by("reason", "store_errors", tier=tier.store.name)
    return Counter({reason: int(number) for reason, number in found.items()})


def counted_of(tier: Tier, name: str) -> float:
    """Another counter of a tier."""
    return tier.health.metrics.figures().sum(name, tier=tier.store.name)


def failures_of(supervisor: Supervisor) -> Counter[str]:
    """By the work's name, how often background work has failed."""
    found = supervisor.metrics.figures().by("work", "background_errors")
    return Counter({work: int(number) for work, number in found.items()})


def unkept(sessions: Sessions) -> float:
    """Changes that were answered before they were stored."""
    return sessions._supervisor.metrics.figures().sum("sessions_unkept")


async def forget(predictor: Predictor, kind: Kind, *, everywhere: bool = False) -> None:
    """Evict all entries of one kind from memory, or from the lower tiers too: this is no purge."""
    await predictor.background.finish(LONG_S)
    await predictor.store.drain()
    pattern = f"v1/*/{kind}*"
    await predictor.store.memory.delete(pattern)
    if everywhere:
        for tier in predictor.store.lower:
            await tier.store.delete(pattern)


async def until(condition: Callable[[], bool], *, most_s: float = LONG_S) -> None:
    """Let others run until the condition holds."""
    async with asyncio.timeout(most_s):
        while not condition():  # noqa: ASYNC110 -- what is waited for sets no event
            await asyncio.sleep(0.001)


A_BOX = PromptAsk(box=Box(5, 6, 25, 20))


# --- time ------------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would sleep, its clock jumps instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Take no time at all."""
        if timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen")
        self.now += max(0.0, timeout)
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time is a number, and whose threads are function calls: two seconds take no time, twice alike."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """The number."""
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call it here and now."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 -- it goes where the executor would have sent it
            future.set_exception(error)
        return future


def virtually(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main())


def now() -> float:
    """The running loop's time, virtual or real."""
    return asyncio.get_running_loop().time()


def dice(seed: int) -> random.Random:
    """Randomness that repeats."""
    return random.Random(seed)
