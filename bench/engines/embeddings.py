"""``python -m bench.engines.embeddings``: what an embedding kept in int8 saves, and what that does to masks.

By the code that serves (``codec.int8``), and as ``models check`` compares: masks with those of the embedding in fp16,
on the same photographs. Random weights.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.command import models_folder, parser_of, report
from bench.engines import models
from bench.serving.run import where
from labeling_ground.cli.check import photographs
from labeling_ground.codec.int8 import to_int8
from labeling_ground.inference import onnx
from labeling_ground.inference.auto import judge_int8
from labeling_ground.settings import Settings
from labeling_ground.verdict import Verdict

MODULE = "bench.engines.embeddings"


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
    parser = parser_of(MODULE, models=True)
    parser.add_argument("--model", action="append", default=[], help="only this one; may be given several times")
    given = parser.parse_args()
    result = run(models_folder(given), given.model or list(models.MODELS))
    report(given, MODULE, "Embeddings in int8", result, table)


if __name__ == "__main__":
    main()
