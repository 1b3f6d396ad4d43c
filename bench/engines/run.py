"""What is timed, and how the figures are shown."""

import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.serving.run import where
from labeling_ground.inference.agreement import sample
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import paint
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.sam.prompts import PromptTensors, tensors
from labeling_ground.types import Point, Prompt

Call = Callable[[], object]

_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was timed: shortest and median of its rounds, in ms, and its share of the measured peak."""

    what: str
    how: str
    threads: int
    min_ms: float
    median_ms: float
    peak: float | None


def interleaved(calls: Mapping[tuple[str, int], Call], rounds: int) -> dict[tuple[str, int], tuple[float, float]]:
    """Shortest and median time of each call, in ms, after one warm-up, in rounds that run all of them in turn.

    Between two calls there is a pause: threads of ONNX Runtime's defaults go on spinning after their turn, and would
    take the cores from whatever comes next.
    """
    taken: dict[tuple[str, int], list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name, call in calls.items():
            time.sleep(_PAUSE_S)
            started = time.perf_counter()
            call()
            if index:
                taken[name].append((time.perf_counter() - started) * 1e3)
    return {name: (min(t), median(t)) for name, t in taken.items()}


def gflops(threads: int, precision: str = "fp32") -> float:
    """What a product of two 2048 × 2048 matrices reaches, the best of six, in GFLOP/s."""
    import torch

    torch.set_num_threads(threads)
    a = torch.randn(2048, 2048, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started) / 1e9)
    return best


def parts(rounds: int) -> list[Row]:
    """What is ours around the engines: pixels in, masks out. Needs no engine."""
    picture = sample()
    small = np.full((256, 256), -1.0, np.float32)
    small[60:134, 60:134] = 1.0  # a tenth of a 4:3 image
    photo, large = Family.SAM.frame(768, 1024), Family.SAM.frame(3000, 4000)
    calls: dict[tuple[str, int], Call] = {
        ("resize, normalise and pad 1024 × 768", 1): lambda: preprocess(picture, Family.SAM),
        ("mask of 1024 × 768, a tenth of it", 1): lambda: paint(small, photo, Family.SAM),
        ("mask of 4000 × 3000, a tenth of it", 1): lambda: paint(small, large, Family.SAM),
        ("mask of 4000 × 3000, all of it", 1): lambda: paint(small + 2, large, Family.SAM),
    }
    found = interleaved(calls, rounds)
    return [Row(what, "numpy and OpenCV", threads, *ms, None) for (what, threads), ms in found.items()]


def click(family: Family = Family.SAM) -> PromptTensors:
    """One click on the sample picture."""
    return tensors(Prompt((Point(500.0, 350.0, 1),)), family.frame(768, 1024), family)


Peaks = Mapping[tuple[int, str], float]
"""Threads and precision → GFLOP/s."""


def decodes(name: str, folder: Path, rounds: int, peaks: Peaks, *, compiled: bool) -> list[Row]:
    """One click on an embedding that is there."""
    import torch

    from bench.engines import models
    from labeling_ground.inference.dialects import decoder_inputs

    model, files = models.MODELS[name], models.files(name, folder)
    rng = np.random.default_rng(0)
    embedding = {key: rng.standard_normal(shape, np.float32) for key, shape in model.family.embedding_shapes.items()}
    in_torch = {key: torch.from_numpy(tensor) for key, tensor in embedding.items()}
    read, module = click(model.family), model.reference()
    # The references add the padding themselves. Made here: torch.compile cannot follow into a tensor made of an array.
    points = torch.from_numpy(read.point_coords[:, :1].copy()), torch.from_numpy(read.point_labels[:, :1].copy())
    graphs = {
        "ONNX Runtime's defaults, official graph with masks of 1024 × 768": models.official_decoder(name, folder),
        "ONNX Runtime's defaults, our plain graph": files["decoder_path"],
    }
    calls: dict[tuple[str, int], Call] = {}
    for threads in (1, 2):
        for how, path in graphs.items():
            if path is None:
                continue
            session = _plain_session(path, threads)
            given = decoder_inputs(embedding, read, [entry.name for entry in session.get_inputs()])
            if "orig_im_size" in given:
                given["orig_im_size"] = np.array([768.0, 1024.0], np.float32)
            calls[how, threads] = partial(session.run, None, given)
        for how, engine in engines(files, threads).items():
            calls[f"ours: {how}", threads] = partial(engine.decode, embedding, read, alone=True)
        for how, call in _in_torch(partial(model.decode, module), threads, compiled=compiled).items():
            calls[how, threads] = partial(call, in_torch, points)
    return _rows(f"one click, {name}", calls, rounds, model.decode_gflop, peaks)


def encodes(name: str, folder: Path, peaks: Peaks, *, compiled: bool) -> list[Row]:
    """One image, on two threads."""
    import torch

    from bench.engines import models

    model, files, threads = models.MODELS[name], models.files(name, folder), 2
    square, module = preprocess(sample(), model.family), model.reference()
    plain = _plain_session(files["encoder_path"], threads)
    calls: dict[tuple[str, int], Call] = {
        ("ONNX Runtime's defaults", threads): lambda: plain.run(None, {"image": square}),
    }
    for how, call in _in_torch(partial(model.encode, module), threads, compiled=compiled).items():
        calls[how, threads] = partial(call, torch.from_numpy(square))
    for how, engine in engines(files, threads, compiled=compiled).items():
        calls[f"ours: {how}", threads] = partial(engine.encode, sample())
    return _rows(f"one image, {name}", calls, model.rounds, model.encode_gflop, peaks)


def _rows(what: str, calls: Mapping[tuple[str, int], Call], rounds: int, gflop: float, peaks: Peaks) -> list[Row]:
    return [
        Row(what, how, threads, *ms, gflop / ms[0] * 1e3 / peaks[threads, "bf16" if "bf16" in how else "fp32"])
        for (how, threads), ms in interleaved(calls, rounds).items()
    ]


def engines(files: Mapping[str, Any], threads: int, *, compiled: bool = False) -> dict[str, Any]:
    """Our engines, those that are installed, in every precision that this processor has; torch also compiled, if
    wanted."""
    from labeling_ground.inference import onnx, openvino, torch_engine

    made = {"ONNX Runtime": onnx.create(threads, threads, **files).engine}
    for precision in openvino.offered():
        backend = openvino.create(threads, threads, **files, precision=precision)
        made[f"OpenVINO {precision}"] = backend.engine
    checkpoint = files["encoder_path"].with_name("weights.pth")
    given = {"encoder_path": checkpoint, "decoder_path": checkpoint, "device": "cpu"}
    for precision in openvino.offered():
        for how in (False, True)[: 1 + compiled]:
            backend = torch_engine.create(threads, threads, **given, precision=precision, compiled=how)
            made[f"torch {precision}{', compiled' if how else ''}"] = backend.engine
    return made


def _plain_session(path: Path, threads: int) -> Any:
    """As one gets it who changes nothing but the number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _in_torch(function: Callable[..., object], threads: int, *, compiled: bool) -> dict[str, Callable[..., object]]:
    """The reference as it stands and, if wanted, compiled."""
    import torch

    def guarded(inner: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                return inner(*arguments)

        return call

    made = {"torch eager, the reference": guarded(function)}
    if compiled:
        made["torch.compile, the reference"] = guarded(torch.compile(lambda *given: function(*given), dynamic=False))
    return made


def run(folder: Path, *, toy: bool, names: Sequence[str] = (), compiled: bool = True) -> dict[str, Any]:
    """Everything, or only the models named; at toy size only what needs no engine."""
    rows = parts(3 if toy else 15)
    peaks: dict[tuple[int, str], float] = {}
    if not toy:
        from bench.engines import models
        from labeling_ground.inference import openvino

        peaks = {
            (threads, precision): gflops(threads, precision) for threads in (1, 2) for precision in openvino.offered()
        }
        compiled = compiled and shutil.which("g++") is not None
        for name in names or models.MODELS:
            if models.MODELS[name].has_own_decoder:
                rows += decodes(name, folder, 15, peaks, compiled=compiled)
            rows += encodes(name, folder, peaks, compiled=compiled)
    return {
        "processor": platform.processor() or platform.machine(),
        "where": where(),
        "peak_gflops": {f"{precision}, {threads}": round(peak, 1) for (threads, precision), peak in peaks.items()},
        "rows": [
            {
                "what": row.what,
                "how": row.how,
                "threads": row.threads,
                "min_ms": round(row.min_ms, 2),
                "median_ms": round(row.median_ms, 2),
                "share_of_peak": None if row.peak is None else round(row.peak, 3),
            }
            for row in rows
        ],
    }


def table(result: Mapping[str, Any]) -> str:
    """The figures in Markdown."""
    peaks = ", ".join(f"{peak} GFLOP/s in {name} threads" for name, peak in result["peak_gflops"].items())
    place = result["where"]
    lines = [f"Machine: {place['machine']}; commit {place['commit']}; {place['date']}.", f"Measured peaks: {peaks}."]
    if peaks:
        lines.append(
            "Clicks count what the reference computes (3.62 GFLOP for SAM); ours computes 2.04, so its share can pass "
            "100 %. ViT-B has the decoder that MobileSAM has."
        )
    if peaks and "bf16" not in peaks:
        lines.append("bf16 was not measured: this processor has none, and OpenVINO would compute fp32 under that name.")
    lines += [
        "",
        "| what | how | threads | min ms | median ms | of the peak |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        lines.append(
            f"| {row['what']} | {row['how']} | {row['threads']} | {row['min_ms']} | {row['median_ms']} | {share} |"
        )
    return "\n".join(lines)
