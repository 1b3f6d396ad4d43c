"""What the commands share."""

import json
import sys
from typing import Any

import click
from pydantic import ValidationError

from labeling_ground.errors import BadSettings
from labeling_ground.settings import ENV_PREFIX, Settings


def settings_with(**given: Any) -> Settings:
    """The settings of the environment, with what the command line gave in their place.

    Raises:
        BadSettings: a value cannot be used; the sentence names it.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BadSettings(
            f"The setting {name} (or {ENV_PREFIX}{name.upper()}) cannot be used: {first['msg']}."
        ) from None


def say(text: str = "") -> None:
    """Words for people."""
    click.echo(text, err=True)


def data(value: Any) -> None:
    """Data for programs: one JSON document on stdout."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def megabytes(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
