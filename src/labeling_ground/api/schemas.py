"""The JSON of the API, as people read it at /docs."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from labeling_ground import key as keys
from labeling_ground.types import Priority

Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Pair = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
STRETCH = r"^\d{1,3}(\.\d{1,2})?,\d{1,3}(\.\d{1,2})?$"
"""Two percentiles, as a client writes them."""
SHA256 = "^[0-9a-fA-F]{64}$"
"""Digests as they are taken; keys have them in lower case."""
IMAGE_ID = f"^{keys.IMAGE_ID.replace('a-f', 'a-fA-F')}$"
PREDICTION_ID = "^[0-9a-fA-F]{32}$"

EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAwAQAAAACJMEGyAAAAYklEQVR4Ab2PwQ2AMAwDg3jwZISOmo7WUToCTx5IxkmEJwD6qE9JHLdmvxxHxazA"
    "TNqBM6EBV4IDNURFZ2kJGASayibYonKw9RZos0DpFlmdWeaEUGvPm/UL2ma2OFT60X0DEytubLVsroMAAAAASUVORK5CYII="
)
"""A PNG of 64 × 48 pixels, a white disc on black: small enough to stand in an example, so that all examples work."""
EXAMPLE_ID = "674a53aac44df050de90c9bb957a5f50c0f61fbba0b3e60e8ed61fd75d618c8c"
_EXAMPLE_PREDICTION = "5f3c1d9be0a4478c9a62d0f7c1b8e344"

CLIENT_ID: dict[str, Any] = {
    "name": "X-Client-Id",
    "in": "header",
    "required": False,
    "description": "Who works: a tool, an annotator. The cache keeps what each works on, and answers stay the same.",
    "schema": {"type": "string"},
    "example": "annotator-7",
}
"""The header as a parameter of an operation. Read by hand, so it is added to the documentation by hand."""
PRIORITY: dict[str, Any] = {
    "name": "X-Priority",
    "in": "header",
    "required": False,
    "description": "How urgent it is, where it has to wait for the model: `interactive` goes before `prefetch`, that "
    "before `job`. Without it a request is of its route's class, and never of a better one: somebody waits for an "
    "image or a click (`interactive`); `wait=false` is a `prefetch`, and so are the clicks of an `everything`. Work in "
    "bulk should say `job`. What is asked for again more urgently is lifted.",
    "schema": {"type": "string", "enum": [priority.label for priority in sorted(Priority)]},
    "example": "job",
}
"""The same for the class of a request, which the middleware reads."""


class _In(BaseModel):
    """What machines send: strict, so that a misspelt field is an error and not a silently different mask."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PointIn(_In):
    """One click, in pixels of the original image."""

    x: Coordinate = Field(examples=[32], description="Column; 0 is the left edge, and it is less than the width.")
    y: Coordinate = Field(examples=[24], description="Row; 0 is the upper edge, and it is less than the height.")
    label: int = Field(1, ge=0, le=1, description="1 on the object, 0 off it.")


class MaskRef(_In):
    """A candidate of an earlier prediction, as the mask to start from."""

    prediction_id: Annotated[str, AfterValidator(str.lower)] = Field(
        pattern=PREDICTION_ID, description="`prediction_id` of that answer.", examples=[_EXAMPLE_PREDICTION]
    )
    index: int = Field(0, ge=0, le=2, description="Which of its masks; 0 is the best.")


