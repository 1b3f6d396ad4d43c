"""``labeling-ground warm``."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click

from labeling_ground import key as keys
from labeling_ground.cli.common import (
    cache_dir_option,
    data,
    empty_option,
    end_interrupted,
    json_option,
    patient,
    say,
    settings_with,
    show,
    work_through,
)
from labeling_ground.codec.walk import accepted
from labeling_ground.errors import LabelingGroundError, Overloaded, StoreFailed, TooLarge
from labeling_ground.inference.remote.client import EngineAway
from labeling_ground.service.predictor import Predictor
from labeling_ground.settings import Settings
from labeling_ground.types import Priority
from labeling_ground.urgency import asked_as
from labeling_ground.wiring import build_predictor

T = TypeVar("T")

_AGAIN_S = 1.0
"""Pause, in seconds, before an image is tried again."""
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tif", ".tiff"})


@click.command()
@click.argument("directory", type=click.Path(exists=True, path_type=Path))
@cache_dir_option
@click.option("--model", help="Model id.")
@click.option("--api-key", help="Warm this key's namespace instead of the public one.")
@json_option
def warm(directory: Path, cache_dir: Path | None, model: str | None, api_key: str | None, as_json: bool) -> None:
    """Encode all images of a folder ahead of time.

    The first click on each is fast then. They go to the disk tier, which a server on this machine shares, running or
    not, and to Redis where it is used. Interrupt it with Ctrl-C and start it again: what is encoded already is skipped.
    Entries unused for the idle time (30 minutes by default) are deleted there like all others: warm what is going to be
    labeled now, or raise LABELING_GROUND_IDLE_S.
    """
    settings = settings_with(cache_dir=cache_dir, model=model)
    if settings.disk_bytes == 0 and settings.redis_url is None:
        raise click.UsageError("the disk tier is switched off (disk_bytes is 0), so there is nothing to warm")
    files = sorted(images_in(directory))
    if not files:
        raise click.UsageError(f"there is no image file in {directory} ({accepted()})")
    tenant = _tenant(settings, api_key)
    counts, failures, interrupted = asyncio.run(_warm(patient(settings), files, tenant))
    if as_json:
        data(
            {
                "files": len(files),
                "hit": counts["hit"],
                "computed": counts["computed"],
                "failed": [{"file": str(file), "problem": problem} for file, problem in failures],
                "interrupted": interrupted,
            }
        )
    else:
        for file, problem in failures:
            say(f"failed: {file}: {problem}")
        left = len(files) - counts.total()
        show(
            f"{counts['hit']} hit, {counts['computed']} computed, {counts['failed']} failed"
            + (f"; interrupted, {left} left: start again to go on" if interrupted else "")
        )
    if interrupted:
        end_interrupted()
    if failures:
        raise SystemExit(1)


def _tenant(settings: Settings, api_key: str | None) -> str:
    """The namespace of a key, or the public one without.

    Raises:
        click.UsageError: the servers of this environment know no such key, so nobody would find what is warmed.
    """
    if api_key is None:
        if settings.api_keys:
            raise click.UsageError("api_keys are set, so say with --api-key whose namespace is to be warmed")
        return keys.PUBLIC
    given = api_key.strip()
    if not given:
        raise empty_option("--api-key")
    known = [key.get_secret_value() for key in (*settings.api_keys, settings.admin_key) if key is not None]
    if settings.api_keys and given not in known:
        raise click.UsageError("--api-key is none of the api_keys that are set, so no server would find what is warmed")
    return keys.tenant_of(given)


def images_in(place: Path) -> Iterable[Path]:
    """The image files of a folder and of those in it; a file is taken as it is."""
    if place.is_file():
        return [place]
    return (file for file in place.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())


async def _warm(
    settings: Settings, files: list[Path], tenant: str
) -> tuple[Counter[str], list[tuple[Path, str]], bool]:
    """How many images were hits, were computed and failed; the failures; and whether Ctrl-C ended it early."""
    predictor = build_predictor(settings)
    counts: Counter[str] = Counter()
    failures: list[tuple[Path, str]] = []

    async def work(file: Path, stopping: asyncio.Event) -> None:
        outcome, problem = await _one(predictor, settings, file, tenant, stopping)
        counts[outcome] += 1
        if problem:
            failures.append((file, problem))

    try:
        await _check_tiers(predictor)
        # One more than the encoder takes at once, so that reading a file never makes it wait.
        interrupted = await work_through("encoding", files, work, at_once=settings.encode_workers + 1)
    finally:
        await predictor.aclose()
    return counts, failures, interrupted


async def _check_tiers(predictor: Predictor) -> None:
    """See that what is going to be computed can be kept.

    Raises:
        StoreFailed: a tier does not work.
    """
    await predictor.store.open()
    await predictor.store.probe()
    if trouble := _trouble(predictor):
        raise StoreFailed(trouble)


def _trouble(predictor: Predictor) -> str:
    """What is wrong with a tier, in a sentence; empty where nothing is."""
    for tier in predictor.store.lower:
        if trouble := tier.health.trouble:
            return f"The {tier.store.name} tier keeps nothing. {trouble}"
    return ""


async def _one(
    predictor: Predictor, settings: Settings, file: Path, tenant: str, stopping: asyncio.Event
) -> tuple[str, str | None]:
    try:
        content, image_id = await asyncio.to_thread(_read, file, settings.max_image_bytes)
        with asked_as(Priority.JOB):
            answer = await _patiently(lambda: predictor.open_image(tenant, content, image_id), settings, stopping)
        await predictor.store.drain()  # on disk before the next one: an interruption loses nothing that was counted
        if trouble := _trouble(predictor):
            return "failed", trouble
    except (LabelingGroundError, OSError) as error:
        return "failed", str(error)
    return ("hit" if answer.outcome == "hit" else "computed"), None


async def _patiently(ask: Callable[[], Awaitable[T]], settings: Settings, stopping: asyncio.Event) -> T:
    """What is answered; asked again while the engines elsewhere are away, full or restarting, as long as at a start."""
    until = time.monotonic() + settings.engine_wait_s
    while True:
        try:
            return await ask()
        except (EngineAway, Overloaded):
            if stopping.is_set() or time.monotonic() >= until:
                raise
        await asyncio.sleep(_AGAIN_S)


def _read(file: Path, max_bytes: int) -> tuple[bytes, str]:
    if file.stat().st_size > max_bytes:
        raise TooLarge(f"the file is larger than {max_bytes} bytes")
    content = file.read_bytes()
    return content, keys.image_id(content)
