"""``python -m bench.engines.sam3``: what the parts of SAM 3 cost, against each other and against SAM 2.1's click.

The real architecture with seeded random weights, whose arithmetic is that of real ones. Every ratio is of calls that
were made in turn in one process; «CPU» is seconds of all its threads, which other work on the machine disturbs less.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.engines.run import click
from bench.serving.run import where
from labeling_ground.inference.agreement import sample
from labeling_ground.networks.sam3_files import FILES, files_of
from labeling_ground.sam.family import Family
from labeling_ground.types import Box, Embedding, Exemplar

PHRASES = ("screw", "small dark screw")
SHOWN = (Exemplar(Box(350, 200, 650, 500)), Exemplar(Box(10, 10, 90, 80), positive=False))
TRUNK, WINDOWED, GLOBAL = "trunk", "a windowed layer of the trunk", "a global layer of the trunk"
NEW, HELD = "new phrase on a stored trunk", "new phrase, features at hand"
OURS, THEIRS = "click, SAM 3", "click, SAM 2.1"
NEW_PHRASE, CLICK = 0.12, 1.15
"""The targets: a new phrase against trunk and phrase, and a click against SAM 2.1's."""

Times = dict[str, list[tuple[float, float]]]
"""What was called → seconds by the clock and on the CPU, of each round."""


def make(folder: Path) -> dict[str, Path]:
    """The files of the model, made if they are not there: 3.4 GB."""
    from tests.sam.references_sam3 import real_config, save

    if not all((folder / name).is_file() for name in FILES.values()):
        folder.mkdir(parents=True, exist_ok=True)
        save(folder, real_config())
        gc.collect()
    return files_of(folder)


def timed(calls: Mapping[str, Callable[[], object]], rounds: int, taken: Times) -> None:
    """Call all in turn, so many times."""
    for _ in range(rounds):
        for name, call in calls.items():
            started, before = time.perf_counter(), time.process_time()
            call()
            spent = time.perf_counter() - started, time.process_time() - before
            taken.setdefault(name, []).append(spent)
            print(f"{name}: {spent[0]:.3f} s, {spent[1]:.3f} s on the CPU", file=sys.stderr)


def parity(engine: Any, trunk: Embedding, pixels: Any) -> dict[str, tuple[float, float]]:
    """Largest differences from ``Sam3Model`` called directly, from pixels, with a phrase and exemplars; each with the
    standard deviation of what is compared, beside which it is small or is not."""
    import torch

    from labeling_ground.sam.preprocess import stretch_sam3

    height, width = pixels.shape[:2]
    boxes = [
        [(b.x0 + b.x1) / 2 / width, (b.y0 + b.y1) / 2 / height, (b.x1 - b.x0) / width, (b.y1 - b.y0) / height]
        for b in (each.box for each in SHOWN)
    ]
    given = engine._tokenizer(PHRASES[1], padding="max_length", max_length=32, return_tensors="pt")
    with torch.inference_mode():
        direct = engine._detector(
            pixel_values=torch.from_numpy(stretch_sam3(pixels)),
            input_boxes=torch.tensor([boxes]),
            input_boxes_labels=torch.tensor([[int(each.positive) for each in SHOWN]]),
            **given,
        )
    scores = (direct.pred_logits.sigmoid() * direct.presence_logits.sigmoid())[0]
    order = scores.argsort(descending=True, stable=True)
    ours = engine.detect(trunk, engine.text(PHRASES[1]), engine.exemplars(trunk, SHOWN), least=0.0)
    theirs = {
        "scores": (ours.scores, scores[order]),
        "boxes": (ours.boxes, direct.pred_boxes[0, order]),
        "mask logits": (ours.logits, direct.pred_masks[0, order]),
    }
    return {
        name: (float(np.abs(made - wanted.numpy()).max()), float(wanted.std()))
        for name, (made, wanted) in theirs.items()
    }


def sam2_click() -> Callable[[], object]:
    """One click of SAM 2.1 tiny, whose decoder is that of all its sizes, by the same decoder in torch as ours."""
    import torch

    from bench.engines.models import MODELS
    from labeling_ground.networks.decoders import FastDecoder

    fast = FastDecoder(MODELS["sam2.1-tiny"].reference()).eval()
    rng, read = np.random.default_rng(0), click(Family.SAM2)
    embedding = [rng.standard_normal(shape, np.float32) for shape in Family.SAM2.embedding_shapes.values()]
    tensors = [*map(torch.from_numpy, [*embedding, read.point_coords, read.point_labels]), None, torch.zeros(1)]

    def decode() -> object:
        with torch.inference_mode():
            return fast(*tensors)

    return decode


