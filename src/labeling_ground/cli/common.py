"""What the commands share."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from pydantic import ByteSize
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from labeling_ground.settings import Settings, read_settings

T = TypeVar("T")


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
    """The settings for batch work: look-ups get long deadlines, so that nothing in the cache is computed again."""
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


def megabytes(count: int) -> str:
    """A number of bytes for people, such as ``1.5 GiB``."""
    return ByteSize(count).human_readable(separator=" ")


@contextlib.contextmanager
def progress_of(doing: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr with rate and remaining time; yields a function that counts one more as done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=total == 0) as progress:
        bar = progress.add_task(doing, total=total, rate="")

        def advance() -> None:
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(bar, advance=1, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


async def work_through(
    doing: str, items: Sequence[T], work: Callable[[T, asyncio.Event], Awaitable[None]], at_once: int
) -> bool:
    """Do ``work`` for each item, so many at a time, with a bar on stderr. Returns whether it was ended early.

    Ctrl-C lets what is begun end; a second one calls that off.

    Args:
        doing: what is done, in a word.
        items: in the order in which they are begun.
        work: does one; given an event that is set by Ctrl-C, or by itself: then no further item is begun.
        at_once: how many are worked on at the same time.
    """
    waiting, stopping, leaving = iter(items), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    with progress_of(doing, len(items)) as advance:

        async def take_turns() -> None:
            for item in waiting:
                if stopping.is_set():
                    return
                await work(item, stopping)
                advance()

        turns = asyncio.gather(*(take_turns() for _ in range(at_once)))

        def interrupt() -> None:
            if stopping.is_set():
                leaving.set()
                turns.cancel()
            else:
                stopping.set()
                say("Ending after what is begun; Ctrl-C again leaves that, too.")

        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            await turns
        except asyncio.CancelledError:
            if not leaving.is_set():
                raise
        finally:
            loop.remove_signal_handler(signal.SIGINT)
    return stopping.is_set()


def end_interrupted() -> NoReturn:
    """End the process with status 130 at once; Python would wait for threads in which an engine still computes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
