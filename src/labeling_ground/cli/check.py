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
from labeling_ground.inference.auto import Tried, judge
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

    Those that are installed, by the overlap of masks (IoU). Takes an encode for each photograph, engine and precision.
    What is found is kept with the model: with engine_precision=auto it decides, and 'models list' and /v1/models show
    it. The exit status is 0 where all agree, and 3 where one does not.
    """
    settings = settings_with(models_dir=models_dir)
    store = ModelStore(settings.models_dir)
    model = model_of(settings, store, name, settings.encode_workers)
    pictures = photographs(settings, images)
    tried: list[Tried] = []
    for each in judge(model, model.ways, list(pictures.values()), source="check"):
        verdict = each.verdict
        outcome = verdict.failed or f"an image took {verdict.encode_s:.2f} s, a click {verdict.decode_s * 1e3:.0f} ms"
        say(f"{verdict.engine} in {verdict.precision}: {outcome}")
        tried.append(Tried(verdict, None, each.overlaps))
        del each  # the engine goes before the next one comes
    bound = settings.engine_least_iou
    found = [each for each in tried if not each.verdict.failed]
    if not found:
        raise BadInput(f"No engine can compute {name} here: install one (docs/models.md).")
    if as_json:
        data(_as_data(name, bound, tried, list(pictures)))
    else:
        _print(bound, found, list(pictures))
    store.note_verdicts(name, this_machine(), [each.verdict for each in tried])
    if not all(agrees(each.verdict, bound) for each in found):
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


def agrees(verdict: Verdict, least_iou: float) -> bool:
    """Whether each mask overlaps with that of fp32 by so much, and there was one to compare."""
    return not verdict.failed and verdict.masks > 0 and verdict.least_iou >= least_iou


def _print(bound: float, found: Sequence[Tried], names: Sequence[str]) -> None:
    kinds = list(dict.fromkeys(chain.from_iterable(chain.from_iterable(each.overlaps) for each in found)))
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("engine", "precision", "photograph", *kinds):
        table.add_column(heading, no_wrap=True)
    for tried in found[1:]:  # the first one is what the others are compared with
        for name, overlaps in zip(names, tried.overlaps, strict=True):
            cells = [" ".join(f"{iou:.3f}" for iou in overlaps[kind]) or "–" for kind in kinds]
            table.add_row(tried.verdict.engine, tried.verdict.precision, name, *cells)
    Console(width=max(Console().width, 110)).print(table)
    reference = found[0].verdict
    show(f"Overlap (IoU) of three masks each with those of {reference.engine} in {reference.precision}.")
    for tried in found[1:]:
        verdict = tried.verdict
        word = "agrees" if agrees(verdict, bound) else "does NOT agree"
        sums = (
            f"least {verdict.least_iou:.3f}, mean {verdict.mean_iou:.3f} of {verdict.masks} masks; the bound is {bound}"
        )
        speed = reference.total_s / verdict.total_s if verdict.total_s else 0.0
        show(
            f"{verdict.engine} in {verdict.precision} {word}: {sums}. {speed:.1f} × as fast (an image and ten clicks)."
        )
    if len(found) == 1:
        show("It is the only one that can compute here: there was nothing to compare.")


def _as_data(name: str, bound: float, tried: Sequence[Tried], names: Sequence[str]) -> dict[str, Any]:
    def one(each: Tried) -> dict[str, Any]:
        by_photograph: Mapping[str, Any] = dict(zip(names, each.overlaps, strict=False))
        return {**asdict(each.verdict), "agrees": agrees(each.verdict, bound), "photographs": by_photograph}

    return {"model": name, "machine": this_machine(), "least_iou": bound, "verdicts": [one(each) for each in tried]}
