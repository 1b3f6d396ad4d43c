"""The engines of one half: which of them an ask goes to, and where it goes on when that one fails.

``docs/decisions/0029-pool-of-engines.md`` says why it is chosen so.
"""

import asyncio
import hashlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from labeling_ground.errors import BackendFailed, BadSettings, LabelingGroundError, Overloaded
from labeling_ground.inference.remote import wire
from labeling_ground.inference.remote.addresses import Address, Addresses
from labeling_ground.inference.remote.client import (
    RETRIES,
    EngineAway,
    EngineClient,
    EngineLimits,
    EngineRefused,
    OtherModel,
    RetryBudget,
)
from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.types import ModelVersion

T = TypeVar("T")

Send = Callable[[EngineClient, RetryBudget], Awaitable[T]]
"""Asks one engine."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one engine has to do, as far as this server knows.

    Attributes:
        workers: asks that it answers at the same time.
        running: asks of this server that it has not answered yet.
        queue: asks that waited there when it was last looked at, from whichever server.
        engine_s: seconds that one takes; ``None`` before the first.
    """

    workers: int
    running: int = 0
    queue: int = 0
    engine_s: float | None = None

    @property
    def waiting_s(self) -> float:
        """Seconds until an ask given now begins, as its workers share what is before it."""
        ahead = max(self.running, self.workers + self.queue if self.queue else 0)
        return ahead * (self.engine_s or 1.0) / self.workers


@dataclass(frozen=True, slots=True)
class EngineSelection:
    """How a pool chooses.

    Attributes:
        by_key: whether asks of one key go to one engine (decodes); otherwise to the one that is free first (encodes).
        load_bound: how many times its share of all asks under way an engine is given before others take its keys.
        tries: engines that may begin with one ask: an ask that makes engines fail shall not take all of them.
        patience: part of the time left that an engine gets while there are others to go on to.
    """

    by_key: bool
    load_bound: float = 1.25
    tries: int = 3
    patience: float = 0.5


def rendezvous(key: str, names: Iterable[str]) -> list[str]:
    """The names in this key's own order, by highest random weight: when one goes, only its keys move."""

    def weight(name: str) -> bytes:
        return hashlib.blake2b(f"{key} {name}".encode(), digest_size=8).digest()

    return sorted(names, key=weight, reverse=True)


def decode_order(key: str, loads: Mapping[str, Load], bound: float) -> list[str]:
    """The engines for a decode, best first: in the key's order, those at last that have more than their share.

    An engine with a free worker is never passed over.

    Args:
        key: of the embedding.
        loads: by the engines' names.
        bound: times the share of all asks under way that goes with an engine's workers.
    """
    asks, workers = 1 + sum(load.running for load in loads.values()), sum(load.workers for load in loads.values())

    def is_full(name: str) -> bool:
        load = loads[name]
        return load.running >= max(load.workers, math.ceil(bound * asks * load.workers / workers))

    return sorted(rendezvous(key, loads), key=is_full)


def encode_order(loads: Mapping[str, Load], turns: Mapping[str, int]) -> list[str]:
    """The engines for an encode, best first: by seconds of waiting work; among equals, the one chosen longest ago.

    Args:
        loads: by the engines' names. One that was not measured yet is as quick as the others on average.
        turns: when each was last chosen, as a growing number.
    """
    measured = [load.engine_s for load in loads.values() if load.engine_s is not None]
    usual_s = sum(measured) / len(measured) if measured else 1.0

    def wait(name: str) -> tuple[float, int]:
        load = loads[name]
        return (load if load.engine_s is not None else replace(load, engine_s=usual_s)).waiting_s, turns[name]

    return sorted(loads, key=wait)


def agreed(
    encoders: Sequence[EngineClient], decoders: Sequence[EngineClient], model: str, now: ModelVersion | None = None
) -> wire.Description:
    """What is served: the description of the decoders of one version, with the notes of both halves.

    Of several versions that both halves have, one goes first whose engines answer; then the one that more engines
    have; then the one that is served now: so a version changes when most of the engines have changed.

    Raises:
        BadSettings: no version has both halves, or none is of the model that is wanted, or the halves are exchanged.
    """
    said = [[each.description for each in half if each.description is not None] for half in (encoders, decoders)]
    if not all(said):
        raise BadSettings("The engines have not said yet what they serve.")
    right = [
        [one for one in half if one.role is role]
        for half, role in zip(said, (wire.EngineRole.ENCODER, wire.EngineRole.DECODER), strict=True)
    ]
    if not all(right):
        raise BadSettings(
            f"The engine that should encode says it is the {said[0][0].role}, and the one that should decode says it "
            f"is the {said[1][0].role}."
        )
    shared = {(one.version, one.family) for one in right[0]} & {(one.version, one.family) for one in right[1]}
    if not shared:
        names = [", ".join(sorted({str(one.version) for one in half})) for half in right]
        raise BadSettings(
            f"The encoder serves {names[0]} and the decoder {names[1]}: they must be halves of one model."
        )
    wanted = [version for version, _ in shared if not model or version.model == model]
    if not wanted:
        models = ", ".join(sorted({version.model for version, _ in shared}))
        raise BadSettings(f"The engines serve {models}, and the setting 'model' wants {model}.")

    def rank(version: ModelVersion) -> tuple[bool, int, bool, str]:
        of_it = [[each for each in half if _serves(each, version)] for half in (encoders, decoders)]
        answers = all(any(not each.trouble for each in half) for half in of_it)
        return not answers, -min(map(len, of_it)), version != now, wire.version_text(version)

    best = min(wanted, key=rank)
    both = [[one for one in half if one.version == best] for half in right]
    note = " ".join(dict.fromkeys(one.note for one in (*both[0], *both[1]) if one.note))
    return replace(both[1][0], note=note)


