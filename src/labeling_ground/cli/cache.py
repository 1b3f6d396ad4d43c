"""``labeling-ground cache stats`` and ``cache purge``."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from labeling_ground import key as keys
from labeling_ground.cache.disk.folder import is_claimed
from labeling_ground.cache.disk.store import look
from labeling_ground.cache.store import Store
from labeling_ground.cli.common import cache_dir_option, data, json_option, megabytes, settings_with, show
from labeling_ground.cli.trace import simulate, synth, trace
from labeling_ground.errors import BadSettings
from labeling_ground.settings import Settings
from labeling_ground.types import StoreStats
from labeling_ground.wiring import build_disk, build_redis

T = TypeVar("T")

_NO_TIER = "The disk tier is switched off (disk_bytes is 0), and redis_url is not set."


@click.group()
def cache() -> None:
    """See what disk and Redis hold; purge; try settings.

    Servers may run meanwhile or not; their memory is their own.

    Servers on Redis forget what is purged here. For the memory of others, and for a running server's figures, ask it:
    GET and DELETE /v1/cache.
    """


for _command in (trace, synth, simulate):
    cache.add_command(_command)


@cache.command()
@cache_dir_option
@json_option
def stats(cache_dir: Path | None, as_json: bool) -> None:
    """What the disk tier and Redis hold."""
    settings = settings_with(cache_dir=cache_dir)
    redis = _redis_tier(settings)
    found = asyncio.run(_with_all([store for store, _ in redis], lambda store: store.stats()))
    tiers = [place for _, place in redis]
    if settings.disk_bytes:  # looked at from outside: nothing is made, and nothing is cleared away
        folder = settings.folder("cache_dir")
        found.insert(0, look(folder, int(settings.disk_bytes)))
        tiers.insert(0, str(folder))
    if not tiers:
        raise BadSettings(_NO_TIER)
    if as_json:
        data({"tiers": [_described(each, place) for each, place in zip(found, tiers, strict=True)]})
        return
    for each, place in zip(found, tiers, strict=True):
        show(place)
        budget = megabytes(each.budget) if each.budget else "no limit that is known"
        show(f"  {each.entries} entries, {megabytes(each.bytes)} of {budget}")
        for kind, count in sorted((kind, count) for kind, count in each.entries_by_kind.items() if count):
            show(f"  {kind:14} {count:8} entries {megabytes(each.bytes_by_kind[kind]):>12}")


@cache.command()
@cache_dir_option
@click.option("--image", help="Only this image: its id, 64 hex digits.")
@click.option("--model", help="Only this model's embeddings and masks.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def purge(cache_dir: Path | None, image: str | None, model: str | None, yes: bool, as_json: bool) -> None:
    """Delete an image, a model, or everything.

    From the disk tier and from Redis, in all namespaces.
    """
    image = None if image is None else image.lower()
    if image is not None and not keys.is_image_id(image):
        raise click.BadParameter("an image id is 64 hex digits", param_hint="--image")
    tiers = _tiers(cache_dir)
    what = f"image {image}" if image else f"model {model}" if model else "everything"
    if tiers and not yes:
        places = " and ".join(place for _, place in tiers)
        click.confirm(f"Delete {what} from {places}?", abort=True, err=True)
    pattern = keys.pattern(None, image, model)
    deleted = sum(asyncio.run(_with_all([store for store, _ in tiers], lambda store: store.delete(pattern))))
    if as_json:
        data({"deleted": deleted})
    else:
        show(f"{deleted} entries deleted.")


async def _with_all(stores: list[Store], work: Callable[[Store], Awaitable[T]]) -> list[T]:
    """One after the other, and close them all."""
    try:
        return [await work(store) for store in stores]
    finally:
        for store in stores:
            await store.aclose()


def _tiers(cache_dir: Path | None) -> list[tuple[Store, str]]:
    """The tiers that are not a server's memory, and where they are. A folder that is no cache yet holds nothing."""
    settings = settings_with(cache_dir=cache_dir)
    disk, redis = build_disk(settings), _redis_tier(settings)
    if disk is None and not redis:
        raise BadSettings(_NO_TIER)
    if disk is None or not is_claimed(settings.cache_dir):
        return redis
    return [(disk, str(settings.cache_dir)), *redis]


def _redis_tier(settings: Settings) -> list[tuple[Store, str]]:
    redis = build_redis(settings)
    return [] if redis is None else [(redis, str(redis.connection.address))]


def _described(found: StoreStats, place: str) -> dict[str, Any]:
    return {
        "tier": found.tier,
        "place": place,
        "entries": found.entries,
        "bytes": found.bytes,
        "budget": found.budget,
        "entries_by_kind": dict(found.entries_by_kind),
        "bytes_by_kind": dict(found.bytes_by_kind),
        "oldest_created": found.oldest_created,
    }