def layers_of(engine: Any) -> dict[str, Callable[[], object]]:
    """One layer of the trunk of each kind, which are what the trunk consists of but for a thousandth."""
    import torch

    backbone = engine._detector.vision_encoder.backbone
    whole = set(backbone.config.global_attn_indexes)
    side = backbone.config.image_size // backbone.config.patch_size
    places = torch.randn(1, side, side, backbone.config.hidden_size).to(engine._dtype)

    def call(layer: Any) -> object:
        with torch.inference_mode():
            return layer(places)

    kinds = {WINDOWED: min(set(range(len(backbone.layers))) - whole), GLOBAL: min(whole)}
    return {name: partial(call, backbone.layers[index]) for name, index in kinds.items()}


def run(folder: Path, *, threads: int, rounds: int, precision: Any, compare: bool, by_layers: bool) -> str:
    """Time everything, and write it down."""
    from labeling_ground.inference.sam3 import create

    taken: Times = {}
    files = make(folder / "sam3")
    engine = create(threads, 1, files=files, digests=["00" * 32] * 4, precision=precision, device="cpu").engine
    pixels = sample(0)
    rng = np.random.default_rng(0)
    made = rng.standard_normal((1, 72 * 72, 1024), np.float32) if by_layers else engine.trunk(pixels)
    trunk = Embedding({"trunk": made}, *pixels.shape[:2])  # its digest is unknown: nothing is at hand
    known = Embedding(trunk.tensors, trunk.height, trunk.width, digest="known")
    embedding, read = engine.embed(trunk), click(Family.SAM3)
    differ = parity(engine, known, pixels) if compare and not by_layers else {}
    if differ:  # at once: what follows may take an hour, and be cut off
        print(f"largest differences: {differ}", file=sys.stderr, flush=True)

    def phrase(on: Embedding) -> object:
        return engine.detect(on, engine.text(PHRASES[1]), None, least=0.05)

    phrase(known)
    parts: dict[str, Callable[[], object]] = layers_of(engine) if by_layers else {TRUNK: lambda: engine.trunk(pixels)}
    parts |= {
        NEW: lambda: phrase(trunk),
        HELD: lambda: phrase(known),
        "text alone": lambda: engine.text(PHRASES[0]),
        "exemplars, features at hand": lambda: engine.exemplars(known, SHOWN),
        "embedding for clicks from the trunk": lambda: engine.embed(trunk),
    }
    timed(parts, rounds, taken)
    clicks = {OURS: lambda: engine.decode(embedding, read, alone=True), THEIRS: sam2_click()}
    timed(clicks, 2, {})
    timed(clicks, 10 * rounds, taken)
    return table(
        taken, differ, f"{precision}, {threads} threads, medians of {rounds} rounds, of clicks of {10 * rounds}"
    )


def table(taken: Times, differ: Mapping[str, tuple[float, float]], how: str) -> str:
    """The figures as Markdown."""
    clock = {name: median(each[0] for each in rounds) for name, rounds in taken.items()}
    cpu = {name: median(each[1] for each in rounds) for name, rounds in taken.items()}
    for times in (clock, cpu):
        if TRUNK not in times:
            times[TRUNK] = 28 * times[WINDOWED] + 4 * times[GLOBAL]
    at = "; ".join(f"{what} {value}" for what, value in where().items())
    lines = [f"{how}; {at}.", "", "| what | s | CPU s |", "| --- | --- | --- |"]
    lines += [f"| {name} | {clock[name]:.3f} | {cpu[name]:.3f} |" for name in clock]
    lines += ["", "| ratio | clock | CPU | target |", "| --- | --- | --- | --- |"]

    def ratio(what: str, of: Callable[[Mapping[str, float]], float], target: float) -> None:
        lines.append(f"| {what} | {of(clock):.1%} | {of(cpu):.1%} | ≤ {target:.0%} |")

    ratio("new phrase on a stored trunk / trunk and phrase", lambda t: t[NEW] / (t[TRUNK] + t[NEW]), NEW_PHRASE)
    ratio("the same, features at hand", lambda t: t[HELD] / (t[TRUNK] + t[NEW]), NEW_PHRASE)
    ratio("click / SAM 2.1's click", lambda t: t[OURS] / t[THEIRS], CLICK)
    if differ:
        found = ", ".join(f"{what} {value:.1e} (of {spread:.1e})" for what, (value, spread) in differ.items())
        lines += [
            "",
            "Largest differences from `Sam3Model` called directly, phrase and two exemplars, 200 queries (beside the "
            f"standard deviation of what is compared): {found}.",
        ]
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="folder of the model, kept for the next run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--parity", action="store_true", help="compare with transformers called directly, too")
    parser.add_argument(
        "--by-layers", action="store_true", help="time a layer of each kind in place of the whole trunk"
    )
    given = parser.parse_args()
    folder = given.models or Path(tempfile.mkdtemp(prefix="labeling-ground-bench-"))
    told = {"precision": given.precision, "compare": given.parity, "by_layers": given.by_layers}
    print(run(folder, threads=given.threads, rounds=given.rounds, **told))


if __name__ == "__main__":
    main()