def _serves(client: EngineClient, version: ModelVersion) -> bool:
    return client.description is not None and client.description.version == version


def _may_serve(client: EngineClient, version: ModelVersion) -> bool:
    return client.description is None or _serves(client, version)


class EnginePool:
    """The engines of one half.

    Args:
        addresses: where they are.
        limits: for each of them, but for the deadline, which is for an ask however many engines it is given to.
        choice: how one of them is chosen.
        workers: asks that one takes at the same time, where it does not tell.
        ahead: asks beyond its workers that one is given, so that none waits while an answer travels.
        kind: makes what asks one of them.
    """

    def __init__(
        self,
        addresses: Addresses,
        limits: EngineLimits,
        choice: EngineSelection,
        *,
        workers: int,
        ahead: int = 0,
        kind: Callable[[Address, EngineLimits], EngineClient] = EngineClient,
    ) -> None:
        self.half = addresses.half
        self.deadline_s = limits.deadline_s
        self.addresses = addresses
        self.members: list[EngineClient] = []
        self._limits, self._choice, self._kind = limits, choice, kind
        self._workers, self._ahead = workers, ahead
        self._left: list[EngineClient] = []
        self._turns = itertools.count(1)
        self._running = 0
        self._room = asyncio.Event()

    async def resolve(self) -> bool:
        """Resolve the addresses of the pool's engines. Returns whether any engine is new.

        Those that leave stay until the new ones have been asked what they serve, and for as long as none has said it.
        """
        before, addresses = {each.address: each for each in self.members}, await self.addresses.now()
        new = {address: self._kind(address, self._limits) for address in addresses if address not in before}
        try:
            if before:
                await asyncio.gather(*(each.describe() for each in new.values()), return_exceptions=True)
        except asyncio.CancelledError:
            await asyncio.gather(*(each.aclose() for each in new.values()))
            raise
        self.members = [new[address] if address in new else before.pop(address) for address in addresses]
        if before and not any(each.description for each in self.members):
            self.members += before.values()
        else:
            self._left += before.values()
        return bool(new)

    async def close_left(self) -> None:
        """Close the connections to engines that have left the pool and have nothing to do any more."""
        idle = [each for each in self._left if not each.running]
        self._left = [each for each in self._left if each.running]
        await asyncio.gather(*(each.aclose() for each in idle))

    async def describe(self, which: Callable[[EngineClient], bool] = lambda _: True) -> list[LabelingGroundError]:
        """Ask these of them what they serve, but those that owe an answer. Returns why some did not say it."""
        asked = [each.describe() for each in self.members if which(each) and not each.owes_an_answer]
        said = await asyncio.gather(*asked, return_exceptions=True)
        failed = [one for one in said if isinstance(one, BaseException)]
        for error in failed:
            if not isinstance(error, LabelingGroundError):
                raise error
        return [error for error in failed if isinstance(error, LabelingGroundError)]

    async def look(self) -> None:
        """See how busy each is."""
        await asyncio.gather(*(each.look() for each in self.members))

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(each.aclose() for each in (*self.members, *self._left)))

    def why_not(self, client: EngineClient, version: ModelVersion) -> tuple[str, str]:
        """Why an engine is not asked now, in a word and as a sentence; empty if it is."""
        said = client.description
        if client.trouble:
            return "failing", client.trouble
        if said is None:
            return "unknown", f"The {self.half} has not said yet what it serves."
        if said.role.value != self.half:
            return "role", f"It is left out: it says that it is the {said.role}."
        if said.version != version:
            return "model", f"It is left out: it serves {said.version}, and this server {version}."
        if client.is_draining:
            return "draining", f"The {self.half} is shutting down."
        return "", ""

    def available(self, version: ModelVersion) -> list[EngineClient]:
        """Those that can be asked for this version."""
        return [each for each in self.members if not self.why_not(each, version)[0]]

    def trouble(self, version: ModelVersion) -> str:
        """Why none of them can be asked, as a sentence; empty if one can."""
        if self.available(version):
            return ""
        found = [self.why_not(each, version)[1] for each in self.members if _may_serve(each, version)]
        if not found:
            return "" if self.members else f"There is no {self.half}: its name leads to no address."
        return found[0] if len(self.members) == 1 else f"None of {len(self.members)} can be asked. {found[0]}"

    def left_out(self, version: ModelVersion) -> dict[str, str]:
        """Why which one of several is not asked now: sentences by half and address."""
        if len(self.members) < 2:
            return {}
        return {
            f"{self.half} at {each.address}": why for each in self.members if (why := self.why_not(each, version)[1])
        }

    def figures(self, version: ModelVersion) -> list[EngineCounts]:
        """Each as last seen."""
        return [each.figures(self.why_not(each, version)[0]) for each in self.members]

    def workers(self, version: ModelVersion) -> int:
        """Asks that they answer at the same time, all together: at least one."""
        return sum(self._workers_of(each) for each in self.available(version)) or self._workers

    def at_once(self, version: ModelVersion) -> int:
        """Asks that they are given at the same time, all together."""
        return self.workers(version) + self._ahead * max(1, len(self.available(version)))

    @asynccontextmanager
    async def place(self, version: ModelVersion) -> AsyncIterator[None]:
        """Wait until there is room for one more ask."""
        while self._running >= self.at_once(version):
            self._room.clear()
            await self._room.wait()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._room.set()

    async def ask(self, version: ModelVersion, key: str, send: Send[T], until: float) -> T:
        """What the engine answers that is chosen, or the next one that answers, within the ask's deadline.

        Args:
            version: the model that the ask is bound to; engines of another one are not asked.
            key: of what it is about, where engines are chosen by that.
            send: asks one.
            until: the ask's deadline, on the monotonic clock.

        Raises:
            EngineAway: no engine has begun with it.
            OtherModel: the engines serve another model by now.
            BackendFailed: none can be asked, or none answered as it should.
            Overloaded: those that answer have too much to do.
        """
        failures: dict[EngineClient, LabelingGroundError] = {}
        begun = 0
        has_looked = False
        while True:
            left = [each for each in self.available(version) if each not in failures]
            now = time.monotonic()
            if not (left or has_looked) and begun < self._choice.tries and now < until:
                has_looked = True  # one may be back since the last look, also one that had not begun with this ask
                await self.describe(lambda each: each.was_away)
                for client in self.available(version):
                    if isinstance(failures.get(client), EngineAway) and not isinstance(failures[client], OtherModel):
                        del failures[client]
                continue
            if not left or begun >= self._choice.tries or (failures and now >= until):
                raise self._failure(version, failures)
            is_last = len(left) == 1 or begun == self._choice.tries - 1
            given_s = (until - now) * (1.0 if is_last else self._choice.patience)
            client = self._first(left, key)
            client.chosen = next(self._turns)
            client.running += 1
            try:
                answer = await send(client, RetryBudget(now + given_s, RETRIES if is_last else RETRIES[:1]))
            except (BackendFailed, Overloaded) as error:
                failures[client] = error
                begun += not isinstance(error, EngineAway | Overloaded)
            else:
                _blame(failures)
                return answer
            finally:
                client.running -= 1

    def _first(self, clients: Sequence[EngineClient], key: str) -> EngineClient:
        by_name = {each.address.url: each for each in clients}
        loads = {name: self._load(each) for name, each in by_name.items()}
        if self._choice.by_key:
            order = decode_order(key, loads, self._choice.load_bound)
        else:
            order = encode_order(loads, {name: each.chosen for name, each in by_name.items()})
        return by_name[min(order, key=lambda name: by_name[name].is_silent)]

    def _failure(
        self, version: ModelVersion, failures: Mapping[EngineClient, LabelingGroundError]
    ) -> LabelingGroundError:
        """What to raise: that of an engine that is there, rather than of one that is not."""
        if failures:
            errors = list(failures.values())
            return max(errors, key=lambda error: (isinstance(error, Overloaded), not isinstance(error, OtherModel)))
        trouble = self.trouble(version)
        if not trouble:
            return OtherModel()
        return EngineAway(f"{trouble} What is in the cache is still served; try again in a moment.")

    def _workers_of(self, client: EngineClient) -> int:
        return client.workers or self._workers

    def _load(self, client: EngineClient) -> Load:
        return Load(self._workers_of(client), client.running, client.queue or 0, client.engine_s)


def _blame(failures: Mapping[EngineClient, LabelingGroundError]) -> None:
    """Another engine has answered: so the ask was good, and those that refused it have failed."""
    for client, error in failures.items():
        if isinstance(error, EngineRefused):
            client.failed(error.reason)
