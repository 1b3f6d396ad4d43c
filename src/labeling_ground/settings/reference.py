"""The reference of all settings: what ``docs/settings.md`` says, with an example of each."""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import ByteSize

from labeling_ground.settings.fields import ENV_PREFIX
from labeling_ground.settings.settings import Settings

_MADE_AT_START = {
    "memory_bytes": "a quarter of the memory, at most 2 GiB",
    "disk_bytes": "`8GiB`; `0` where `redis_url` is set",
    "cache_dir": "`~/.cache/labeling-ground`",
    "models_dir": "`~/.local/share/labeling-ground/models`",
    "browser_runtime_dir": "`~/.local/share/labeling-ground/browser`",
    "encode_workers": "half of the cores",
    "decode_workers": "all cores",
    "draw_workers": "half of the cores",
    "value_workers": "half of the cores",
    "grid_workers": "half of `decode_workers`",
}
_EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "root_path": "/label",
        "allowed_hosts": "labels.example.org",
        "cors_origins": "https://labels.example.org",
        "label_studio_url": "http://label-studio:8080",
        "label_studio_api_key": "a-token-of-label-studio",
        "sources": "images.example.org,s3://photos",
        "api_keys": "a-long-key-for-ann,a-long-key-for-ben",
        "admin_key": "another-long-key",
        "browser_runtime_dir": "/var/lib/labeling-ground/browser",
        "redis_url": "redis://redis.example.org:6379/0",
        "redis_ca_file": "/etc/ssl/redis-ca.pem",
        "redis_cert_file": "/etc/ssl/labeling-ground.pem",
        "redis_key_file": "/etc/ssl/labeling-ground.key",
        "redis_bytes": "4GiB",
        "memory_bytes": "2GiB",
        "disk_bytes": "8GiB",
        "cache_dir": "/var/cache/labeling-ground",
        "max_age_s": "86400",
        "engine_batch": "4",
        "engine_compile": "false",
        "trace_file": "/var/lib/labeling-ground/trace",
        "models": "sam-vit-h,mobile-sam,classical",
        "models_dir": "/var/lib/labeling-ground/models",
        "models_mirror": "https://files.example.org/sam/",
        "encoder_url": "http://gpu:8080",
        "decoder_url": "http://cpu:7080",
        "oip_model_version": "sam-vit-b@0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "encoder_management_url": "http://gpu:8081",
        "decoder_management_url": "http://cpu:7081",
        "cvat_labels": "screw,hex nut",
        "nuclio_url": "http://nuclio:8070",
        "embedding_store_dir": "/dev/shm/labeling-ground",  # noqa: S108 -- an example in a sentence
    }
)
"""Of the settings that have no default, or one that differs from machine to machine."""


def example_of(name: str) -> str:
    """A value that a setting can have, as one writes it in a variable."""
    field = Settings.model_fields[name]
    if field.default_factory is not None and field.annotation is int:
        return "2"
    return _EXAMPLES.get(name) or _shown(field.default).strip("`")


_MEMORY = f"""
## How much memory a server takes

The cache keeps to its budgets; what is worked on comes on top. As a rule of thumb, give a server

- 300 MB for itself, and what its engine takes (`docs/models.md`),
- `{ENV_PREFIX}MEMORY_BYTES`, and `{ENV_PREFIX}WRITE_QUEUE_BYTES` for the disk tier and for Redis while they are slow,
- 16 bytes for each of `{ENV_PREFIX}MAX_PIXELS_AT_ONCE`: 800 MB by default. An image within the limits can take that
  much, however few bytes its file has;
- the files that are being sent, at most `{ENV_PREFIX}MAX_BYTES_IN_FLIGHT`.

`bench/results/memory.md` shows what eight of the worst files at once took.
"""


def as_markdown() -> str:
    """The reference of all settings, for ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Each is an environment variable; some are options of `labeling-ground serve` too. They are read at start.",
        "An empty variable, or one of blanks, is not set, and blanks around a value do not count. A variable that",
        f"begins with `{ENV_PREFIX}` and is not in this table stops the start, because a misspelled",
        f"`{ENV_PREFIX}API_KEYS` would open the server; so does a value that cannot be used. The sentence says what",
        "would be right.",
        "",
        "This page is written by `make docs` from `fields.py` and `model_fields.py` in `labeling_ground/settings/`.",
        "",
        "| variable | default | what it does |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = _MADE_AT_START.get(name) or _shown(field.default)
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {text} |")
    return "\n".join(lines) + "\n" + _MEMORY


def _shown(default: object) -> str:
    if isinstance(default, ByteSize):
        return f"`{default.human_readable().replace('.0', '')}`" if default else "`0`"
    if default is None or default in ((), ""):
        return "not set"
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"
