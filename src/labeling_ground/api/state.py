"""What the routes are handed: the parts of one server, and who is asking."""

import base64
import contextlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import SecretStr

from labeling_ground import key as keys
from labeling_ground.draining import Drain
from labeling_ground.errors import Forbidden, NotAllowed
from labeling_ground.observe import RequestMetrics
from labeling_ground.peers import Peers
from labeling_ground.pools import Pools
from labeling_ground.service.everything import Everything
from labeling_ground.service.history import History
from labeling_ground.service.model_pool import LoadedModel, ModelPool
from labeling_ground.service.predictor import Predictor, Timing
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
    metrics: RequestMetrics
    runtime_settings: RuntimeSettings
    sources: Sources
    """Images by their address, from the hosts that ``sources`` names."""
    upcoming: Upcoming
    """What clients say they will open next."""
    history: History
    """What was done in each minute of the last day."""
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
    def everything(self) -> Everything:
        """The same, for all masks of an image."""
        return self.models.default.everything

    @property
    def engine(self) -> str:
        """What computes the default model, and why that; empty where there is no choice."""
        return self.models.default.engine

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


def request_log_of(request: Request) -> RequestLog:
    """The record of a request; ``edge`` put it there."""
    record: RequestLog = request.scope[REQUEST_LOG_KEY]
    return record


def state_of(request: Request) -> AppState:
    """The parts of the server that this request came to."""
    app_state: AppState = request.app.state.app_state
    return app_state


def pools_of(request: Request) -> Pools:
    """The threads of that server."""
    return state_of(request).predictor.pools


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        tenant: whose namespace of the cache the request works in.
        client: who works, as far as known: the ``X-Client-Id`` header, else the API key's own name; else ``None``.
        is_admin: whether the admin key was given.
    """

    tenant: str
    client: str | None
    is_admin: bool


def caller_of(request: Request, *more_keys: str | None) -> Caller:
    """Who asks. Called by hand at the top of each route: a framework's dependency would cost as much as a cache hit.

    Args:
        request: its headers may carry keys.
        *more_keys: keys that came in another way.

    Raises:
        NotAllowed: the operator has set keys, and none of them was given.
    """
    app_state: AppState = request.app.state.app_state
    settings = app_state.settings
    headers = dict(request.scope["headers"])
    client = None if b"x-client-id" not in headers else headers[b"x-client-id"].decode("latin-1")[:200]
    if not settings.api_keys and settings.admin_key is None:
        return Caller(keys.PUBLIC, client, is_admin=False)
    given = [each for each in more_keys if each]
    if not _KEY_HEADERS.isdisjoint(headers):
        given += _keys_in_headers(headers)
    # Every key is compared, whichever matches: the time taken tells nothing about them.
    admin = [each for each in given if settings.admin_key is not None and _same(each, settings.admin_key)]
    if not settings.api_keys:
        return Caller(keys.PUBLIC, client, bool(admin))
    matches = [each for each in given for secret in settings.api_keys if _same(each, secret)] + admin
    if not matches:
        raise NotAllowed(
            "This server wants an API key. Send it as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."
        )
    tenant = keys.tenant_of(matches[0])
    return Caller(tenant, client or tenant, bool(admin))


def check_admin(request: Request) -> None:
    """See that the operator asks.

    Raises:
        NotAllowed: no key was given, or a wrong one.
        Forbidden: one was given that may not do this; or the server has no admin key.
    """
    settings = state_of(request).settings
    if caller_of(request).is_admin:
        return
    if settings.admin_key is None:
        raise Forbidden(
            "This takes the admin key, and this server has none. Start it with LABELING_GROUND_ADMIN_KEY to change "
            "settings while it runs."
        )
    sentence = "This takes the admin key. Send it as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."
    raise Forbidden(sentence) if settings.api_keys else NotAllowed(sentence)


_KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"token"})


def _keys_in_headers(headers: Mapping[bytes, bytes]) -> list[str]:
    """The keys in a request's headers: ``Authorization: Bearer``, ``X-API-Key``, and what other tools send.

    Those are ``Authorization: Basic`` with the key as the password, and ``Token``.
    """
    scheme, *rest = headers.get(b"authorization", b"").split(maxsplit=1) or [b""]
    scheme, credentials = scheme.lower(), b"".join(rest)
    bearer = credentials if scheme == b"bearer" else b""
    # Blanks around a header's value are none of it; other bytes may be part of a character. Clients whose key is not
    # ASCII send UTF-8.
    given = [text.strip(b" \t") for text in (bearer, headers.get(b"x-api-key", b""), headers.get(b"token", b""))]
    if scheme == b"basic":
        with contextlib.suppress(ValueError):
            given.append(base64.b64decode(credentials).partition(b":")[2])
    return [each.decode("utf-8", "replace") for each in given if each]


def _same(given: str, secret: SecretStr) -> bool:
    return hmac.compare_digest(given.encode(), secret.get_secret_value().encode())
