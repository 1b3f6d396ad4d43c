"""What is timed, and how the figures are shown."""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from labeling_ground.inference.auto import sample
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import paint
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.sam.prompts import PromptTensors, tensors
from labeling_ground.types import Point, Prompt

GFLOP = {"sam-vit-b": 972.0, "mobile-sam": 77.5, "decoder": 3.62}
"""Arithmetic of one image, and of one click as the reference computes it."""

Call = Callable[[], object]


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
    """Shortest and median time of each call, in ms, after one warm-up, in rounds that run all of them in turn."""
    taken: dict[tuple[str, int], list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if index:
                taken[name].append((time.perf_counter() - started) * 1e3)
    return {name: (min(t), median(t)) for name, t in taken.items()}


def gflops(threads: int) -> float:
    """What a product of two 2048 × 2048 matrices reaches in fp32, the best of six, in GFLOP/s."""
    import torch

    torch.set_num_threads(threads)
    a = torch.randn(2048, 2048)
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


def decoders(folder: Path, rounds: int, peaks: Mapping[int, float]) -> list[Row]:
    """One click on an embedding that is there."""
    import onnxruntime

    from bench.engines import models
    from labeling_ground.inference.sam import decoder_inputs

    files = models.files("mobile-sam", folder)
    official = models.official_decoder("mobile-sam", folder)
    embedding = {"image_embeddings": np.random.default_rng(0).standard_normal((1, 256, 64, 64), np.float32)}
    read = click()
    calls: dict[tuple[str, int], Call] = {}
    for threads in (1, 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for name, path in (
            ("ONNX Runtime's defaults, official graph with masks of 1024 × 768", official),
            ("ONNX Runtime's defaults, our plain graph", files["decoder_path"]),
        ):
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            given = decoder_inputs(embedding, read, [entry.name for entry in session.get_inputs()])
            if "orig_im_size" in given:
                given["orig_im_size"] = np.array([768.0, 1024.0], np.float32)
            calls[name, threads] = partial(session.run, None, given)
        for name, engine in engines(files, threads).items():
            calls[f"ours: {name}", threads] = partial(engine.decode, embedding, read, alone=True)
        calls["torch eager, the reference", threads] = torch_decode(models.reference("mobile-sam"), read, threads)
    found = interleaved(calls, rounds)
    return [
        Row("one click", how, threads, *ms, GFLOP["decoder"] / ms[0] * 1e3 / peaks[threads])
        for (how, threads), ms in found.items()
    ]


def encoders(family: str, folder: Path, rounds: int, peaks: Mapping[int, float]) -> list[Row]:
    """One image, on two threads."""
    import onnxruntime
    import torch

    from bench.engines import models

    files = models.files(family, folder)
    square = preprocess(sample(), Family.SAM)
    threads = 2
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    plain = onnxruntime.InferenceSession(str(files["encoder_path"]), options, providers=["CPUExecutionProvider"])
    module = models.reference(family).image_encoder

    def eager() -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return module(torch.from_numpy(square))

    calls: dict[tuple[str, int], Call] = {
        ("torch eager, the reference", threads): eager,
        ("ONNX Runtime's defaults", threads): lambda: plain.run(None, {"image": square}),
    }
    for name, engine in engines(files, threads).items():
        calls[f"ours: {name}", threads] = partial(engine.encode, sample())
    found = interleaved(calls, rounds)
    return [
        Row(f"one image, {family}", how, threads, *ms, GFLOP[family] / ms[0] * 1e3 / peaks[threads])
        for (how, threads), ms in found.items()
    ]


def engines(files: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Our engines, those that are installed, in every precision that this processor has."""
    from labeling_ground.inference import onnx, openvino

    made = {"ONNX Runtime": onnx.create(threads, threads, **files).engine}
    for precision in openvino.offered():
        backend = openvino.create(threads, threads, **files, precision=precision)
        made[f"OpenVINO {precision}"] = backend.engine
    return made


def torch_decode(model: Any, read: PromptTensors, threads: int) -> Call:
    """The reference's own decode, up to its low-res logits."""
    import torch

    embedding = torch.randn(1, 256, 64, 64)
    coords, labels = torch.from_numpy(read.point_coords[:, :1]), torch.from_numpy(read.point_labels[:, :1])

    def decode() -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            sparse, dense = model.prompt_encoder((coords, labels), None, None)
            return model.mask_decoder(
                image_embeddings=embedding,
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )

    return decode


def run(folder: Path, *, toy: bool) -> dict[str, Any]:
    """Everything; at toy size only what needs no engine."""
    rows = parts(3 if toy else 15)
    peaks: dict[int, float] = {}
    if not toy:
        from bench.engines import models

        peaks = {threads: gflops(threads) for threads in (1, 2)}
        rows += decoders(folder, 15, peaks)
        for family, rounds in zip(models.FAMILIES, (2, 5), strict=True):
            rows += encoders(family, folder, rounds, peaks)
    return {
        "processor": platform.processor() or platform.machine(),
        "peak_gflops": {str(threads): round(peak, 1) for threads, peak in peaks.items()},
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
    lines = ["| what | how | threads | min ms | median ms | of fp32 peak |", "| --- | --- | --- | --- | --- | --- |"]
    for row in result["rows"]:
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        lines.append(
            f"| {row['what']} | {row['how']} | {row['threads']} | {row['min_ms']} | {row['median_ms']} | {share} |"
        )
    return "\n".join(lines)
