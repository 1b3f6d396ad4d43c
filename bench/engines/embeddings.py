"""``python -m bench.engines.embeddings``: what an embedding kept in int8 saves, and what that does to masks.

int8 per channel: each channel's values in steps of a 127th of its largest. Masks are compared with those of the
embedding in fp16, as the cache keeps it, on the photographs of ``models check``. Random weights.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.engines import models
from bench.serving.run import where
from labeling_ground.cli.check import photographs
from labeling_ground.inference import onnx
from labeling_ground.inference.agreement import masks_of, overlaps
from labeling_ground.settings import Settings


def rounded(tensor: NDArray[np.float16]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``[1, channels, height, width]`` → the same in int8, and each channel's step."""
    wide = tensor.astype(np.float32)
    step = np.maximum(np.abs(wide).max(axis=(0, 2, 3), keepdims=True), 1e-12) / 127
    return np.rint(wide / step).astype(np.int8), step.astype(np.float32)


def run(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Bytes, time to round, and IoU for each model."""
    rows = []
    for name in names:
        engine = onnx.create(2, 2, **models.files(name, folder)).engine
        ious: list[float] = []
        taken: list[float] = []
        for pixels in photographs(Settings()).values():
            kept = {key: x.astype(np.float16) for key, x in engine.encode(pixels).items()}
            started = time.perf_counter()
            low = {key: rounded(x) for key, x in kept.items()}
            taken.append(time.perf_counter() - started)
            full = masks_of(engine, pixels, {key: x.astype(np.float32) for key, x in kept.items()})
            ours = masks_of(engine, pixels, {key: x.astype(np.float32) * step for key, (x, step) in low.items()})
            ious += [iou for some in overlaps(ours, full).values() for iou in some]
        rows.append(
            {
                "model": name,
                "fp16_bytes": sum(x.nbytes for x in kept.values()),
                "int8_bytes": sum(x.nbytes + step.nbytes for x, step in low.values()),
                "round_ms": round(median(taken) * 1e3, 1),
                "masks": len(ious),
                "least_iou": min(ious),
                "mean_iou": mean(ious),
            }
        )
    return {"where": where(), "rows": rows}


def table(result: Mapping[str, Any]) -> str:
    """The figures in Markdown."""
    place = result["where"]
    lines = [f"Machine: {place['machine']}; commit {place['commit']}; {place['date']}.", ""]
    lines += ["| model | fp16 bytes | int8 bytes | ms to round | masks | least IoU | mean IoU |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['model']} | {row['fp16_bytes']:,} | {row['int8_bytes']:,} | {row['round_ms']} | {row['masks']} | "
        f"{row['least_iou']:.4f} | {row['mean_iou']:.4f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines.embeddings", description=__doc__)
    parser.add_argument("--models", type=Path, help="folder of the exported models, kept for the next run")
    parser.add_argument("--model", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--json", action="store_true", help="figures instead of a table")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    folder = given.models or Path(tempfile.mkdtemp(prefix="labeling-ground-bench-"))
    result = run(folder, given.model or list(models.MODELS))
    print(json.dumps(result, indent=2) if given.json else table(result))
    if given.out:
        made = "Made by `python -m bench.engines.embeddings`."
        given.out.write_text(f"# Embeddings in int8\n\n{made}\n\n{table(result)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
