"""The JSON of the cache's figures and settings."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from labeling_ground.api.schemas.common import OfModel, Outcome, Strict
from labeling_ground.api.schemas.models import Health


class LookupsOut(BaseModel):
    """Look-ups of one kind, or of all: `lookups = hits + misses + joined`."""

    lookups: int
    hits: int
    misses: int
    joined: int
    recomputed: int = Field(description="Those of the misses that were cached before.")
    failed: int = Field(description="Asks that ended in an error; they are no look-ups.")
    asked: dict[str, int] = Field(
        description="By outcome, those of the look-ups whose answer somebody waited for: without those behind a miss "
        "(a mask that is computed looks for its embedding), and without prefetches."
    )
    hit_ratio: float | None = Field(description="Hits of `asked`; `null` before the first.", examples=[0.9])
    from_int8: int = Field(description="Those of `asked` that were answered from an embedding in int8.")
    seconds_saved: float = Field(description="Computing time that hits and joined asks spared.")
    seconds_computed: float


class TierOut(BaseModel):
    """What one tier holds, and how it behaves."""

    tier: str = Field(examples=["memory"])
    answers: bool = Field(description="False: the tier does not answer, and the numbers are not known.")
    entries: int
    bytes: int
    budget: int = Field(description="Most bytes that it holds.")
    entries_by_kind: dict[str, int] = Field(examples=[{"embedding": 1, "mask": 12}])
    bytes_by_kind: dict[str, int]
    evictions: dict[str, int] = Field(description="By reason: idle, age, budget, purge, damaged.")
    refused: int = Field(description="Values too large for the budget.")
    oldest_entry_seconds: float | None
    breaker: str = Field(description="`closed`: all is well. `open`: it failed, and is left alone for a while.")
    errors: dict[str, int]
    lookups_skipped: int
    writes_pending: int
    demoted: int = Field(description="Values that it was given again when memory had no more room for them.")


class HistoryOut(BaseModel):
    """The last day in steps."""

    every_seconds: float = Field(description="From one step to the next.", examples=[60.0])
    columns: dict[str, list[float]] = Field(
        description="`at`: the step's end, in seconds since 1970; `seconds`: that it took. Asks that somebody waited "
        "for, by outcome: `hit`, `joined`, `recomputed`, `miss`. Requests `refused` for now (429, 503), and `errors` "
        "(other 5xx). `busy`: computations at work, on average; waiting in the queues, on average: `interactive`, "
        "`prefetch`, `job`. Seconds of computing `saved` and `computed`. `memory_bytes` of the memory tier, and "
        "`resident_bytes` of all processes, at the step's end."
    )


class MachineOut(BaseModel):
    """The memory of the machine, or of the container."""

    memory_bytes: int = Field(description="What its processes may use.")
    resident_bytes: int = Field(description="What this server's processes have, the cache's memory tier included.")


class QueueClassOut(BaseModel):
    """What waits in one class of a queue, and what it did since the server started."""

    running: int
    waiting: int
    turned_away: int
    busy_seconds: float = Field(description="Seconds for which its computations had the engine, all together.")
    waited_seconds: float = Field(description="Seconds for which they waited before.")


class QueueOut(BaseModel):
    """The queue in front of one half of the model."""

    running: int
    waiting: int
    turned_away: int = Field(description="Asks that found it full, and were answered 503.")
    typical_seconds: float | None
    classes: dict[str, QueueClassOut] = Field(description="`interactive`, `prefetch` and `job`: who goes first.")
    tenants: dict[str, int] = Field(
        description="How many asks of each tenant wait: the first 16 hex digits of the SHA-256 of its API key with "
        "`labeling-ground tenant` and a zero byte before it. Only for the admin key."
    )


class ModelFiguresOut(LookupsOut):
    """What one model was asked for, and what is under way."""

    flights: int = Field(description="Computations under way.")
    queues: dict[str, QueueOut] = Field(description="`encoder` and `decoder`; none while it is not loaded.")


class EngineOut(BaseModel):
    """An engine in another process, as last seen. `null` is what is not known."""

    engine: str = Field(examples=["decoder"])
    address: str = Field(examples=["http://cpu:7080"])
    model_version: str
    breaker: str = Field(description="`closed`: it answers. `open`: it failed, and is left alone for a moment.")
    left_out: str = Field(
        description="Why it is not asked now: `unknown`, `role`, `model` (it serves another version than this server), "
        "`failing` or `draining`; empty if it is asked."
    )
    workers: int | None = Field(description="Asks that it answers at the same time.")
    queue: int | None = Field(description="Asks that wait there.")
    running: int = Field(description="Asks of this server that it has not answered yet.")
    engine_seconds: float | None = Field(description="What it says that an ask takes, on average lately.")
    round_trip_seconds: float | None = Field(description="The same with the way there and back.")
    asks: int
    embeddings_sent: int = Field(description="Asks for which it did not have the image's embedding yet.")
    sent_bytes: int = Field(description="Bodies that it was sent since the server started.")
    received_bytes: int


class RecomputedOut(BaseModel):
    """What was recomputed after memory's budget had evicted it."""

    entries: int
    seconds: float


class ShadowCacheOut(BaseModel):
    """What a memory tier with a larger budget would have spared: estimates from the sampled images."""

    larger_by: float = Field(description="0.25: a budget of 1.25 times the present one.", examples=[0.25])
    hits: int = Field(description="So often it would have had what had to be computed.")
    seconds_saved: float = Field(description="Computing that it would have spared, in all.")


