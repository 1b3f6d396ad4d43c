"""``python -m bench.engines.options``: ONNX Runtime's options one by one, in turn; and weights rounded to int8.

The first table says what each option of ours costs or gains an encode against ONNX Runtime's defaults, the second what
int8 gains (dynamic quantisation, as ONNX Runtime does it) and how far its masks are from those of fp32. Random weights.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.command import models_folder, parser_of, report
from bench.engines import models
from bench.engines.run import click, interleaved
from bench.serving.run import where
from labeling_ground.inference import onnx, openvino
from labeling_ground.inference.agreement import masks_of, overlaps, sample
from labeling_ground.inference.onnx_halves import OnnxEncoder
from labeling_ground.sam.preprocess import preprocess

MODULE = "bench.engines.options"
THREADS = 2
Call = Callable[[], object]


def session(path: Path, *, spins: bool = True, fuses: bool = True) -> Any:
    """ONNX Runtime's defaults, but for the options named."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    without = [] if fuses else ["SkipLayerNormFusion"]
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=without
    )


def encodes(name: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """One image by ONNX Runtime's defaults, by these with one option of ours, and by our engine."""
    path = models.files(name, folder)["encoder_path"]
    square = preprocess(sample(), models.MODELS[name].family)
    shrinking = onnxruntime.RunOptions()
    shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    ways: dict[str, tuple[dict[str, bool], Any]] = {
        "ONNX Runtime's defaults": ({}, None),
        "defaults, threads do not spin": ({"spins": False}, None),
        "defaults, without SkipLayerNormFusion": ({"fuses": False}, None),
        "defaults, work memory given back after each image": ({}, shrinking),
    }
    calls: dict[tuple[str, int], Call] = {
        (how, THREADS): partial(session(path, **options).run, None, {"image": square}, run_options)
        for how, (options, run_options) in ways.items()
    }
    calls["ours, with resizing", THREADS] = partial(OnnxEncoder(path, THREADS, idle_s=3600.0).encode_all, [sample()])
    return _rows(name, calls, rounds)


def rounded(name: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """One image and one click in fp32, with weights of int8, and in bf16 where the processor has it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    files = models.files(name, folder)
    low = dict(files)
    for part in ("encoder_path", "decoder_path", "fast_decoder_path"):
        low[part] = files[part].with_name(f"{files[part].stem}-int8.onnx")
        if not low[part].exists():
            quantize_dynamic(files[part], low[part], weight_type=QuantType.QInt8, per_channel=False)
    engines = {
        "ONNX Runtime, fp32": onnx.create(THREADS, THREADS, **files).engine,
        "ONNX Runtime, int8": onnx.create(THREADS, THREADS, **low).engine,
    }
    for precision in openvino.offered():
        engines[f"OpenVINO, {precision}"] = openvino.create(THREADS, THREADS, **files, precision=precision).engine
    reference = engines["ONNX Runtime, fp32"]
    embedding = reference.encode(sample())
    masks = masks_of(reference, sample(), embedding)
    calls: dict[tuple[str, int], Call] = {}
    agreement = {}
    for how, engine in engines.items():
        calls[f"image, {how}", THREADS] = partial(engine.encode, sample())
        calls[f"click, {how}", THREADS] = partial(engine.decode, embedding, click(engine.family), alone=True)
        for part, own in (
            ("image", masks_of(reference, sample(), engine.encode(sample()))),
            ("click", masks_of(engine, sample(), embedding)),
        ):
            ious = [iou for some in overlaps(own, masks).values() for iou in some]
            agreement[f"{part}, {how}"] = {"least_iou": round(min(ious), 4), "mean_iou": round(float(np.mean(ious)), 4)}
    return [row | agreement[row["how"]] for row in _rows(name, calls, rounds)]


def _rows(name: str, calls: Mapping[tuple[str, int], Call], rounds: int) -> list[dict[str, Any]]:
    return [
        {"model": name, "how": how, "min_ms": round(least, 1), "median_ms": round(middle, 1)}
        for (how, _), (least, middle) in interleaved(calls, rounds).items()
    ]


def table(result: Mapping[str, Any]) -> str:
    """Both tables in Markdown."""
    place = result["where"]
    lines = [f"Machine: {place['machine']}; commit {place['commit']}; {place['date']}. {THREADS} threads.", ""]
    lines += ["| model | one image by | min ms | median ms |", "| --- | --- | --- | --- |"]
    lines += [f"| {row['model']} | {row['how']} | {row['min_ms']} | {row['median_ms']} |" for row in result["options"]]
    lines += ["", "| model | what, by | min ms | median ms | least IoU | mean IoU |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['model']} | {row['how']} | {row['min_ms']} | {row['median_ms']} | {row['least_iou']:.3f} | "
        f"{row['mean_iou']:.3f} |"
        for row in result["int8"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(MODULE, models=True)
    parser.add_argument("--model", action="append", default=[], help="default: mobile-sam; may be given several times")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--int8-only", action="store_true", help="without the options, which take 20 GB for ViT-B")
    given = parser.parse_args()
    folder, names = models_folder(given), given.model or ["mobile-sam"]
    result = {
        "where": where(),
        "options": [row for name in names if not given.int8_only for row in encodes(name, folder, given.rounds)],
        "int8": [row for name in names for row in rounded(name, folder, given.rounds)],
    }
    report(given, MODULE, "ONNX Runtime's options, and int8", result, table)


if __name__ == "__main__":
    main()
