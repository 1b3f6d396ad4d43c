"""What a backend tells of engines in other processes, beside the ``Backend`` port."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """One engine, as last seen and as ``/v1/cache`` tells it. ``None`` is what is not known.

    Attributes:
        engine: ``encoder`` or ``decoder``.
        address: scheme, host and port.
        model_version: the model that it serves.
        breaker: ``closed`` if it answers, else ``open`` or ``half-open``.
        left_out: why it is not asked now: ``unknown`` (it has not said what it serves), ``role`` (it is the other
            half), ``model`` (another version than this server's), ``failing`` or ``draining``; empty if it is asked.
        workers: asks that it answers at the same time.
        queue: asks that wait there.
        running: asks of this server that it has not answered yet.
        engine_seconds: moving average of what the engine says that it took.
        round_trip_seconds: the same with the way there and back.
        sent_bytes: what it was sent since the start, bodies only.
        received_bytes: what it answered, likewise.
        asks: how many it answered.
        embeddings_sent: how many it was sent: asks for which it did not have the embedding yet.
    """

    engine: str
    address: str
    model_version: str
    breaker: str
    left_out: str
    workers: int | None
    queue: int | None
    running: int
    engine_seconds: float | None
    round_trip_seconds: float | None
    sent_bytes: int
    received_bytes: int
    asks: int
    embeddings_sent: int


@runtime_checkable
class RemoteStatus(Protocol):
    """A backend that does not compute in this process. All calls tell what is known, and ask nobody."""

    def failing(self) -> Mapping[str, str]:
        """What keeps which part from working, as sentences; empty if all is well."""
        ...

    def left_out(self) -> Mapping[str, str]:
        """Why which engine of several is not asked now: sentences by the engine's half and address."""
        ...

    def engines(self) -> Sequence[EngineCounts]:
        """The engines."""
        ...