class ShadowCachesOut(BaseModel):
    """Shadows of the memory tier that hold no values, within 1 % of its budget (or half a MiB, if that is more)."""

    sampled_share: float = Field(description="Share of all images that they see.", examples=[0.125])
    budgets: list[ShadowCacheOut] = Field(
        description="None while the sample has so few of the images in memory that they tell nothing."
    )


class SpreadOut(BaseModel):
    """How many entries in memory are not older, or not unused for longer, than so many seconds; by a sample."""

    seconds: list[float] = Field(examples=[[10, 60]])
    entries: list[int] = Field(description="One for each of `seconds`, each including the one before.")


class LatencyRow(BaseModel):
    """How long answers of one kind and outcome took."""

    kind: Literal["embedding", "mask", "everything", "detections"] = Field(
        description="What was asked for: an image to be encoded, masks, all masks of an image, or concepts."
    )
    outcome: Outcome
    answers: list[int] = Field(
        description="How many took at most each of `seconds`, each including the one before; then how many in all."
    )
    total_seconds: float = Field(description="Of all of them together.")


class LatencyOut(BaseModel):
    """Seconds from a request's first byte to its answer's last, upload included, since the server started."""

    seconds: list[float] = Field(examples=[[0.001, 0.0025]])
    rows: list[LatencyRow] = Field(description="Only what was asked for.")


class CacheSettingsIn(Strict):
    """What shall change; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"policy": "gds", "memory_bytes": 1 << 30}]})

    policy: str | None = Field(
        None,
        max_length=200,
        description="`gds`, `gdsf`, `lru`, `lfu` or `idle`; or the one that the server was started with.",
        examples=["gds"],
    )
    done_weight: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="Weight, under `gds`, of an image that nobody works on."
    )
    frequency_exponent: float | None = Field(
        None, ge=0, le=4, allow_inf_nan=False, description="How much uses count under `gdsf`."
    )
    memory_bytes: int | None = Field(
        None, ge=1 << 20, le=1 << 50, description="Budget of the memory tier.", examples=[1 << 30]
    )
    disk_bytes: int | None = Field(
        None, ge=1 << 20, le=1 << 50, description="Budget of the disk tier, where there is one."
    )
    idle_seconds: float | None = Field(
        None,
        ge=1,
        le=1e8,
        allow_inf_nan=False,
        description="Seconds without use after which an entry goes and a session ends.",
    )


class CacheSettingsOut(BaseModel):
    """What decides over keeping, as it is in effect now."""

    mode: str
    policy: str
    done_weight: float
    frequency_exponent: float
    memory_bytes: int
    disk_bytes: int = Field(description="0: there is no disk tier.")
    idle_seconds: float
    max_age_seconds: float | None
    precision: str


class WorkerOut(BaseModel):
    """One of the processes that answer behind the same port."""

    worker: int = Field(description="Its number, from 0.", ge=0)
    restarts: int = Field(description="How often it was started anew because it had died.", ge=0)
    uptime_seconds: float = Field(description="Since it was started for the last time.", ge=0)
    memory_bytes: int = Field(description="Resident memory.", ge=0)
    cpu_seconds: float = Field(description="Seconds of computing since its last start.", ge=0)


class CacheOut(LookupsOut, OfModel):
    """The figures of all namespaces since the server started: numbers only, no names."""

    kinds: dict[str, LookupsOut] = Field(description="By kind of entry: embedding, mask, everything.")
    models: dict[str, ModelFiguresOut] = Field(description="By model id, also of models that are not loaded any more.")
    predictions: dict[str, dict[str, int]] = Field(
        description="What became of queued predictions, by kind: used, withdrawn (a hit came first), wasted."
    )
    tiers: list[TierOut]
    queues: dict[str, QueueOut] = Field(
        description="`encoder` and `decoder` of the default model, and `grids`, which is one for all models."
    )
    engines: list[EngineOut] = Field(
        description="Engines in other processes; none if all models are computed in this one."
    )
    flights: int = Field(description="Computations under way, of all models.")
    sessions: int
    sessions_unkept: int = Field(
        description="Changes of sessions that were answered before they were kept below memory: it was down or slow."
    )
    background_errors: dict[str, int] = Field(
        description="Failed attempts of background work (sweeps, write queues, notices), by its name; each is "
        "logged and tried again."
    )
    recomputed_after_eviction: dict[str, RecomputedOut] = Field(
        description="By kind: what was recomputed after memory's budget had evicted it. With a larger budget it "
        "would have been a hit."
    )
    shadow_caches: ShadowCachesOut
    ages: SpreadOut = Field(description="Of the entries in memory, since they were computed.")
    idle: SpreadOut = Field(description="Of the entries in memory, since their last use.")
    latency: LatencyOut
    health: Health
    workers: list[WorkerOut] = Field(description="None where it is one process; all other figures are sums.")
    machine: MachineOut
    uptime_seconds: float = Field(description="Since the server started.")
    settings: CacheSettingsOut
    policies: list[str] = Field(
        description="What `PUT /v1/cache/settings` takes as a policy.", examples=[["gds", "lru"]]
    )
    has_admin_key: bool = Field(description="Whether the settings can be changed while the server runs.")
