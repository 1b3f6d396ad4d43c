"""The JSON of models and of health."""

from typing import Literal

from pydantic import BaseModel, Field

from labeling_ground.sam.family import Family


class Health(BaseModel):
    """Alive or ready, and if not, why."""

    status: Literal["ok", "degraded", "starting", "failing", "draining"] = Field(
        description="`ok`. `degraded`: a cache tier fails, and answers are right, only slower; or "
        "a model fails that is not the default one. `starting`: the model is "
        "being tried out. `failing`: the model does not answer, or its last "
        "`engine_failures` calls failed. `draining`: the server was told to stop, and ends what runs."
    )
    checks: dict[str, str] = Field(default_factory=dict, examples=[{"model": "ok", "disk": "ok"}])


class DecoderOut(BaseModel):
    """A decoder that a client can run itself, on an image's embedding."""

    family: Family = Field(description="Which prompts it reads, and how its logits lie over the image.")
    sha256: str = Field(description="Digest of the file.")
    bytes: int = Field(examples=[16501323])


class VerdictOut(BaseModel):
    """What was found of one engine in one precision on the server's machine."""

    engine: str = Field(examples=["openvino"])
    precision: str = Field(examples=["bf16"])
    encode_s: float = Field(description="Seconds for one image.")
    decode_s: float = Field(description="Seconds for one click.")
    masks: int = Field(description="How many masks were compared with those of fp32.")
    least_iou: float = Field(description="The least overlap (intersection over union) of one with that of fp32.")
    mean_iou: float = Field(description="The mean of these.")
    failed: str = ""
    embedding: Literal["", "int8"] = Field(
        "", description="`int8`: compared were masks of embeddings in int8, with those of the same in fp16."
    )
    source: Literal["load", "check"] = Field(
        description="`load`: compared on two drawn pictures; `check`: on photographs, by `models check`."
    )


class ModelOut(BaseModel):
    """One model that is served."""

    id: str = Field(examples=["classical"])
    name: str = Field(
        examples=["classical"],
        description="What the settings call it. Requests may name it so; a factory's model has no id before it is "
        "loaded.",
    )
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
    precision: str | None = Field(
        None, examples=["fp32"], description="In which it computes, where that is known: part of its version."
    )
    verdicts: list[VerdictOut] = Field([], description="Engines and precisions that were compared on this machine.")
    decoder: DecoderOut | None = Field(
        None, description="What `GET /v1/models/{model}/decoder` gives; not there for models without such a file."
    )
    failing: dict[str, str] = Field({}, description="Its halves that fail, and why; not there while none does.")
    note: str | None = None


class ModelsOut(BaseModel):
    """All models that are served."""

    models: list[ModelOut]
