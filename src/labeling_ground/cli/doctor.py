"""``labeling-ground doctor``."""

import asyncio
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from labeling_ground import __version__
from labeling_ground.cache.disk.folder import nearest, obstacle
from labeling_ground.cache.disk.store import look
from labeling_ground.cache.redis.health import examine
from labeling_ground.cli.common import cache_dir_option, data, json_option, megabytes, settings_with, show
from labeling_ground.errors import LabelingGroundError
from labeling_ground.inference.backend import Backend
from labeling_ground.settings import Settings
from labeling_ground.types import Image, Point, Prompt
from labeling_ground.wiring import build_backend, build_disk, check_room, connect_redis
from labeling_ground.wiring.models import list_models

_LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "scipy",
    "scikit-image",
    "pillow",
    "fastapi",
    "uvicorn",
)


@dataclass(frozen=True)
class DoctorCheck:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str
    advice: tuple[str, ...] = ()
    """What to put right, though the server would work without."""


@click.command()
@cache_dir_option
@json_option
def doctor(cache_dir: Path | None, as_json: bool) -> None:
    """Say whether a server would work here.

    What is installed, which engine would be used and why, and whether the cache can be reached.
    Exit code 1 if the server would not work.
    """
    settings = settings_with(cache_dir=cache_dir)
    engine, backend = asyncio.run(_engine(settings))
    findings = [
        _machine(),
        *_libraries(),
        engine,
        *_models(settings),
        asyncio.run(_disk(settings)),
        asyncio.run(_redis(settings)),
        _memory(settings, backend),
        _access(settings),
    ]
    if as_json:
        data({"ok": all(f.ok for f in findings), "findings": [asdict(f) for f in findings]})
    else:
        for finding in findings:
            show(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:14} {finding.text}")
            for advice in finding.advice:
                show(f"  !  {'':14} {advice}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def _machine() -> DoctorCheck:
    return DoctorCheck(
        "machine",
        sys.version_info >= (3, 11),
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}, "
        f"labeling-ground {__version__}",
    )


def _libraries() -> list[DoctorCheck]:
    findings = []
    for name in _LIBRARIES:
        try:
            findings.append(DoctorCheck(name, ok=True, text=importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(DoctorCheck(name, ok=False, text="not installed: run 'make setup'"))
    return findings


async def _engine(settings: Settings) -> tuple[DoctorCheck, Backend | None]:
    """How the engine does, and the engine, closed, where there is one."""
    try:
        backend, chosen = await asyncio.to_thread(build_backend, settings)
    except LabelingGroundError as error:
        return DoctorCheck("engine", ok=False, text=str(error)), None
    pixels = np.zeros((96, 128, 3), dtype=np.uint8)
    pixels[24:72, 32:96] = 200
    try:
        started = time.perf_counter()
        [embedding] = await backend.encode([Image("0" * 64, pixels)])
        encoded = time.perf_counter()
        await backend.decode([(embedding, Prompt((Point(64.0, 48.0, 1),)))])
        decoded = time.perf_counter()
    except LabelingGroundError as error:
        return DoctorCheck("engine", ok=False, text=f"{backend.info.version}: {error}"), backend
    finally:
        await backend.aclose()
    why = chosen.rstrip(".") or "it needs no weights"
    text = (
        f"{backend.info.version} (the setting 'model' is {settings.model!r}; {why}): a first test image took "
        f"{(encoded - started) * 1e3:.0f} ms to encode, {(decoded - encoded) * 1e3:.0f} ms to decode"
    )
    return DoctorCheck("engine", ok=True, text=f"{text}. {backend.info.note}".strip()), backend


def _models(settings: Settings) -> list[DoctorCheck]:
    """Whether a server finds all of several models; they are not loaded."""
    if not settings.models:
        return []
    try:
        found = [model.name for model in list_models(settings)]
    except LabelingGroundError as error:
        return [DoctorCheck("models", ok=False, text=str(error))]
    return [
        DoctorCheck("models", ok=True, text=f"{', '.join(found)}: here; all but the first are loaded when asked for")
    ]


async def _disk(settings: Settings) -> DoctorCheck:
    try:
        store = build_disk(settings)
        if store is None:
            return DoctorCheck("disk tier", ok=True, text="switched off")
        await store.aclose()  # not opened, which would make the folder, but looked at from outside
        folder = settings.folder("cache_dir")
        if why := await asyncio.to_thread(obstacle, folder):
            return DoctorCheck("disk tier", ok=False, text=why)
        stats = await asyncio.to_thread(look, folder, int(settings.disk_bytes))
    except LabelingGroundError as error:
        return DoctorCheck("disk tier", ok=False, text=str(error))
    text = (
        f"{folder}: {stats.entries} entries, {megabytes(stats.bytes)} of {megabytes(stats.budget)}, "
        f"{megabytes(shutil.disk_usage(nearest(folder)).free)} free on its file system"
    )
    return DoctorCheck("disk tier", ok=True, text=text)


async def _redis(settings: Settings) -> DoctorCheck:
    try:
        connection = connect_redis(settings)
    except LabelingGroundError as error:
        return DoctorCheck("redis tier", ok=False, text=str(error))
    if connection is None:
        return DoctorCheck("redis tier", ok=True, text="not used (redis_url is not set)")
    try:
        text, remarks = await examine(connection)
    except LabelingGroundError as error:
        return DoctorCheck("redis tier", ok=False, text=str(error))
    finally:
        await connection.aclose()
    advice = tuple(remark.text for remark in remarks)
    return DoctorCheck("redis tier", not any(remark.fatal for remark in remarks), text, advice)


def _memory(settings: Settings, backend: Backend | None) -> DoctorCheck:
    try:
        remark = check_room(settings, backend)
    except LabelingGroundError as error:
        return DoctorCheck("memory tier", ok=False, text=str(error))
    text = f"{megabytes(settings.memory_bytes)}, policy {settings.policy}"
    return DoctorCheck("memory tier", ok=True, text=text, advice=(remark,) if remark else ())


def _access(settings: Settings) -> DoctorCheck:
    if settings.api_keys:
        return DoctorCheck(
            "access",
            ok=True,
            text=f"{len(settings.api_keys)} API keys, each with its own namespace",
        )
    return DoctorCheck("access", ok=True, text=f"open to all who reach {settings.host} port {settings.port}")
