"""``labeling-ground cache stats`` and ``cache purge``."""

import asyncio
from pathlib import Path

import click

from labeling_ground import key as keys
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cli.common import data, megabytes, say, settings_with
from labeling_ground.errors import BadSettings
from labeling_ground.types import StoreStats
from labeling_ground.wiring import build_disk

_DIRECTORY = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Folder of the disk tier, if not the default.",
)


@click.group()
def cache() -> None:
    """Look at the disk tier, or purge it. A server may be running on it; its memory tier is its own.

    For a running server's figures and for purging its memory too, ask it: GET and DELETE /v1/cache.
    """


@cache.command()
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Data on stdout instead of words.")
def stats(cache_dir: Path | None, as_json: bool) -> None:
    """What the disk tier holds."""
    store, directory = _open(cache_dir)

    async def ask() -> StoreStats:
        try:
            return await store.stats()
        finally:
            await store.aclose()

    found = asyncio.run(ask())
    if as_json:
        data(
            {
                "tier": found.tier,
                "directory": str(directory),
                "entries": found.entries,
                "bytes": found.bytes,
                "budget": found.budget,
                "entries_by_kind": dict(found.entries_by_kind),
                "bytes_by_kind": dict(found.bytes_by_kind),
                "oldest_created": found.oldest_created,
            }
        )
        return
    say(f"{directory}")
    say(f"  {found.entries} entries, {megabytes(found.bytes)} of {megabytes(found.budget)}")
    for kind, count in sorted(found.entries_by_kind.items()):
        say(f"  {kind:10} {count:8} entries {megabytes(found.bytes_by_kind[kind]):>12}")


@cache.command()
@_DIRECTORY
@click.option("--image", help="Only this image: its id, 64 hex digits.")
@click.option("--model", help="Only this model's embeddings and masks.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Data on stdout instead of words.")
def purge(cache_dir: Path | None, image: str | None, model: str | None, yes: bool, as_json: bool) -> None:
    """Delete from the disk tier: one image, one model, or everything, in all namespaces."""
    if image is not None and not keys.is_image_id(image):
        raise click.BadParameter("an image id is 64 lower-case hex digits", param_hint="--image")
    store, directory = _open(cache_dir)
    what = f"image {image}" if image else f"model {model}" if model else "everything"
    if not yes:
        click.confirm(f"Delete {what} from {directory}?", abort=True, err=True)

    async def ask() -> int:
        try:
            return await store.delete(keys.pattern(None, image, model))
        finally:
            await store.aclose()

    deleted = asyncio.run(ask())
    if as_json:
        data({"deleted": deleted})
    else:
        say(f"{deleted} entries deleted.")


def _open(cache_dir: Path | None) -> tuple[DiskStore, Path]:
    settings = settings_with(cache_dir=cache_dir)
    store = build_disk(settings)
    if store is None:
        raise BadSettings("The disk tier is switched off (disk_bytes is 0).")
    return store, settings.cache_dir
