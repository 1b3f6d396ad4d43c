"""The models that one server serves: loaded when they are asked for, unloaded when memory is short."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from labeling_ground.errors import BackendFailed, BadInput, ModelTooLarge, Overloaded, UnknownModel
from labeling_ground.inference.memory import give_back_garbage
from labeling_ground.inference.remote_status import RemoteStatus
from labeling_ground.service.everything import Everything
from labeling_ground.service.predictor import Predictor
from labeling_ground.verdict import Verdict

log = logging.getLogger(__name__)

_AGAIN_S = 5.0
"""When to come back for a model for which there was no room, in seconds."""

_LOOK_S = 0.1
"""Between two looks whether a model is idle by now."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model without loading it.

    Attributes:
        name: what it is called in the settings.
        model: its model id, where that is known.
        licence: SPDX identifier of its weights' licence; empty where nobody said.
        capabilities: what it takes: of ``points``, ``box``, ``mask``, ``text`` and ``exemplars``.
        embedding_bytes: what one embedding takes in the cache, at most; 0 where that is not known.
        memory_bytes: what it takes when loaded, in bytes: measured, or else the size of its files; 0 if not known.
        verdicts: what was found of its engines and precisions on this machine.
    """

    name: str
    model: str = ""
    licence: str = ""
    capabilities: tuple[str, ...] = ()
    embedding_bytes: int = 0
    memory_bytes: int = 0
    verdicts: tuple[Verdict, ...] = ()

    @property
    def id(self) -> str:
        """Its model id; what the settings call it where that is not known."""
        return self.model or self.name


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model that can be asked.

    Attributes:
        predictor: answers for images and prompts; it has queues of its own.
        everything: answers for all masks of an image.
        facts: about it, measured where that was possible.
        engine: a sentence on what computes it and why; empty where there was no choice.
        users: requests that are working with it.
        used: when it was last asked, on the pool's clock.
    """

    predictor: Predictor
    everything: Everything
    facts: ModelFacts
    engine: str = ""
    users: int = 0
    used: float = 0.0

    @property
    def model(self) -> str:
        """Its model id."""
        return self.predictor.backend.info.version.model

    def failing(self) -> dict[str, str]:
        """Its halves that do not answer, each with a sentence; empty if all is well."""
        backend = self.predictor.backend
        elsewhere = backend.failing() if isinstance(backend, RemoteStatus) else {}
        return {**self.predictor.engine_health.failing(), **elsewhere}

    def left_out(self) -> Mapping[str, str]:
        """Of several engines in other processes, those that are not asked now, each with a sentence."""
        backend = self.predictor.backend
        return backend.left_out() if isinstance(backend, RemoteStatus) else {}

    @property
    def is_in_use(self) -> bool:
        """Whether a request, or work that one has left behind, needs it."""
        return self.users > 0 or self.predictor.is_working


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model of the pool, at one moment. ``served`` is ``None`` where it is not loaded."""

    facts: ModelFacts
    is_default: bool
    served: LoadedModel | None

    @property
    def id(self) -> str:
        """The model's id; what the settings call it where that is not known before it is loaded."""
        return self.served.model if self.served is not None else self.facts.id


Load = Callable[[ModelFacts], Awaitable[LoadedModel]]
"""Loads a model. Off the event loop where it blocks."""


class ServedModels:
    """The models of a server, loaded or not, by what the settings call them and by the model ids that are known.

    Args:
        default: the first one, loaded.
        others: about the other ones.
    """

    def __init__(self, default: LoadedModel, others: Sequence[ModelFacts]) -> None:
        self.default = default
        self._facts = {facts.name: facts for facts in (default.facts, *others)}
        self.loaded = {default.facts.name: default}
        """By the name in the settings."""

    def name_of(self, model: str | None) -> str:
        """What the settings call the model of this id, or the default one where none is named, or an empty name.

        Raises:
            UnknownModel: it is not served here.
        """
        if not model:
            return self.default.facts.name
        for name, facts in self._facts.items():
            if model == self._id_of(facts):
                return name
        if model in self._facts:
            return model
        served = ", ".join(map(self._id_of, self._facts.values()))
        raise UnknownModel(f"The model {model!r} is not served here. Served: {served}.")

    def statuses(self) -> list[ModelStatus]:
        """All models, the default first."""
        return [self.status(name) for name in self._facts]

    def status(self, name: str) -> ModelStatus:
        """The model that the settings call so."""
        served = self.loaded.get(name)
        return ModelStatus(served.facts if served else self._facts[name], name == self.default.facts.name, served)

    def learn(self, facts: ModelFacts) -> None:
        """Take over what another process of this server knows of a model, such as the id of a factory's."""
        if facts.name in self._facts and facts.name not in self.loaded:
            self._facts[facts.name] = facts

    def _id_of(self, facts: ModelFacts) -> str:
        served = self.loaded.get(facts.name)
        return served.model if served is not None else facts.id


