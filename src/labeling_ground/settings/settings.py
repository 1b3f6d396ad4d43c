"""All settings in one value, and the checks that hold for many of them."""

import sys
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ByteSize, ValidationInfo, field_validator, model_validator

from labeling_ground.errors import BadSettings
from labeling_ground.settings.fields import (
    ENV_PREFIX,
    LimitSettings,
    RedisSettings,
    ServerSettings,
    SessionSettings,
    SourceSettings,
    TierSettings,
)
from labeling_ground.settings.machine import NOWHERE
from labeling_ground.settings.model_fields import EngineSettings, ModelSettings
from labeling_ground.settings.types import whole_size

LONGEST_S = 1e9
"""Seconds, or milliseconds, that no time is longer than: thirty years. Timers and databases overflow beyond it."""


class Settings(
    # pydantic collects fields from the last base to the first: the order of the documentation, in which a default can
    # follow from what stands before it.
    SessionSettings,
    EngineSettings,
    ModelSettings,
    TierSettings,
    RedisSettings,
    SourceSettings,
    LimitSettings,
    ServerSettings,
):
    """What an operator can choose. Every field is also an environment variable, ``LABELING_GROUND_`` + its name.

    An empty text is a setting that is not set, and blanks around one do not count. Commands and servers read them with
    ``read_settings``, which says what is wrong in sentences.
    """

    @model_validator(mode="before")
    @classmethod
    def _empty_is_not_set(cls, given: Any) -> Any:
        """Compose files, shells and unit files cannot leave a variable out: they hand it on empty."""
        if not isinstance(given, dict):
            return given
        texts = {name: value.strip() if isinstance(value, str) else value for name, value in given.items()}
        return {name: value for name, value in texts.items() if value != ""}

    @property
    def share_of_each(self) -> float | None:
        """``tenant_share`` where there are several tenants; ``None`` where there is one."""
        tenants = len(self.api_keys) + (self.admin_key is not None) if self.api_keys else 1
        return self.tenant_share if tenants > 1 else None

    @field_validator("*", mode="before")
    @classmethod
    def _whole_size(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        is_size = isinstance(value, str) and ByteSize in (field.annotation, *get_args(field.annotation))
        return whole_size(str(value)) if is_size else value

    @field_validator("*", mode="after")
    @classmethod
    def _within_reason(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, float) and (info.field_name or "").endswith(("_s", "_ms")) and value > LONGEST_S:
            raise ValueError(f"should be at most {LONGEST_S:.0f}")
        if isinstance(value, int) and value > sys.maxsize:
            raise ValueError(f"should be at most {sys.maxsize}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _home_expanded(cls, value: Any) -> Any:
        """Nobody else does that in a unit file, or in one with variables for a container."""
        try:
            return value.expanduser() if isinstance(value, Path) else value
        except RuntimeError:
            raise ValueError("this user has no home directory") from None

    @field_validator("adapters", mode="after")
    @classmethod
    def _one_choice(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for alone in ("all", "none"):
            if alone in value and len(value) > 1:
                raise ValueError(f"{alone!r} stands alone; or list some of the others")
        return value

    @property
    def served_models(self) -> tuple[str, ...]:
        """What is served, as it was named, the default first."""
        first = () if self.model == "auto" and self.models else (self.model,)
        return tuple(dict.fromkeys((*first, *self.models)))

    def folder(self, name: Literal["cache_dir", "models_dir", "browser_runtime_dir"]) -> Path:
        """The folder that a setting names.

        Raises:
            BadSettings: it was not set, and there is no home directory to have it in.
        """
        found: Path = getattr(self, name)
        if found.is_relative_to(NOWHERE):
            raise BadSettings(
                f"This user has no home directory, so there is no default for {ENV_PREFIX}{name.upper()}: set it to a "
                "folder that this user may write to (or set HOME to one)."
            )
        return found