class PromptIn(_In):
    """One object: points, at most one box, and optionally an earlier mask to start from."""

    points: Annotated[list[PointIn], Field(fail_fast=True)] = Field(
        default_factory=list, description="In any order. Without a box or a mask, one at least has label 1."
    )
    box: list[Coordinate] | None = Field(
        None,
        min_length=4,
        max_length=4,
        examples=[[10, 8, 54, 40]],
        description="Two opposite corners, `[x0, y0, x1, y1]`. What reaches over the image's edge is cut off.",
    )
    mask_input: MaskRef | str | None = Field(
        None,
        description="By reference to an earlier prediction; or by value: base64 of 256 × 256 little-endian "
        "float16 or float32 low-res logits.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "PromptIn":
        if type(self) is PromptIn and not self.says_something:
            raise ValueError("the prompt is empty: give points, a box or a mask_input")
        return self

    @property
    def says_something(self) -> bool:
        """Whether there is anything to go by."""
        return bool(self.points) or self.box is not None or self.mask_input is not None


class MasksRequest(PromptIn):
    """One prompt directly in the body, or several under `prompts`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"points": [{"x": 32, "y": 24, "label": 1}]},
                {
                    "box": [10, 8, 54, 40],
                    "points": [{"x": 12, "y": 10, "label": 0}],
                    "format": "png",
                },
                {
                    "prompts": [
                        {"points": [{"x": 32, "y": 24, "label": 1}]},
                        {"box": [10, 8, 54, 40]},
                    ]
                },
            ]
        }
    )

    prompts: Annotated[list[PromptIn], Field(fail_fast=True)] | None = Field(
        None, min_length=1, description="Several objects in one request."
    )
    multimask: bool = Field(True, description="Up to three nested candidates for each prompt, or the best one.")
    format: Literal["rle", "png", "polygons"] = Field(
        "rle", description="COCO RLE, base64 of a 1-bit PNG, or polygons."
    )
    model: str | None = Field(None, description="A model id of `/v1/models`; the default one if left out.")

    @model_validator(mode="after")
    def _one_way(self) -> "MasksRequest":
        if self.prompts is not None and self.says_something:
            raise ValueError("give one prompt directly, or several under 'prompts', not both")
        if self.prompts is None and not self.says_something:
            raise ValueError("the prompt is empty: give points, a box or a mask_input")
        return self


class Answered(BaseModel):
    """What every answer of a model says about where it came from."""

    image_id: str = Field(description="SHA-256 of the image file.", examples=[EXAMPLE_ID])
    model: str = Field(examples=["classical"])
    model_version: str = Field(
        description="Model, weights, preprocessing and precision: part of every cache key.",
        examples=["classical@3f786850e387550f"],
    )
    outcome: Literal["hit", "joined", "recomputed", "miss"] = Field(
        description="`hit`: it was in the cache. `joined`: waited for another's computation. `recomputed`: it was "
        "evicted and computed again from the kept image. `miss`: computed for this ask."
    )
    seconds: float = Field(description="From the ask to the answer, inside the server.", examples=[0.0004])
    note: str | None = Field(None, description="What to know of this model's quality, and of how the image was read.")


_USE_PREVIEW = (
    "Whether browsers may draw the file in another way than it is segmented (orientation, frames, transparency), or "
    "not at all (TIFF): a page then shows `GET /v1/images/{image_id}/preview`."
)


class ImageAtUrl(_In):
    """An image that the server shall fetch."""

    url: str = Field(
        min_length=1,
        max_length=8192,
        description="Address of the image file, at a host that the operator has named (`sources`).",
        examples=["https://images.example.org/cat.jpg"],
    )


class ImageOut(Answered):
    """An image that is encoded."""

    width: int = Field(description="Columns of what is segmented: upright, EXIF orientation applied.")
    height: int = Field(description="Rows of it.")
    use_preview: bool = Field(description=_USE_PREVIEW)


class ImageQueued(BaseModel):
    """A prefetch that was taken on."""

    image_id: str
    model: str
    model_version: str
    queued: bool = Field(description="`false`: it was encoded already.")
    note: str | None = None


class ImageStateOut(BaseModel):
    """What is known of an image."""

    image_id: str
    known: bool = Field(True, description="Always `true`: of an image that is not known the answer is 404.")
    encoded: bool = Field(description="Whether the next click needs no encoder.")
    encoding: bool = Field(description="Whether it is being encoded by this server now, or waits for its turn.")
    place: int | None = Field(
        None, description="Where it waits in the encoder's queue: 1 is the next. Left out where it does not wait."
    )
    seconds_expected: float | None = Field(
        None,
        description="After so many seconds it is probably encoded. Left out where that is not under way, or not "
        "known yet.",
    )
    width: int = Field(description="Columns of what is segmented: upright, EXIF orientation applied.")
    height: int = Field(description="Rows of it.")
    use_preview: bool = Field(description=_USE_PREVIEW)
    model: str
    model_version: str
    note: str | None = None


class MaskOut(BaseModel):
    """One candidate, in the format that was asked for."""

    score: float = Field(description="Predicted IoU, 0 to 1: the model's own guess.", examples=[0.93])
    area: int = Field(description="Pixels.", examples=[877])
    bbox: list[int] = Field(description="COCO style: x, y, width, height.", examples=[[13, 11, 39, 27]])
    rle: dict[str, Any] | None = Field(None, description='COCO RLE: `{"size": [height, width], "counts": "…"}`.')
    png: str | None = Field(None, description="Base64 of a 1-bit PNG in the image's size.")
    polygons: list[list[list[float]]] | None = Field(
        None,
        description="Rings of `[x, y]` along pixel edges, within 1 pixel: outer ones clockwise on screen, holes "
        "counter-clockwise.",
    )


class TimingOut(BaseModel):
    """Seconds; `encode` and `decode` are there when the model had to work."""

    lookup: float | None = None
    encode: float | None = None
    decode: float | None = None


class PredictionOut(BaseModel):
    """The answer to one prompt."""

    prediction_id: str = Field(
        description="Names this prediction as a `mask_input` of later prompts.", examples=[_EXAMPLE_PREDICTION]
    )
    outcome: Literal["hit", "joined", "recomputed", "miss"]
    masks: list[MaskOut] = Field(description="Best first.")
    scores: list[float]
    timing: TimingOut


class MasksOut(Answered):
    """One answer a prompt under `predictions`; a single prompt's masks and scores stand at the top as well."""

    width: int
    height: int
    predictions: list[PredictionOut] | None = None
    prediction_id: str | None = None
    masks: list[MaskOut] | None = None
    scores: list[float] | None = None
    timing: TimingOut


class EverythingRequest(_In):
    """All of it is optional: without a body, the model's own defaults count."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"points_per_side": 8, "format": "polygons"}, {}]})

    points_per_side: int | None = Field(
        None,
        ge=1,
        le=256,
        examples=[8],
        description="The grid has so many points along each side; the server has a limit. Segment Anything: 32, "
        "`classical`: 16.",
    )
    pred_iou_thresh: Coordinate | None = Field(
        None,
        ge=0,
        le=1,
        description="A mask is kept if its score is above this; 0 lets all pass. SAM: 0.88, SAM 2: 0.8, `classical`, "
        "whose scores mean something else: 0.35.",
    )
    stability_score_thresh: Coordinate | None = Field(
        None,
        ge=0,
        le=1,
        description="A mask is kept if moving its threshold leaves at least this share of its area; 0 lets all pass. "
        "Segment Anything: 0.95, `classical`: 0.9.",
    )
    stability_score_offset: Coordinate | None = Field(
        None, ge=0, le=100, description="By so much the threshold on logits is moved up and down for that. 1."
    )
    box_nms_thresh: Coordinate | None = Field(
        None,
        ge=0,
        le=1,
        description="Of two masks whose boxes have a larger IoU than this, the better-scored one stays. 0.7.",
    )
    min_mask_region_area: int | None = Field(
        None,
        ge=0,
        le=1_000_000_000,
        description="Holes and islands of fewer pixels are filled and removed in the end; masks that then look alike "
        "are reduced to one. 0: masks stay as they are, which is the default.",
    )
    format: Literal["rle", "png", "polygons"] = Field(
        "rle", description="COCO RLE, base64 of a 1-bit PNG, or polygons."
    )
    model: str | None = Field(None, description="A model id of `/v1/models`; the default one if left out.")


class FoundMaskOut(MaskOut):
    """A mask of «segment everything», in the format that was asked for."""

    id: int = Field(description="Names the mask within this answer or stream.", examples=[1536])
    stability: float = Field(description="How little the mask depends on its threshold, 0 to 1.", examples=[0.97])
    point: list[float] = Field(description="The grid's point that gave it, in pixels.", examples=[[32.5, 24.5]])


class EverythingOptionsOut(BaseModel):
    """The options that were in force."""

    points_per_side: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    min_mask_region_area: int


class EverythingOut(Answered):
    """All masks of an image, best first."""

    width: int
    height: int
    points: int = Field(description="Points of the grid.", examples=[1024])
    options: EverythingOptionsOut
    masks: list[FoundMaskOut]
    timing: TimingOut


class EverythingLine(BaseModel):
    """One line of the stream. Which fields it has depends on `event`."""

    model_config = ConfigDict(extra="allow")

    event: Literal["start", "progress", "end", "problem"] = Field(
        description="`start`: what is asked of which model. `progress`: the grid is done up to `done` points. `end`: "
        "the answer. `problem`: it failed; the fields are those of a problem body."
    )
    done: int | None = Field(None, description="Points that were looked at.")
    points: int | None = Field(None, description="Points of the grid.")
    masks: list[FoundMaskOut] | None = Field(
        None,
        description="Masks that were not sent before. In `end` also those that changed since, as their small regions "
        "went: they replace what was sent under the same `id`.",
    )
    standing: list[int] | None = Field(
        None,
        description="Ids of all masks that would be the answer if the grid ended here, best first. Provisional in "
        "`progress`: a better mask may still displace one, and one that was displaced may come back. Final in `end`.",
    )


class Purged(BaseModel):
    """What a purge did."""

    deleted: int = Field(description="Entries that went, counted once per tier.", examples=[4])


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


class EngineOut(BaseModel):
    """An engine in another process, as last seen. `null` is what is not known."""

    engine: str = Field(examples=["decoder"])
    model_version: str
    breaker: str = Field(description="`closed`: it answers. `open`: it failed, and is left alone for a moment.")
    workers: int | None = Field(description="Asks that it answers at the same time.")
    queue: int | None = Field(description="Asks that wait there.")
    engine_seconds: float | None = Field(description="What it says that an ask takes, on average of late.")
    round_trip_seconds: float | None = Field(description="The same with the way there and back.")
    asks: int
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
    budgets: list[ShadowCacheOut]


class SpreadOut(BaseModel):
    """How many entries in memory are not older, or not unused for longer, than so many seconds; by a sample."""

    seconds: list[float] = Field(examples=[[10, 60]])
    entries: list[int] = Field(description="One for each of `seconds`, each including the one before.")


class LatencyRow(BaseModel):
    """How long answers of one kind and outcome took."""

    kind: Literal["embedding", "mask", "everything"] = Field(
        description="What was asked for: an image to be encoded, masks, or all masks of an image."
    )
    outcome: Literal["hit", "joined", "recomputed", "miss"]
    answers: list[int] = Field(
        description="How many took at most each of `seconds`, each including the one before; then how many in all."
    )
    total_seconds: float = Field(description="Of all of them together.")


class LatencyOut(BaseModel):
    """Seconds from a request's first byte to its answer's last, upload included, since the server started."""

    seconds: list[float] = Field(examples=[[0.001, 0.0025]])
    rows: list[LatencyRow] = Field(description="Only what was asked for.")


class Health(BaseModel):
    """Alive or ready, and if not, why."""

    status: Literal["ok", "degraded", "starting", "failing"] = Field(
        description="`ok`. `degraded`: a cache tier fails, and answers are right, only slower; or "
        "a model fails that is not the default one. `starting`: the model is "
        "being tried out. `failing`: the model does not answer, or its last "
        "`engine_failures` calls failed."
    )
    checks: dict[str, str] = Field(default_factory=dict, examples=[{"model": "ok", "disk": "ok"}])


class CacheSettingsIn(_In):
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


class CacheOut(LookupsOut):
    """The figures of all namespaces since the server started: numbers only, no names."""

    kinds: dict[str, LookupsOut] = Field(description="By kind of entry: embedding, mask, everything.")
    predictions: dict[str, dict[str, int]] = Field(
        description="What became of queued predictions, by kind: used, withdrawn (a hit came first), wasted."
    )
    tiers: list[TierOut]
    queues: dict[str, QueueOut] = Field(description="`encoder`, `decoder` and `grids`.")
    engines: list[EngineOut] = Field(
        description="Engines in other processes; none if the model is computed in this one."
    )
    flights: int = Field(description="Computations under way.")
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
    uptime_seconds: float = Field(description="Since the server started.")
    settings: CacheSettingsOut
    policies: list[str] = Field(
        description="What `PUT /v1/cache/settings` takes as a policy.", examples=[["gds", "lru"]]
    )
    has_admin_key: bool = Field(description="Whether the settings can be changed while the server runs.")
    model: str
    model_version: str
    note: str | None = None


class DecoderOut(BaseModel):
    """A decoder that a client can run itself, on an image's embedding."""

    family: Literal["sam", "sam2", "efficient-sam"] = Field(
        description="Which prompts it reads, and how its logits lie over the image."
    )
    sha256: str = Field(description="Digest of the file.")
    bytes: int = Field(examples=[16501323])


class ModelOut(BaseModel):
    """One model that is served."""

    id: str = Field(examples=["classical"])
    version: str | None = Field(
        None, examples=["classical@3f786850e387550f"], description="Not there for one that is not loaded."
    )
    default: bool = Field(description="Whether it answers where a request names no model.")
    loaded: bool = Field(description="If not, the first request that names it waits until it is.")
    capabilities: list[Literal["points", "box", "mask", "text", "exemplars"]] = Field(
        [], description="What its prompts can hold. Not there where that is known only once it is loaded."
    )
    licence: str | None = Field(
        None, examples=["Apache-2.0"], description="Of its weights, an SPDX identifier; not there where nobody said."
    )
    embedding_bytes: int | None = Field(None, description="What one image's embedding takes in the cache, at most.")
    memory_bytes: int | None = Field(
        None,
        description="What it takes when loaded: measured, or before its first load the size of its files.",
    )
    engine: str | None = Field(None, description="What computes it and why that, where there was a choice.")
    decoder: DecoderOut | None = Field(
        None, description="What `GET /v1/models/{model}/decoder` gives; not there for models without such a file."
    )
    note: str | None = None


class ModelsOut(BaseModel):
    """All models that are served."""

    models: list[ModelOut]


# --- session style: lenient about extra fields, which existing pages send ---------------------------------------


class _Session(BaseModel):
    model_config = ConfigDict(extra="ignore")

    session_id: str = Field(
        min_length=1,
        max_length=512,
        examples=["annotator-7/photo-12"],
        description="Any name. Two people who use the same one share clicks, so put who works into it.",
    )


class SessionImage(_Session):
    """Open an image in a session."""

    image: str = Field(
        min_length=1,
        description="The image file in base64, padded or not, also URL-safe, with or without a `data:` prefix and line "
        "breaks.",
        examples=[EXAMPLE_IMAGE],
    )
    stretch: str | None = Field(
        None,
        pattern=STRETCH,
        examples=["0.5,99.5"],
        description="Two percentiles between which the image's values are spread over the full range: for dark 16-bit "
        "images.",
    )


class SessionClick(_Session):
    """Add a click, or several."""

    points: Annotated[list[Coordinate], Field(fail_fast=True)] | Annotated[list[Pair], Field(fail_fast=True)] = Field(
        min_length=1,
        examples=[[32, 24]],
        description="`[x, y]` in pixels of the image, or several: `[x, y, x, y]` or `[[x, y], [x, y]]`.",
    )
    labels: Annotated[list[int], Field(fail_fast=True)] | None = Field(
        None,
        examples=[[1]],
        description="One for each pair: 1 on the object (the default), 0 off it.",
    )


class SessionRect(_Session):
    """Draw a box. Field names are those of the existing labeling page."""

    startX: Coordinate = Field(examples=[10])  # noqa: N815
    startY: Coordinate = Field(examples=[8])  # noqa: N815
    endX: Coordinate = Field(examples=[54])  # noqa: N815
    endY: Coordinate = Field(examples=[40])  # noqa: N815


class SessionOnly(_Session):
    """Just the session."""


class SessionImageOut(BaseModel):
    """The image is open."""

    message: str = Field(description="Always this sentence.", examples=["Images received successfully"])
    image_id: str = Field(examples=[EXAMPLE_ID])
    width: int
    height: int
    model: str
    model_version: str
    outcome: Literal["hit", "joined", "recomputed", "miss"]
    note: str | None = None


class SessionPoint(BaseModel):
    """One click of a session."""

    x: float
    y: float
    label: int


class SessionMaskOut(BaseModel):
    """The mask for the session's clicks so far."""

    masks: str = Field(description="Base64 of a 1-bit PNG in the image's size; white is the object.")
    message: str = Field(description="Always this sentence.", examples=["Images processed successfully"])
    points: list[SessionPoint] = Field(description="The session's clicks so far, in the order in which they came.")
    box: list[float] | None = Field(None, description="The session's box, if one was drawn.")
    score: float | None = Field(None, description="Left out, as is `outcome`, when nothing is pointed at.")
    outcome: Literal["hit", "joined", "recomputed", "miss"] | None = None
    image_id: str = Field(examples=[EXAMPLE_ID])
    prediction_id: str | None = Field(None, examples=[_EXAMPLE_PREDICTION])
    model: str
    model_version: str
    note: str | None = None


class SessionDone(BaseModel):
    """The clicks are forgotten; the image stays open."""

    message: str = Field(description="Always this sentence.", examples=["Finish successfully"])
    points: list[SessionPoint] = Field(default_factory=list, description="None are left.")
