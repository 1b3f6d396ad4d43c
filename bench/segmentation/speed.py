"""``python -m bench.segmentation.speed``: CPU milliseconds of an encode and of each kind of prompt, at 1024 × 768.

CPU time of the calling thread, not wall time: on a shared machine it is the figure that holds. Things come from three
photos of both sides; each figure is the median of seven decodes, and the table has the median and the most over things.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported: what a library's threads do would not be counted

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from bench.segmentation.judge import click_on_error, deepest, jittered_box, through_cache  # noqa: E402
from bench.segmentation.photos import load  # noqa: E402
from labeling_ground.inference.classical.decode import decode_prompt  # noqa: E402
from labeling_ground.inference.classical.engine import encode_image  # noqa: E402
from labeling_ground.key import canonical  # noqa: E402
from labeling_ground.types import Embedding, Point, Prompt  # noqa: E402

PHOTOS = ("astronaut", "china", "arc2017")
THINGS = 4
SIZE = (1024, 768)


def cpu_ms(work: Callable[[], object], repeats: int = 7) -> float:
    """Median CPU milliseconds of the calling thread, after one run that is not counted."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.thread_time()
        work()
        taken.append((time.thread_time() - started) * 1e3)
    return statistics.median(taken)


def measure() -> dict[str, list[float]]:
    """Kind of prompt → a figure for each thing."""
    rows: dict[str, list[float]] = {}
    for name in PHOTOS:
        photo = load(name)
        pixels = np.asarray(cv2.resize(photo.pixels, SIZE), np.uint8)
        embedding = through_cache(encode_image(pixels))
        rows.setdefault("encode", []).append(cpu_ms(partial(encode_image, pixels), 3))
        for thing in photo.things[:THINGS]:
            truth = cv2.resize(thing.mask.astype(np.uint8), SIZE, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
            for kind, prompt in prompts(embedding, truth, thing.name):
                rows.setdefault(kind, []).append(cpu_ms(partial(decode_prompt, embedding, prompt)))
    return rows


def prompts(embedding: Embedding, truth: NDArray[np.bool_], name: str) -> list[tuple[str, Prompt]]:
    """What a robot annotator asks on its way to a thing's mask."""
    points = [Point(*deepest(truth), 1)]
    found = [("1 click, 3 masks", canonical(points)), ("1 click, 1 mask", canonical(points, multimask=False))]
    best = decode_prompt(embedding, canonical(points)).masks[0]
    mask, logits = best.pixels, best.logits
    while len(points) < 10:
        click = click_on_error(mask, truth)
        if click is None:
            break
        points.append(click)
        if len(points) == 2:
            found.append(("2 clicks and a mask, 1 mask", canonical(points, mask_input=logits, multimask=False)))
        if len(points) in (5, 10):
            found.append((f"{len(points)} clicks, 1 mask", canonical(points, multimask=False)))
            found.append((f"{len(points)} clicks, 3 masks", canonical(points)))
        mask = decode_prompt(embedding, canonical(points, multimask=False)).masks[0].pixels
    box = jittered_box(truth, name)
    found.append(("box, 1 mask", canonical(box=box, multimask=False)))
    found.append(("box, 3 masks", canonical(box=box)))
    found.append(("box and 3 clicks, 3 masks", canonical(points[:3], box)))
    return found


def main() -> None:
    """Measure and print."""
    print("| | median, ms | most, ms | things |\n| --- | ---: | ---: | ---: |")
    for kind, taken in measure().items():
        print(f"| {kind} | {statistics.median(taken):.0f} | {max(taken):.0f} | {len(taken)} |")


if __name__ == "__main__":
    main()
