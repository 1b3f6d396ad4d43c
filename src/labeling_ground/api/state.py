"""What the routes are handed: the parts of one server, and what is logged of a request."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from labeling_ground.draining import Drain
from labeling_ground.metrics import Metrics
from labeling_ground.peers import Peers
from labeling_ground.service.asks import Timing
from labeling_ground.service.history import History
from labeling_ground.service.known_texts import KnownTexts
from labeling_ground.service.model_pool import LoadedModel, ModelPool
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.runtime_settings import RuntimeSettings
from labeling_ground.service.sessions import Sessions
from labeling_ground.service.sources import Sources
from labeling_ground.service.upcoming import Upcoming
from labeling_ground.settings import Settings
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Outcome


@dataclass(frozen=True)
class AppState:
    """One server's parts, made by ``wiring``."""

    settings: Settings
    models: ModelPool
    sessions: Sessions
    runtime_settings: RuntimeSettings
    sources: Sources
    """Images by their address, from the hosts that ``sources`` names."""
    upcoming: Upcoming
    """What clients say they will open next."""
    history: History
    """What was done in each minute of the last day."""
    known_texts: KnownTexts
    """Images that tools sent in base64."""
    peers: Peers | None = None
    """The other worker processes of this server, where there are some."""
    started: float = field(default_factory=time.monotonic)
    """When counting began, on the monotonic clock."""
    drain: Drain = field(default_factory=Drain)

    @property
    def predictor(self) -> Predictor:
        """What answers where no model is named; and what all models share."""
        return self.models.default.predictor

    @property
    def metrics(self) -> Metrics:
        """What this server counts."""
        return self.supervisor.metrics

    @property
    def supervisor(self) -> Supervisor:
        """What runs this server's background work."""
        return self.predictor.supervisor


@dataclass
class RequestLog:
    """What the request's log line and ``Server-Timing`` header will say."""

    outcome: str = "none"
    fields: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    served: LoadedModel | None = None
    """The model that answers; it is not unloaded before the request has ended."""
    at_end: Callable[[], None] | None = None
    """Called when the request has ended."""

    def note(self, outcome: Outcome, timing: Timing) -> None:
        """Write an answer's outcome and timings down; of several answers, the dearest outcome counts."""
        if self.outcome == "none" or RANKS[outcome] > RANKS[Outcome(self.outcome)]:
            self.outcome = outcome
        noted = self.timing
        if timing.lookup is not None:
            noted["lookup"] = max(noted.get("lookup", 0.0), timing.lookup)
        if timing.encode is not None:
            noted["encode"] = max(noted.get("encode", 0.0), timing.encode)
        if timing.decode is not None:
            noted["decode"] = max(noted.get("decode", 0.0), timing.decode)


RANKS = {outcome: rank for rank, outcome in enumerate(Outcome)}
"""From the cheapest outcome to the dearest."""
REQUEST_LOG_KEY = "labeling_ground.request_log"
