"""``labeling-ground annotate``."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labeling_ground.api.app import create_app
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
from labeling_ground.cli.warm import images_in
from labeling_ground.codec.walk import accepted
from labeling_ground.errors import BadPrompt, LabelingGroundError
from labeling_ground.key import canonical_phrase, image_id
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_parts

if TYPE_CHECKING:
    from labeling_ground_client import AsyncClient, AsyncImage, Found

_MADE_BY = "labeling-ground annotate"


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--everything", is_flag=True, help="All masks of each photo.")
@click.option(
    "--boxes", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="COCO file: a mask for each bbox."
)
@click.option("--text", "texts", multiple=True, help="All that this phrase names, a category; may be given again.")
@click.option(
    "--score-threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Least score, for --text."
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The COCO file to write.")
@click.option("--server", help="Address of a server to ask, instead of computing in this process.")
@click.option("--model", help="Model id.")
@click.option("--api-key", help="A key of the server, whose namespace is used instead of the public one.")
@click.option(
    "--at-once", type=click.IntRange(1, 64), default=2, show_default=True, help="Photos that are asked for at once."
)
@click.option(
    "--write-every",
    type=click.FloatRange(0, 86_400),
    default=5.0,
    show_default=True,
    help="Least seconds between two writes of the output, but for the last one.",
)
@cache_dir_option
@json_option
def annotate(
    photos: Path,
    everything: bool,
    boxes: Path | None,
    texts: tuple[str, ...],
    score_threshold: float,
    out: Path,
    server: str | None,
    model: str | None,
    api_key: str | None,
    at_once: int,
    write_every: float,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Write the masks of all photos of a folder to a COCO file.

    Interrupt it with Ctrl-C and start it again: photos that are in the file already are not asked again, unless they
    have changed. People who click on the same server go first.
    """
    if everything + (boxes is not None) + bool(texts) != 1:
        raise click.UsageError("say either --everything, --boxes FILE or --text PHRASE")
    phrases = _phrases(texts)
    for name, value in (("--server", server), ("--api-key", api_key), ("--model", model)):
        if value is not None and not value.strip():
            raise empty_option(name)
    if server is not None and cache_dir is not None:
        raise click.UsageError("--cache-dir is for masks that are computed here; --server has its own: leave one out")
    named = _photos(photos)
    given = None if boxes is None else _read_coco(boxes, "--boxes")
    way: dict[str, Any] = {"way": "everything" if given is None else "boxes"}
    if phrases:
        way = {"way": "text", "text": phrases, "score_threshold": score_threshold}
    dataset = Dataset(out, way, model, given, write_every)
    asked = list(named) if given is None else dataset.boxes_of(given, named)
    changed = dataset.drop_changed(named)
    settings = settings_with(cache_dir=cache_dir, model=None if server else model)
    left = {name: named[name] for name in asked if name not in dataset.done}
    dataset.write(now=True)  # a folder that takes no file is said before anything is computed
    client = _client(settings, server, api_key, model)
    failures, interrupted = asyncio.run(_annotate(client, left, dataset, at_once))
    found = {
        "photos": len(asked),
        "there": len(asked) - len(left),
        "changed": changed,
        "annotated": len(dataset.done.intersection(left)),
        "annotations": len(dataset.annotations),
        "failed": [{"file": name, "problem": problem} for name, problem in failures],
        "interrupted": interrupted,
    }
    if as_json:
        data(found)
    else:
        _show(found, out)
    if interrupted:
        end_interrupted()
    if failures:
        raise SystemExit(1)


def _show(found: Mapping[str, Any], out: Path) -> None:
    for each in found["failed"]:
        say(f"failed: {each['file']}: {each['problem']}")
    again = f" ({len(found['changed'])} of the file had changed)" if found["changed"] else ""
    more = "; interrupted: start again to go on" if found["interrupted"] else ""
    show(
        f"{found['there']} there already, {found['annotated']} annotated{again}, {len(found['failed'])} failed; "
        f"masks in {out}: {found['annotations']}{more}"
    )


def _photos(folder: Path) -> dict[str, Path]:
    """The image files of a folder (or the one file that it is), by their paths below it.

    Raises:
        click.UsageError: there is none.
    """
    files = sorted(images_in(folder))
    if not files:
        raise click.UsageError(f"there is no image file in {folder} ({accepted()})")
    root = folder if folder.is_dir() else folder.parent
    return {file.relative_to(root).as_posix(): file for file in files}


def _phrases(texts: tuple[str, ...]) -> list[str]:
    """The phrases in the form in which they are looked for; none is given twice.

    Raises:
        click.UsageError: one is none, or stands twice.
    """
    try:
        phrases = [canonical_phrase(text) for text in texts]
    except BadPrompt as error:
        raise click.UsageError(f"--text: {error}") from None
    if len(set(phrases)) < len(phrases):
        raise click.UsageError("--text: a phrase is given twice")
    return phrases