@dataclass
class ModelPool(ServedModels):
    """Loads and unloads the models. The default one is always loaded, so that who names none waits for no load.

    Args:
        default: the first one, loaded.
        others: about the other ones.
        load_one: loads one of them.
        budget_bytes: most memory of all that are loaded, in bytes; 0: no bound.
        patience_s: how long a load waits for room while other models are in use, in seconds.
        load_s: how long who asks for a model waits until it is loaded, in seconds. So long, too, the next load waits
            for one that hangs.
        clock: seconds, monotonic.
    """

    default: LoadedModel
    others: Sequence[ModelFacts] = ()
    load_one: Load | None = None
    budget_bytes: int = 0
    patience_s: float = 30.0
    load_s: float = 300.0
    clock: Callable[[], float] = time.monotonic
    on_load: Callable[[ModelFacts], Awaitable[None]] | None = None
    """Told of what is known of a model that was just loaded, before those who waited for that are answered."""

    def __post_init__(self) -> None:
        """The default one is there from the beginning."""
        super().__init__(self.default, self.others)
        self._wanted: Counter[str] = Counter()
        """By name: how many requests wait for the model to be loaded."""
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._left = asyncio.Event()

    def at_hand(self, model: str | None) -> LoadedModel | None:
        """The model of this id (or the default one), pinned until ``leave``; ``None`` if it has to be loaded first.

        Raises:
            UnknownModel: it is not served here.
        """
        served = self.loaded.get(self.name_of(model)) if model else self.default
        if served is not None:
            served.users += 1
        return served

    async def acquire(self, model: str | None) -> LoadedModel:
        """The same, loaded where it is not.

        Raises:
            UnknownModel: it is not served here.
            Overloaded, BackendFailed: see ``load``.
        """
        name = self.name_of(model)
        served = self.loaded.get(name)
        if served is None:
            self._wanted[name] += 1  # it is not unloaded between its load and this request's turn
            try:
                served = await self.load(name)
            finally:
                self._wanted[name] -= 1
        served.users += 1
        return served

    async def load(self, name: str) -> LoadedModel:
        """The model that the settings call so, loaded in one flight for all who ask for it.

        Raises:
            Overloaded: there is no room for it besides those that are in use.
            ModelTooLarge: there is none beside the default model.
            BackendFailed: it cannot be loaded, or is not in time; then its load goes on.
        """
        served = self.loaded.get(name)
        if served is not None:
            return served
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(name))
            task.add_done_callback(lambda done: self._ended(name, done))
        await asyncio.wait({task}, timeout=self.load_s)  # who leaves does not call it off: the next one has it sooner
        if not task.done():
            raise BackendFailed(
                f"The model {self._id_of(self._facts[name])} has not been loaded within {self.load_s:g} s. That is not "
                "stopped; try again in a moment."
            )
        return task.result()

    async def unload(self, name: str) -> bool:
        """Unload a model. Returns whether it was loaded.

        Raises:
            BadInput: it is the default one, which stays loaded.
            Overloaded: it is in use.
        """
        served = self.loaded.get(name)
        if served is None:
            return False
        if served is self.default:
            raise BadInput(f"{served.model} is the default model, which stays loaded while the server runs.")
        if served.is_in_use:
            raise Overloaded(f"{served.model} is in use. Try again in a moment.", _AGAIN_S)
        await self._drop(name)
        return True

    def leave(self, served: LoadedModel) -> None:
        """A request has done with a model."""
        served.users -= 1
        served.used = self.clock()
        self._left.set()

    async def shrink(self) -> None:
        """Unload what is over the budget because it was in use when another one was loaded; a load does that itself."""
        if not self._one_at_a_time.locked():
            async with self._one_at_a_time:
                await self._shrink()

    async def aclose(self) -> None:
        """Unload all but the default one, which is closed with the server."""
        for task in list(self._loading.values()):
            task.cancel()
            await asyncio.wait({task})
        for name in [name for name, served in self.loaded.items() if served is not self.default]:
            await self._drop(name)

    async def _load(self, name: str) -> LoadedModel:
        facts = self._facts[name]
        if self.load_one is None:
            raise BackendFailed(f"Nothing here loads {name}.")
        # One after the other: what each takes is measured as the growth of this process.
        async with self._one_at_a_time:
            await self._make_room(facts)
            loading = asyncio.ensure_future(self.load_one(facts))
            try:
                await asyncio.wait({loading}, timeout=self.load_s)
            except asyncio.CancelledError:
                loading.cancel()
                raise
            if loading.done():
                return await self._take_on(name, loading)
        return await self._take_on(name, loading)  # one that hangs does not keep the others from being loaded

    async def _take_on(self, name: str, loading: asyncio.Future[LoadedModel]) -> LoadedModel:
        try:
            served = await loading
        except Exception as error:  # a factory's code may raise anything; the next ask tries again
            raise BackendFailed(f"The model {self._facts[name].id} cannot be loaded: {error}") from error
        if served.model in {other.model for other in self.loaded.values()}:
            await served.predictor.unload()
            raise BackendFailed(f"{name} is a second model called {served.model}: its entries could not be told apart.")
        self._facts[name] = served.facts
        served.used = self.clock()
        self.loaded[name] = served
        log.info("loaded %s: %d bytes", served.model, served.facts.memory_bytes)
        if self.on_load is not None:
            await self.on_load(served.facts)
        await self._shrink(keep=name)
        return served

    async def _make_room(self, facts: ModelFacts) -> None:
        """Unload what is idle until there is room for one more; wait for what is in use.

        Raises:
            Overloaded: what is in use leaves no room.
            ModelTooLarge: so does the default model alone.
        """
        if not self.budget_bytes:
            return
        room = self.budget_bytes - self.default.facts.memory_bytes
        if facts.memory_bytes > room:
            raise ModelTooLarge(
                f"{facts.id} takes {facts.memory_bytes} bytes, and models_bytes leaves {max(0, room)} "
                "beside the default model. Trying again does not help: the operator must raise it."
            )
        given_up = self.clock() + self.patience_s
        while True:
            self._left.clear()
            await self._shrink(more=facts.memory_bytes)
            if self._bytes() + facts.memory_bytes <= self.budget_bytes:
                return
            if self.clock() >= given_up:
                raise Overloaded(
                    f"There is no room for {facts.id} while other models are in use. Try again.",
                    _AGAIN_S,
                )
            with contextlib.suppress(TimeoutError):  # what a request has left behind may end without a word
                await asyncio.wait_for(self._left.wait(), _LOOK_S)

    async def _shrink(self, *, more: int = 0, keep: str = "") -> None:
        """Unload idle models, the one unused for longest first, until all and ``more`` bytes are within the budget."""
        while self.budget_bytes and self._bytes() + more > self.budget_bytes:
            idle = [
                (served.used, name)
                for name, served in self.loaded.items()
                if served is not self.default and not (name == keep or self._wanted[name] or served.is_in_use)
            ]
            if not idle:
                return
            await self._drop(min(idle)[1])

    async def _drop(self, name: str) -> None:
        served = self.loaded.pop(name)
        await served.predictor.unload()
        await served.predictor.pools.models.run(give_back_garbage)
        log.info("unloaded %s", served.model)

    def _bytes(self) -> int:
        return sum(served.facts.memory_bytes for served in self.loaded.values())

    def _ended(self, name: str, task: "asyncio.Task[LoadedModel]") -> None:
        del self._loading[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s cannot be loaded: %s", name, error)
