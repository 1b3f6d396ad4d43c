"""All settings, in one frozen value that is read once, at start.

The sentence under each field is its documentation: ``make docs`` writes ``docs/settings.md`` from here.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ByteSize, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENV_PREFIX = "LABELING_GROUND_"


def _memory_of_this_machine() -> int:
    """Bytes of memory that this process may use: the container's limit where there is one."""
    total = 8 << 30
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _default_memory() -> ByteSize:
    return ByteSize(min(2 << 30, _memory_of_this_machine() // 4))


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "labeling-ground"


def _default_models_dir() -> Path:
    # Not below the caches: what cleans those would throw gigabytes away that were downloaded on purpose.
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "labeling-ground" / "models"


def _default_workers() -> int:
    return max(1, (os.cpu_count() or 1) // 2)


class Settings(BaseSettings):
    """What an operator can choose. Every field is also an environment variable, ``LABELING_GROUND_`` + its name."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    # --- the server ---------------------------------------------------------------------------------------------
    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only; `0.0.0.0` opens the server to the network."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and says which."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """One line a request, for people (`text`) or for machines (`json`); `auto` is `text` on a terminal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is worth a log line."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Web origins, separated by commas, whose pages may call this server from a browser. None by default."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys, separated by commas, one of which every call must then carry (`Authorization: Bearer …` or `X-API-Key`).
    Each key has a namespace of its own in the cache. None by default: whoever reaches the port may use the server."""
    admin_key: SecretStr | None = None
    """A key with which `DELETE /v1/cache` purges all namespaces. With `api_keys` set, each other key purges its own
    namespace only; without them, nobody else purges everything at once."""
    shutdown_grace_s: float = Field(30.0, ge=0)
    """Seconds that requests in flight have to finish after the server was told to stop."""

    # --- limits, each checked before the work that it bounds -------------------------------------------------------
    max_image_bytes: ByteSize = ByteSize(32 << 20)
    """Largest image file."""
    max_image_pixels: int = Field(50_000_000, ge=1)
    """Largest image, in pixels (width × height), known from the file's header before it is decoded."""
    max_points: int = Field(256, ge=1)
    """Most points in one prompt, and most clicks in one session."""
    max_prompts: int = Field(64, ge=1)
    """Most prompts in one request."""
    max_body_bytes: ByteSize = ByteSize(1 << 20)
    """Largest body of a request that carries no image."""
    max_header_bytes: ByteSize = ByteSize(64 << 10)
    """Largest request line and headers together; more is answered 431."""
    max_requests: int = Field(512, ge=1)
    """Most requests in flight; one more is answered 503 with `Retry-After`."""
    max_bytes_in_flight: ByteSize = ByteSize(1 << 30)
    """Most bytes that the bodies of all requests in flight hold together; beyond that 503 with `Retry-After`."""
    receive_timeout_s: float = Field(20.0, gt=0)
    """Longest silence, in seconds, while a client sends a body, and longest time for its headers; then 408."""

    # --- the cache ---------------------------------------------------------------------------------------------------
    cache_mode: Literal["parallel", "first"] = "parallel"
    """`parallel` looks up and queues the prediction at the same moment; `first` predicts only after a miss."""
    memory_bytes: ByteSize = Field(default_factory=_default_memory)
    """Budget of the memory tier. By default a quarter of this machine's memory, at most 2 GiB."""
    disk_bytes: ByteSize = ByteSize(8 << 30)
    """Budget of the disk tier; 0 switches it off."""
    cache_dir: Path = Field(default_factory=_default_cache_dir)
    """Folder of the disk tier. Several processes of one machine may share it."""
    idle_s: float = Field(1800.0, gt=0)
    """Seconds after its last use at which an entry is deleted. Every use starts the time anew."""
    max_age_s: float | None = Field(None, gt=0)
    """Seconds after which an entry is deleted however much it is used; not set: never."""
    policy: str = "gds"
    """Who goes first when the budget is reached: `gds` (GreedyDual-Size by cost density), `lru`, or your own
    `module:attribute`."""
    done_weight: float = Field(0.1, gt=0, le=1)
    """Weight, under `gds`, of the entries of an image that no client works on any more."""
    prefetch_per_client: int = Field(4, ge=0)
    """Images that one client's prefetches can hold before they were opened; older ones count as done."""
    precision: Literal["fp16", "fp32"] = "fp16"
    """How an embedding's floats are stored: `fp16` halves the bytes, `fp32` keeps every bit."""
    mask_window_ms: float = Field(2.0, ge=0)
    """A queued mask prediction does not start before its look-up had this long to answer (or has answered)."""
    embedding_window_ms: float = Field(5.0, ge=0)
    """The same for embeddings, where the look-up's own p99 counts if larger, up to a third of the encoder's time."""
    lookup_deadline_ms: float = Field(100.0, gt=0)
    """A look-up that takes longer is a miss; it is left to finish, and what it finds is kept for the next ask."""
    breaker_failures: int = Field(5, ge=1)
    """Failures in a row after which a tier is left alone for a while."""
    breaker_reset_s: float = Field(5.0, gt=0)
    """That while, in seconds."""

    # --- the model ---------------------------------------------------------------------------------------------------
    model: str = "auto"
    """Model id. `auto`: the first model of the catalogue whose weights are here, or `classical` where none are. Or
    `module:attribute` of a factory of your own."""
    engine: Literal["auto", "onnx", "openvino"] = "auto"
    """What computes a Segment Anything model. `auto` tries at start which installed one is fastest here."""
    engine_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision that it computes in. `bf16` is several times faster on processors that have it, part of every cache
    key, and said in every answer with its measured error."""
    models_dir: Path = Field(default_factory=_default_models_dir)
    """Folder of the models' weights. Several processes of one machine may share it."""
    models_mirror: str | None = None
    """Address to download models from in place of their own hosts: a folder with the files under their names, or an
    address with `{file}` or `{sha256}` in it."""
    encode_workers: int = Field(default_factory=_default_workers, ge=1)
    """Images encoded at the same time; half of the cores by default, so that clicks keep the other half."""
    decode_workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Prompts decoded at the same time; a Segment Anything click that is alone uses so many threads."""
    encode_queue: int = Field(64, ge=1)
    """Images that may wait for the encoder; one more is answered 503 with `Retry-After`."""
    decode_queue: int = Field(256, ge=1)
    """Prompts that may wait for the decoder; one more is answered 503 with `Retry-After`."""

    # --- sessions ----------------------------------------------------------------------------------------------------
    max_sessions: int = Field(10_000, ge=1)
    """Sessions kept; the one idle for longest makes room for a new one. They too end after `idle_s`."""
    session_refine: bool = True
    """A click that follows another one in a session refines the last mask (its low-res logits are the mask input)."""

    @field_validator("cors_origins", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


_MADE_AT_START = {
    "memory_bytes": "a quarter of the memory, at most 2 GiB",
    "cache_dir": "`~/.cache/labeling-ground`",
    "models_dir": "`~/.local/share/labeling-ground/models`",
    "encode_workers": "half of the cores",
    "decode_workers": "all cores",
}


def as_markdown() -> str:
    """The reference of all settings, for ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Each is an environment variable; some are options of `labeling-ground serve` too. They are read at start.",
        "This page is written by `make docs` from `src/labeling_ground/settings.py`.",
        "",
        "| variable | default | what it does |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = _MADE_AT_START.get(name) or _shown(field.default)
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {text} |")
    return "\n".join(lines) + "\n"


def _shown(default: object) -> str:
    if isinstance(default, ByteSize):
        return f"`{default.human_readable().replace('.0', '')}`" if default else "`0`"
    if default is None or default == ():
        return "not set"
    return f"`{default}`"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
