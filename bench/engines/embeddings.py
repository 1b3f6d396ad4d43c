"""``python -m bench.engines.embeddings``: what an embedding kept in int8 saves, and what that does to masks.

By the code that serves (``codec.int8``), and as ``models check`` compares: masks with those of the embedding in fp16,
on the same photographs. Random weights.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.engines import models
from bench.serving.run import where
from labeling_ground.cli.check import photographs
from labeling_ground.codec.int8 import to_int8
from labeling_ground.inference import onnx
from labeling_ground.inference.auto import judge_int8
from labeling_ground.settings import Settings
from labeling_ground.verdict import Verdict


def run(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Bytes, time to round, and IoU for each model."""
    rows = []
    for name in names:
        engine = onnx.create(2, 2, **models.files(name, folder)).engine
        pictures = list(photographs(Settings()).values())
        kept = {key: x.astype(np.float16) for key, x in engine.encode(pictures[0]).items()}
        taken: list[float] = []
        for _ in pictures:
            started = time.perf_counter()
            low = to_int8(kept)
            taken.append(time.perf_counter() - started)
        found = judge_int8(engine, Verdict("onnx", "fp32"), pictures).verdict
        rows.append(
            {
                "model": name,
                "fp16_bytes": sum(x.nbytes for x in kept.values()),
                "int8_bytes": sum(x.nbytes for x in low.values()),
                "round_ms": round(median(taken) * 1e3, 1),
                "masks": found.masks,
                "least_iou": found.least_iou,
                "mean_iou": found.mean_iou,
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
