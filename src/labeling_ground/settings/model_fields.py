"""The fields of the settings that are about models and what computes them; ``fields.py`` has the others."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field

from labeling_ground.settings.fields import Fields
from labeling_ground.settings.machine import below_home, cores_of_this_machine, half_of_the_cores
from labeling_ground.settings.types import (
    ENGINE_NAME,
    OIP_VERSION,
    EngineAddress,
    EngineProtocol,
    Listed,
)
from labeling_ground.types import MODEL_VERSION


class ModelSettings(Fields):
    """The models, and how much of their work is done at the same time."""

    model: str = "auto"
    """Model id. `auto`: the first model of the catalogue whose weights are here, or `classical` where none are. Or
    `module:attribute` of a factory of your own."""
    models: Listed[str] = ()
    """Models that are served, separated by commas; the first is the default: model ids of installed ones, `classical`,
    factories of your own, and `remote` for what the engines at `encoder_url` and `decoder_url` compute. `model`, where
    it is set too, is the default and comes first. The default one is loaded at start and stays; the others are loaded
    at the first request that names them."""
    models_bytes: ByteSize = ByteSize(0)
    """Most memory that the models in this process take together. Before another one is loaded, those that are not in
    use go, the one that was not used for longest first; never the default. `0`: no bound."""
    load_deadline_s: float = Field(300.0, gt=0, le=86_400)
    """Longest time, in seconds, that requests wait for their model to be loaded; then 503. The load is not stopped by
    that, and no longer keeps other models from being loaded."""
    engine: Literal["auto", "torch", "onnx", "onnx-cuda", "openvino"] = "auto"
    """What computes a Segment Anything model. `auto` takes the GPU (`torch` or `onnx-cuda`) where there is one that can
    be used, and otherwise tries at start which installed engine is fastest here. `torch` reads the authors' checkpoint,
    the others ONNX files."""
    engine_device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")
    """Where `torch` computes: `cpu`, `cuda`, or one of several GPUs as `cuda:1`. `auto`: the first GPU where there is
    one that torch can use, else the processor."""
    engine_compile: bool | None = None
    """Whether `torch` compiles the encoder's blocks: the first images wait for that, a minute or several, and later
    ones are faster. Not set: on a GPU only. It needs a C++ compiler on a processor."""
    engine_precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Precision that it computes in. `bf16` (`openvino`, `torch`) is faster on processors and GPUs that have it, `fp16`
    (`torch`, `onnx-cuda`) is for the encoder on GPUs. `auto`: the fastest engine and precision whose masks agree with
    those of fp32 (`engine_least_iou`); what is chosen is remembered. It is part of every cache key, and said in every
    answer with its measured error. See `docs/models.md`."""
    engine_least_iou: float = Field(0.95, ge=0, le=1)
    """How well each mask that is compared must overlap with that of fp32 (intersection over union) for a lower
    precision to be chosen by `auto`, and to pass `models check`."""
    engine_gpu_bytes: ByteSize = ByteSize(8 << 30)
    """Most memory of the GPU that `onnx-cuda` takes: weights, work memory, and embeddings that wait for the next
    click, to which a sixteenth goes. `torch` takes what it needs, and keeps to that sixteenth."""
    engine_features_bytes: ByteSize = ByteSize(512 << 20)
    """Memory of the device for what SAM 3's detector makes of the last images: 111 MB each in fp32. The next phrase on
    one of these takes half as long."""
    engine_floats_bytes: ByteSize = ByteSize(64 << 20)
    """Memory of each model for embeddings in fp32, as its decoder takes them: of 16 images for SAM, of 4 for SAM 2."""
    engine_idle_s: float = Field(60.0, ge=0)
    """Seconds after an image at which `onnx` gives the encoder's work memory back, if no other image came: half a
    gigabyte for MobileSAM. `0`: after each image, which takes a quarter longer then. An encoder that takes more than
    two seconds gives it back after each image."""
    engine_batch: int | None = Field(None, ge=1, le=64)
    """How many images, and how many prompts, one run of `torch`, `onnx` or `onnx-cuda` takes where the model's files
    allow it. Not set: 1 on processors, which gain nothing by more; on a GPU 1 image, whose work memory grows with them
    (`torch`: 8), and 16 prompts."""
    # Not below the caches: what cleans those would throw gigabytes away that were downloaded on purpose.
    models_dir: Path = Field(default_factory=lambda: below_home("XDG_DATA_HOME", ".local/share") / "models")
    """Folder of the models' weights. Several processes of one machine may share it."""
    models_mirror: str | None = None
    """Address to download models from in place of their own hosts: a folder with the files under their names, or an
    address with `{file}` or `{sha256}` in it."""
    encode_workers: int = Field(default_factory=half_of_the_cores, ge=1)
    """Images encoded at the same time; half of the cores by default, so that clicks keep the other half. Cores are
    those of the container, where its CPU quota is less than the machine has."""
    decode_workers: int = Field(default_factory=cores_of_this_machine, ge=1)
    """Prompts decoded at the same time; a Segment Anything click that is alone uses so many threads."""
    draw_workers: int = Field(default_factory=half_of_the_cores, ge=1)
    """Threads that draw masks as PNG and polygons and write large answers, those of clicks first; half of the cores by
    default."""
    value_workers: int = Field(default_factory=half_of_the_cores, ge=1)
    """Threads that seal results for the cache; as many check what its tiers answer, and as many read large requests.
    Half of the cores by default."""
    encode_queue: int = Field(64, ge=1)
    """Images that may wait for the encoder, of each class (interactive, prefetch, job); one more is answered 503 with
    `Retry-After`."""
    engine_failures: int = Field(10, ge=1)
    """Failed calls in a row of one half of the model after which `/health/ready` says `failing`, until one succeeds.
    While it fails it is tried every two seconds."""
    decode_queue: int = Field(256, ge=1)
    """Prompts that may wait for the decoder, of each class; one more is answered 503 with `Retry-After`."""
    detect_workers: int = Field(1, ge=1)
    """Of a model that finds concepts: phrases, exemplars and embeddings computed from trunks at the same time."""
    detect_queue: int = Field(64, ge=1)
    """Those of them that may wait, of each class; one more is answered 503 with `Retry-After`. Clicks do not wait
    behind them."""
    detect_batch: int = Field(8, ge=1, le=64)
    """Most concepts that wait and are looked for together, where the engine gains by that."""
    encode_batch: int = Field(4, ge=1, le=64)
    """Most images of people that wait and are encoded together, where the engine gains by that (`docs/models.md`)."""
    encode_batch_background: int = Field(16, ge=1, le=64)
    """The same for images that nobody waits for: prefetches, and jobs. An image that somebody opens meanwhile waits for
    the whole of it."""
    decode_batch: int = Field(16, ge=1, le=64)
    """The same for prompts, of every class."""
    batch_window_ms: float = Field(5.0, ge=0, le=1000)
    """How long those of a batch that are ready wait for the others, whose image is still being read. Who is alone waits
    for nothing."""

    max_points_per_side: int = Field(64, ge=1, le=256)
    """Finest grid of `everything`: so many points along each side of the image, squared in all."""
    grids: int = Field(1, ge=1)
    """Grids worked on at the same time."""
    grid_queue: int = Field(16, ge=1)
    """Grids that may wait, of each class; one more is answered 503 with `Retry-After`."""
    grid_workers: int = Field(default_factory=lambda given: max(1, int(given.get("decode_workers", 1)) // 2), ge=1)
    """Points of all grids that are with the decoder at the same time; the rest of `decode_workers` is for clicks."""


class EngineSettings(Fields):
    """Engines in other processes."""

    encoder_url: Listed[EngineAddress] = ()
    """Where the encoder answers, if it is not computed in this process: for instance `http://gpu:8080`. TorchServe or
    `labeling-ground engine`. Several addresses, separated by commas, are a pool; so is `dns+http://name:port`, where
    each address that the name leads to is an engine. With it goes `decoder_url`; `model` is then what must be served
    there (`auto`: any). Of several `models` it is the one called `remote`, or else the first. See `docs/scaling.md`."""
    decoder_url: Listed[EngineAddress] = ()
    """Where the decoder answers, for instance `http://cpu:7080`, likewise. May be the same as `encoder_url`."""
    encoder_name: str = Field("sam_vit_h_encode", pattern=ENGINE_NAME)
    """What the encoder is called there, as in `/predictions/sam_vit_h_encode`."""
    decoder_name: str = Field("sam_vit_h_decode", pattern=ENGINE_NAME)
    """What the decoder is called there."""
    encoder_protocol: EngineProtocol = "labeling-ground"
    """What the encoder there speaks: our own protocol (`labeling-ground engine`, TorchServe with our archives), or
    `oip`, the Open Inference Protocol v2 over HTTP (Triton, OpenVINO Model Server, KServe): see
    `docs/open-inference-protocol.md`."""
    decoder_protocol: EngineProtocol = "labeling-ground"
    """The same for the decoder, which may speak another one than the encoder."""
    encoder_oip_version: str = Field("auto", pattern=OIP_VERSION)
    """With `oip`: the served version that is asked for. `auto`: the number that `models archive --for triton` gives to
    the model; `none`: the server has no versions. Any other than `auto` needs `oip_model_version`."""
    decoder_oip_version: str = Field("auto", pattern=OIP_VERSION)
    """The same for the decoder."""
    oip_model_version: str | None = Field(None, pattern=MODEL_VERSION)
    """With `oip`: which model is served there, as `model@digest`, where the servers do not tell. Change the digest
    whenever the model's files or the precision change: nothing else tells the cache."""
    encoder_management_url: Listed[EngineAddress] = ()
    """Where the encoder's workers and queue are told: one address for each of `encoder_url`. Not set: one port above
    it, as with TorchServe."""
    decoder_management_url: Listed[EngineAddress] = ()
    """The same for the decoder."""
    engine_resolve_s: float = Field(5.0, gt=0)
    """Seconds between two look-ups of the names behind `dns+http://`: so late it shows that an engine came or went."""
    engine_load_bound: float = Field(1.25, ge=1, le=100)
    """A decode goes to the engine that already has its image's embedding, unless that one's workers are busy and it has
    so many times its share of all decodes under way; then to the next."""
    engine_tries: int = Field(3, ge=1)
    """Engines of a pool that may begin with one ask. One that cannot be reached does not count; one that breaks off in
    the middle does, because an ask that makes engines fail must not be handed to all of them."""
    engine_wait_s: float = Field(60.0, ge=0)
    """Seconds, at start, that the engines have to become ready; then the server gives up and says why."""
    engine_connect_s: float = Field(2.0, gt=0)
    """Longest time, in seconds, to connect to an engine."""
    encode_deadline_s: float = Field(120.0, gt=0)
    """Longest time, in seconds, for the encoder to take over an image, here or elsewhere, waiting, retries and other
    engines of its pool included; then 503. What has begun is not stopped by that: its result is kept when it comes."""
    decode_deadline_s: float = Field(15.0, gt=0)
    """The same for one prompt."""
    engine_reset_s: float = Field(1.0, gt=0)
    """Seconds between trials whether an engine that failed is back; until then new asks go to the others of its pool,
    or are answered 503."""
    engine_poll_s: float = Field(2.0, gt=0)
    """Seconds between looks at the engines' workers, queues and model version."""
    engine_probe_s: float = Field(2.0, gt=0)
    """Seconds that an engine has to say what it serves, where it had failed, and how many wait there."""
    max_engine_bytes: ByteSize = ByteSize(64 << 20)
    """Largest ask to an engine, and largest answer from one."""
    embedding_store_bytes: ByteSize = ByteSize(512 << 20)
    """`labeling-ground engine`, decoder: budget of the embeddings that it keeps for the clicks that follow; 4 MiB each
    for SAM, 20 for SAM 3, whose trunks take as much. They are in shared memory, of which a container has 64 MiB unless
    it is told otherwise."""
    embedding_store_dir: Path | None = None
    """Folder for them. Not set: one of this user's in `/dev/shm`."""
