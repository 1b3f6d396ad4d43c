"""``labeling-ground models check``: whether each engine and precision answers with the masks of fp32."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from labeling_ground.cli.common import data, json_option, models_dir_option, say, settings_with, show
from labeling_ground.codec.image import decode
from labeling_ground.errors import BadInput
from labeling_ground.inference.agreement import Pixels, this_machine
from labeling_ground.inference.auto import Tried, judge, judge_int8
from labeling_ground.models.store import ModelStore
from labeling_ground.settings import Settings
from labeling_ground.verdict import Verdict
from labeling_ground.wiring.models import model_of

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""Of those that come with scikit-image: a person, an animal, things on a table, clutter, a thing before the sky."""
DISAGREE = 3
"""Exit status where one does not agree. 1 is an error, 2 a wrong command line."""


@click.command()
@click.argument("name")
@click.option(
    "--image",
    "images",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Compare on this photograph, in place of those that come with the package; may be given several times.",
)
@models_dir_option
@json_option
def check(name: str, images: tuple[Path, ...], models_dir: Path | None, as_json: bool) -> None:
    """Compare engines and precisions with fp32, on photographs.

    Those that are installed, by the overlap of masks (IoU); and embeddings in int8 with the same in fp16. Takes an
    encode for each photograph, engine and precision, and one for int8. What is found is kept with the model: with
    engine_precision=auto and int8_embeddings=checked it decides, and 'models list' and /v1/models show it. The exit
    status is 0 where all agree, and 3 where one does not; int8 counts only where int8_embeddings is not off.
    """
    settings = settings_with(models_dir=models_dir)
    store = ModelStore(settings.models_dir)
    model = model_of(settings, store, name, settings.encode_workers)
    pictures = photographs(settings, images)
    tried: list[Tried] = []
    rounded: Tried | None = None
    for each in judge(model, model.ways, list(pictures.values()), source="check"):
        verdict = each.verdict
        outcome = verdict.failed or f"an image took {verdict.encode_s:.2f} s, a click {verdict.decode_s * 1e3:.0f} ms"
        say(f"{verdict.engine} in {verdict.precision}: {outcome}")
        tried.append(Tried(verdict, None, each.overlaps))
        if rounded is None and each.backend is not None:
            rounded = judge_int8(each.backend.engine, verdict, list(pictures.values()))
        del each  # the engine goes before the next one comes
    bound = settings.engine_least_iou
    if rounded is None:
        raise BadInput(f"No engine can compute {name} here: install one (docs/models.md).")
    tried.append(rounded)
    found = [each for each in tried if not each.verdict.failed]
    if as_json:
        data(_as_data(name, bound, tried, list(pictures)))
    else:
        _print(bound, found, list(pictures))
    store.note_verdicts(name, this_machine(), [each.verdict for each in tried])
    counted = [each.verdict for each in found if not each.verdict.embedding or settings.int8_embeddings != "off"]
    if not all(verdict.agrees(bound) for verdict in counted):
        sys.exit(DISAGREE)


def photographs(settings: Settings, files: Sequence[Path] = ()) -> dict[str, Pixels]:
    """Name → pixels of these files, or else of the photographs that come with scikit-image.

    Raises:
        BadInput: a file is no image, or scikit-image was installed without its pictures.
    """
    given = list(files)
    if not given:
        package = find_spec("skimage")
        folder = Path(package.submodule_search_locations[0]) if package and package.submodule_search_locations else None
        given = [folder / "data" / name for name in PHOTOGRAPHS] if folder else []
    if not given or not all(file.is_file() for file in given):
        raise BadInput("The photographs of scikit-image are not in this installation: give some with --image FILE.")
    most = settings.max_image_pixels
    return {file.name: decode(file.read_bytes(), image_id="", max_pixels=most).pixels for file in given}


def _print(bound: float, found: Sequence[Tried], names: Sequence[str]) -> None:
    kinds = list(dict.fromkeys(chain.from_iterable(chain.from_iterable(each.overlaps) for each in found)))
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("engine", "precision", "photograph", *kinds):
        table.add_column(heading, no_wrap=True)
    for tried in found[1:]:  # the first one is what the others are compared with
        for name, overlaps in zip(names, tried.overlaps, strict=True):
            cells = [" ".join(f"{iou:.3f}" for iou in overlaps[kind]) or "–" for kind in kinds]
            table.add_row(tried.verdict.engine, _precision(tried.verdict), name, *cells)
    Console(width=max(Console().width, 110)).print(table)
    reference = found[0].verdict
    show(
        f"Overlap (IoU) of three masks each with those of {reference.engine} in {reference.precision}; of embeddings "
        "in int8 with those of the same in fp16."
    )
    for tried in found[1:]:
        verdict = tried.verdict
        word = "agrees" if verdict.agrees(bound) else "does NOT agree"
        sums = (
            f"least {verdict.least_iou:.3f}, mean {verdict.mean_iou:.3f} of {verdict.masks} masks; the bound is {bound}"
        )
        if verdict.embedding:
            show(f"Embeddings in int8, by {verdict.engine}: what comes of them {word} with fp16's: {sums}.")
            continue
        speed = reference.total_s / verdict.total_s if verdict.total_s else 0.0
        show(
            f"{verdict.engine} in {verdict.precision} {word}: {sums}. {speed:.1f} × as fast (an image and ten clicks)."
        )
    if len(found) == 2:
        show("It is the only engine that can compute here, and in one precision: nothing else to compare.")


def _precision(verdict: Verdict) -> str:
    return f"{verdict.embedding} embedding" if verdict.embedding else verdict.precision


def _as_data(name: str, bound: float, tried: Sequence[Tried], names: Sequence[str]) -> dict[str, Any]:
    def one(each: Tried) -> dict[str, Any]:
        by_photograph: Mapping[str, Any] = dict(zip(names, each.overlaps, strict=False))
        return {**asdict(each.verdict), "agrees": each.verdict.agrees(bound), "photographs": by_photograph}

    return {"model": name, "machine": this_machine(), "least_iou": bound, "verdicts": [one(each) for each in tried]}