def _read_coco(file: Path, option: str) -> dict[str, Any]:
    """A COCO file.

    Raises:
        click.UsageError: the file is none.
    """
    try:
        found = json.loads(file.read_bytes())
        for part in ("images", "annotations", "categories"):
            if not all(isinstance(one["id"], int) for one in found[part]):
                raise ValueError(f"an id in {part!r} is no whole number")
        if not all(isinstance(one["file_name"], str) for one in found["images"]):
            raise ValueError("a file_name is no text")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise click.UsageError(f"{option} {file} is no COCO file: {type(error).__name__}: {error}") from None
    return dict(found)


class Dataset:
    """The COCO file that is written: it holds only photos whose masks are complete.

    Args:
        path: the file; what is there already is gone on with.
        way: what is asked: ``{"way": "everything"}``, or ``boxes``, or ``text`` with the phrases and the least score.
        model: the model that was asked for; ``None`` is the default one.
        given: the COCO file of the boxes, whose categories are taken over.
        write_every_s: least seconds between two writes, but for the last one.

    Raises:
        click.UsageError: the file was made by something else, or in another way.
    """

    def __init__(
        self, path: Path, way: dict[str, Any], model: str | None, given: dict[str, Any] | None, write_every_s: float
    ) -> None:
        self._path = Path(os.path.realpath(path))  # a link stays one: what it names is replaced
        self._write_every_s = write_every_s
        boxes = None if given is None else [given["images"], given["annotations"], given["categories"]]
        self._info: dict[str, Any] = {"description": _MADE_BY, **way, "model": model, "boxes": boxes}
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        names = way.get("text", ["object"])
        self.categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
        if given is not None:
            self.categories = given["categories"]
        self._boxes: dict[str, list[dict[str, Any]]] = {}
        self._written = time.monotonic()
        if path.exists():
            found = _read_coco(path, "--out")
            info = found.get("info")
            if not isinstance(info, dict) or info.get("description") != _MADE_BY:
                raise click.UsageError(f"--out {path} was not made by this command: choose another name")
            if info != self._info:
                raise click.UsageError(
                    f"--out {path} was made with other boxes, phrases, --everything or --model: choose another name"
                )
            self.images, self.annotations = found["images"], found["annotations"]
        elif not path.absolute().parent.is_dir():
            raise click.UsageError(f"--out {path}: there is no such folder")
        self.done = {image["file_name"] for image in self.images}

    def boxes_of(self, given: dict[str, Any], named: dict[str, Path]) -> list[str]:
        """Names of the photos that have boxes, which are kept for ``annotate``.

        Raises:
            click.UsageError: a box is of an unknown photo or category, or is none.
        """
        names = {image["id"]: image["file_name"] for image in given["images"]}
        categories = {category["id"] for category in given["categories"]}
        for one in given["annotations"]:
            name, box = names.get(one.get("image_id")), one.get("bbox")
            if name not in named:
                raise click.UsageError(
                    f"--boxes: annotation {one['id']} is of {name or 'an unknown image'}: no such photo"
                )
            if one.get("category_id") not in categories:
                raise click.UsageError(f"--boxes: annotation {one['id']} is of an unknown category")
            if not (
                isinstance(box, list)
                and len(box) == 4
                and all(isinstance(side, int | float) for side in box)
                and min(box[2:]) > 0
            ):
                raise click.UsageError(f"--boxes: annotation {one['id']} has no bbox of x, y, width and height")
            self._boxes.setdefault(name, []).append(one)
        if not self._boxes:
            raise click.UsageError("--boxes: there is no box in the file")
        return list(self._boxes)

    def drop_changed(self, named: Mapping[str, Path]) -> list[str]:
        """Drop the photos whose bytes have changed since they were annotated; their names.

        Raises:
            click.UsageError: one of them cannot be read.
        """
        gone = {}
        for image in self.images:
            name, known = image["file_name"], image.get("sha256")  # files of earlier versions have none
            try:
                if known is not None and name in named and image_id(named[name].read_bytes()) != known:
                    gone[image["id"]] = name
            except OSError as error:
                raise click.UsageError(f"{named[name]} cannot be read: {error.strerror}") from None
        self.images = [image for image in self.images if image["id"] not in gone]
        self.annotations = [one for one in self.annotations if one["image_id"] not in gone]
        self.done -= set(gone.values())
        return list(gone.values())

    async def annotate(self, client: "AsyncClient", name: str, file: Path) -> None:
        """Ask for the masks of one photo and take them in."""
        image = await client.open(file)
        made: list[dict[str, Any]] = []
        if self._info["way"] == "everything":
            stream = await image.everything()
            found = await stream.result()
            made.extend(_annotation(one, 1, stream.model, stream.model_version) for one in found)
        if self._info["way"] == "text":
            for category, each in enumerate(await self._find(image), start=1):
                made.extend(_annotation(one, category, each.model, each.model_version) for one in each.instances)
        for one in self._boxes.get(name, ()):
            x, y, width, height = one["bbox"]
            answer = await image.predict(box=(x, y, x + width, y + height), multimask=False)
            made.append(_annotation(answer.candidates[0], one["category_id"], answer.model, answer.model_version))
        number = self.images[-1]["id"] + 1 if self.images else 1  # they ascend
        size = {"width": image.width, "height": image.height}
        self.images.append({"id": number, "file_name": name, **size, "sha256": image.id})
        first = self.annotations[-1]["id"] + 1 if self.annotations else 1
        self.annotations += [{"id": first + index, "image_id": number, **one} for index, one in enumerate(made)]
        self.done.add(name)

    async def _find(self, image: "AsyncImage") -> list["Found"]:
        """What is found of each phrase.

        Raises:
            LabelingGroundError: the server does not take these phrases, and so would not with any other photo.
        """
        from labeling_ground_client import ProblemError

        try:
            return await image.find_many(self._info["text"], score_threshold=self._info["score_threshold"])
        except ProblemError as error:
            if error.status in (413, 422, 501):
                raise LabelingGroundError(f"--text: {error}") from None
            raise

    def write(self, *, now: bool = False) -> None:
        """Replace the file in one step, unless that was done a moment ago.

        Raises:
            LabelingGroundError: the file cannot be written.
        """
        if not now and time.monotonic() - self._written < self._write_every_s:
            return
        whole = {"info": self._info, "images": self.images, "annotations": self.annotations}
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(whole | {"categories": self.categories}), "utf-8")
            beside.replace(self._path)
        except OSError as error:
            raise LabelingGroundError(f"--out {self._path} cannot be written: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
        self._written = time.monotonic()


def _annotation(found: Any, category: int, model: str, version: str) -> dict[str, Any]:
    return {
        "category_id": category,
        "segmentation": found.encoded["rle"],
        "bbox": list(found.bbox),
        "area": found.area,
        "iscrowd": 0,
        "score": found.score,
        "model": model,
        "model_version": version,
    }


async def _annotate(
    connected: AbstractAsyncContextManager["AsyncClient"], left: dict[str, Path], dataset: Dataset, at_once: int
) -> tuple[list[tuple[str, str]], bool]:
    """What failed and why, and whether Ctrl-C ended it early.

    Raises:
        LabelingGroundError: the server refuses all photos alike, or cannot be reached.
    """
    failures: list[tuple[str, str]] = []
    for_all: list[Exception] = []
    reached: list[str] = []
    async with connected as client:
        from labeling_ground_client import ClientError, ProblemError, UnreachableError

        def is_for_all(error: Exception) -> bool:
            """Whether the next photo would be answered the same: a wrong key, model or address."""
            if isinstance(error, ProblemError):
                return error.status in (401, 403) or error.is_of_type("unknown-model")
            return isinstance(error, UnreachableError) and not reached

        async def work(name: str, stopping: asyncio.Event) -> None:
            try:
                await dataset.annotate(client, name, left[name])
                reached.append(name)
            except (ClientError, OSError) as error:
                if is_for_all(error):
                    for_all.append(error)
                    stopping.set()
                    return
                failures.append((name, str(error)))
            dataset.write()

        try:
            interrupted = await work_through("annotating", list(left), work, at_once)
        finally:
            dataset.write(now=True)
    if for_all:
        raise LabelingGroundError(str(for_all[0]))
    return failures, interrupted


@contextlib.asynccontextmanager
async def _client(
    settings: Settings, server: str | None, key: str | None, model: str | None
) -> AsyncIterator["AsyncClient"]:
    """A client of the server, or of one in this process that listens nowhere.

    Raises:
        LabelingGroundError: the Python client is not installed.
    """
    try:
        import httpx

        from labeling_ground_client import AsyncClient
    except ImportError:
        raise LabelingGroundError(
            "annotate needs the Python client, which is not installed. `make run` installs it; or, in this repository: "
            f"{sys.executable} -m pip install ./clients/python"
        ) from None
    if server is not None:
        async with AsyncClient(server, key, model=model, priority="job") as client:
            yield client
        return
    app = create_app(build_parts(patient(settings)))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with AsyncClient("http://127.0.0.1", key, priority="job", transport=transport) as client:
            yield client
