"""What the commands share."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from labeling_ground.settings import Settings, read_settings


def settings_with(**given: Any) -> Settings:
    """The settings of the environment, with what the command line gave in their place.

    Raises:
        BadSettings: a variable is no setting, or a value cannot be used; the sentence says which.
        click.UsageError: an option was given without a value, as ``--host "$UNSET"`` is.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if isinstance(value, str) and not value.strip():
            raise empty_option(f"--{name.replace('_', '-')}")
    return read_settings(**chosen)


def empty_option(name: str) -> click.UsageError:
    """What to raise for an option with nothing behind it: a default in its place might purge another cache."""
    return click.UsageError(f"{name} is empty: leave it out for the default, or give it a value")


class Folder(click.Path):
    """A folder's path, as an option. An empty one is refused: to ``pathlib`` it would be the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if not str(value).strip():
            raise empty_option(param.opts[0] if param else "the folder")
        return super().convert(value, param, ctx)


json_option = click.option("--json", "as_json", is_flag=True, help="Data on stdout instead of words.")
cache_dir_option = click.option("--cache-dir", type=Folder(), help="Folder of the disk tier, if not the default.")
models_dir_option = click.option("--models-dir", type=Folder(), help="Folder of the weights, if not the default.")
log_format_option = click.option(
    "--log-format", type=click.Choice(["auto", "text", "json"]), help="One log line a request, in this form."
)


def patient(settings: Settings) -> Settings:
    """The settings where nobody waits: what is there already is worth waiting for, and is not computed again."""
    deadline_ms = max(10_000.0, settings.file_deadline_ms)
    return settings.model_copy(
        update={"cache_mode": "first", "lookup_deadline_ms": deadline_ms, "file_deadline_ms": deadline_ms}
    )


def show(text: str = "") -> None:
    """Print what the command was asked for, in words, on stdout."""
    click.echo(text)


def say(text: str = "") -> None:
    """Print what is worth knowing on the way, on stderr."""
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
