"""The torch engine on a GPU, in one run of at most nine minutes: is it right, how fast, and what of it makes it fast.

``python -m bench.engines.gpu --out FILE``: real sizes with seeded random weights; ``--toy``: small ones on the
processor, to see that everything runs. It needs torch and transformers, and nothing to download. Each step has a
deadline; after each the file is written anew, so that a run that is cut off has said what it found. Predictions are
written before anything runs.

What is timed is the engine's own code (``labeling_ground.inference.torch_engine``). Times are medians, by the GPU's own
clock; inputs rotate, so that none is in a cache.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.engines.run import click as sample_click
from labeling_ground.inference.sam3.engine import Sam3Engine
from labeling_ground.inference.torch_device import Device, Replays, cuda_graphs
from labeling_ground.inference.torch_engine import TorchDecoder, TorchEncoder
from labeling_ground.networks.checkpoint import Loaded, VisionEncoder, skeleton
from labeling_ground.networks.hiera import SIZES, HieraEncoder
from labeling_ground.networks.sam3 import halves_of, joined
from labeling_ground.sam.family import Family
from labeling_ground.sam.prompts import as_tensors
from labeling_ground.types import Embedding

Row = dict[str, Any]
PREDICTIONS: Mapping[str, str] = {
    "ceilings": "H200: 750-800 TFLOP/s in bf16, 4.2 TB/s copied; H100 SXM: 650-700 and 2.8",
    "correctness": "fp32 within 1e-4, bf16 2e-2, fp16 2e-3 rms of the reference; a graph gives what its kernels give",
    "encode": "ViT-H by graph at most 15 ms an image, half of the ceiling; a mask is slower; a graph saves a tenth",
    "decode": "a lone click at most 2 ms; at least 400 clicks/s over prompts of different images, rather 3000",
    "sam3": "trunk at most 25 ms an image kernel by kernel, 15 as a graph; a new phrase 8 to 12 % of trunk and phrase, "
    "half of that with features at hand; a click at most 3 ms",
    "compile": "a tenth to a quarter less than without; at least 60 % of the ceiling for 8 images",
    "hiera": "SAM 2.1 large at most 8 ms, tiny 3 ms",
    "copies": "from locked memory 40-50 GB/s, from other 5-15",
}
VIT: Mapping[str, tuple[dict[str, Any], float]] = {
    "sam-vit-b": ({"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_dim": 3072}, 972.0),
    "sam-vit-h": ({"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120}, 5961.0),
}
"""Name → size of the encoder, and GFLOP of an image."""
_WHOLE = {12: [2, 5, 8, 11], 32: [7, 15, 23, 31], 2: [1]}
_TOY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64}
_SMALL_HIERA: tuple[int, tuple[int, ...]] = (96, (1, 1, 2, 1))
HIERA: Mapping[str, tuple[tuple[int, tuple[int, ...]], float]] = {
    "sam2.1-large": ((144, (2, 6, 36, 4)), 1825.0),
    "sam2.1-tiny": ((96, (1, 2, 7, 2)), 292.7),
}

_SAM3_TRUNK = 5398.6
"""GFLOP of an image."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What steps know: the device, whether sizes are small, and what was found so far."""

    device: Device
    toy: bool
    result: dict[str, Any]

    def ms(self, call: Callable[[Any], object], inputs: Sequence[Any], rounds: int = 30) -> float:
        """Median of the milliseconds of a call, its inputs in turn, after three to warm up."""
        taken = []
        with self.device.computing(os.cpu_count() or 1):
            for turn in range((1 if self.toy else 3) + (1 if self.toy else rounds)):
                given = inputs[turn % len(inputs)]
                started = time.perf_counter()
                if self.device.is_gpu:
                    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    begin.record()
                    call(given)
                    end.record()
                    end.synchronize()
                    taken.append(begin.elapsed_time(end))
                else:
                    call(given)
                    taken.append((time.perf_counter() - started) * 1e3)
        return float(statistics.median(taken[1 if self.toy else 3 :]))

    def share(self, gflop: float, ms: float) -> float | None:
        """Of the measured ceiling in bf16."""
        ceiling = next(
            (row["tflops"] for row in self.result["steps"].get("ceilings", []) if row.get("kind") == "bf16"), None
        )
        return None if ceiling is None else gflop / ms / ceiling


def vit(size: Mapping[str, Any]) -> Loaded:
    """A SAM of this encoder, with seeded random weights, on the processor."""
    torch.manual_seed(5)
    sam = skeleton({**size, "global_attn_indexes": _WHOLE[size["num_hidden_layers"]]})
    return Loaded(Family.SAM, "vit", VisionEncoder(_livened(sam).vision_encoder).eval(), sam, "")


def hiera(width: int, stages: tuple[int, ...]) -> Loaded:
    """The same of SAM 2."""
    from transformers import Sam2Config, Sam2Model

    size = SIZES.get((width, stages), SIZES[96, (1, 2, 7, 2)])
    whole = size.whole if (width, stages) in SIZES else (3,)
    widths = [width * 2**i for i in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": size.heads,
        "blocks_per_stage": list(stages),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [size.heads * 2**i for i in range(4)],
        "window_size_per_stage": list(size.windows),
        "global_attention_blocks": list(whole),
    }
    torch.manual_seed(5)
    vision = {"model_type": "sam2_vision_model", "backbone_config": backbone, "backbone_channel_list": widths[::-1]}
    sam = _livened(Sam2Model(Sam2Config(vision_config=vision)).eval())
    with torch.no_grad():
        return Loaded(Family.SAM2, size.name, HieraEncoder(sam).eval(), sam, "")


def _livened(sam: Any) -> Any:
    """Positions start as zeros, which would hide mistakes."""
    with torch.no_grad():
        for name, weight in sam.named_parameters():
            if any(part in name for part in ("rel_pos", "pos_embed")):
                weight.normal_(0, 0.02)
    return sam


def squares(bench: Bench, images: int, count: int = 3) -> list[Tensor]:
    """Rotating inputs of an encoder, on the device."""
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(images, 3, 1024, 1024, generator=generator).to(bench.device.place) for _ in range(count)]


def encoder(bench: Bench, loaded: Loaded, kind: torch.dtype, **how: bool) -> TorchEncoder:
    """The engine's encoder of a model."""
    return TorchEncoder(loaded, bench.device, kind, os.cpu_count() or 1, 8, **{"compiled": False, **how})


def rms(made: Tensor, wanted: Tensor) -> float:
    """Of the difference, as a share of the standard deviation."""
    return float((made.float() - wanted).square().mean().sqrt() / wanted.std())


# --- the steps ------------------------------------------------------------------------------------------------------


def ceilings(bench: Bench) -> Iterator[Row]:
    """What the device does at best."""
    side, place = (256 if bench.toy else 8192), bench.device.place
    for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        pairs = [tuple(torch.randn(side, side, dtype=kind, device=place) for _ in range(2)) for _ in range(2)]
        ms = bench.ms(lambda pair: pair[0] @ pair[1], pairs, 10)
        yield {"what": f"product of {side}² matrices", "kind": name, "tflops": 2 * side**3 / ms / 1e9}
    tensors = [torch.empty(side, side, 4, device=place) for _ in range(2)]
    ms = bench.ms(lambda x: x.clone(), tensors, 10)
    yield {"what": "copy", "kind": "copy", "tb_per_s": 2 * tensors[0].nbytes / ms / 1e9}


def correctness(bench: Bench) -> Iterator[Row]:
    """The engine against the reference's modules, in fp32 on the same device; graphs against what they recorded."""
    size = _TOY if bench.toy else VIT["sam-vit-b"][0] | {"num_hidden_layers": 2}
    makers: dict[str, Callable[[], Loaded]] = {"sam": partial(vit, size), "sam2": partial(hiera, *_SMALL_HIERA)}
    for family, make in makers.items():
        [image, other] = squares(bench, 1, 2)
        with torch.inference_mode():
            reference = make().encoder.to(bench.device.place)(image)
            wanted = reference[0] if isinstance(reference, tuple) else reference
        bounds = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
        for kind in [*bounds][: 2 if bench.toy else 3]:
            made = encoder(bench, make(), kind)
            with bench.device.computing(os.cpu_count() or 1):
                made.call(other)
                off, again = rms(made.call(image)[0], wanted), rms(made.call(image)[0], made.forward(image)[0].float())
            row = {"what": family, "kind": str(kind), "rms": off, "replayed_rms": again}
            yield row | {"right": off <= bounds[kind] and again <= 1e-6}


def encode(bench: Bench) -> Iterator[Row]:
    """ViT-H (and ViT-B) in bf16: by graph and kernel by kernel, relative positions in the head and as a mask."""
    for name, (size, gflop) in VIT.items():
        if bench.toy and name == "sam-vit-h":
            continue
        made = encoder(bench, vit(_TOY if bench.toy else size), torch.bfloat16)
        for images in (1,) if bench.toy else (1, 4, 8):
            inputs = squares(bench, images)
            for way, call in (("kernel by kernel", made.forward), ("graph", made.call)):
                ms = bench.ms(call, inputs)
                yield {"what": name, "way": way, "images": images, "ms": ms, "share": bench.share(gflop * images, ms)}
        del made
        masked = encoder(bench, vit(_TOY if bench.toy else size), torch.bfloat16, in_head=not bench.device.is_gpu)
        ms = bench.ms(masked.call, squares(bench, 1))
        way = "graph, relative positions the other way (a mask on a GPU)"
        yield {"what": name, "way": way, "images": 1, "ms": ms, "share": bench.share(gflop, ms)}


def compiled(bench: Bench) -> Iterator[Row]:
    """The same with its blocks compiled; the seconds of the first image beside it. A toy is not compiled."""
    for name, (size, gflop) in reversed([*VIT.items()]):
        if bench.toy:
            return
        made = encoder(bench, vit(size), torch.bfloat16, compiled=True)
        for images in (1, 8):
            inputs = squares(bench, images)
            started = time.perf_counter()
            with bench.device.computing(1):
                made.call(inputs[0])
            first_s = time.perf_counter() - started
            ms = bench.ms(made.call, inputs)
            yield {"what": name, "way": "compiled, graph", "images": images, "ms": ms, "first_s": first_s,
                   "share": bench.share(gflop * images, ms)}  # fmt: skip


def decode(bench: Bench) -> Iterator[Row]:
    """Clicks as the engine answers them, copies included: alone, and together on one image and on different ones."""
    makers: dict[str, Callable[[], Loaded]] = {"sam": partial(vit, _TOY), "sam2": partial(hiera, *_SMALL_HIERA)}
    for family in [*makers][: 1 if bench.toy else 2]:
        loaded = makers[family]()
        decoder = TorchDecoder(loaded, bench.device, os.cpu_count() or 1, 64, 2 << 30)
        rng = np.random.default_rng(0)
        embeddings = [_Held(loaded.family, rng, number) for number in range(2 if bench.toy else 16)]
        clicks = [
            as_tensors(rng.uniform(0, 1024, (1, 2, 2)).astype(np.float32), np.array([[1, -1]], np.float32), None)
            for _ in range(4 if bench.toy else 64)
        ]
        for way, asks in (
            ("alone", [(embeddings[0], clicks[0])]),
            ("of one image", [(embeddings[0], click) for click in clicks]),
            ("of different images", [(embeddings[i % len(embeddings)], click) for i, click in enumerate(clicks)]),
        ):
            together = decoder.decode_all(asks, alone=True)
            last = decoder.decode_all(asks[-1:], alone=True)[0]
            taken = []
            for _ in range(1 if bench.toy else 30):
                started = time.perf_counter()
                decoder.decode_all(asks, alone=True)
                taken.append(time.perf_counter() - started)
            seconds = statistics.median(taken)
            off = float(np.abs(together[-1][0] - last[0]).max())
            yield {"what": f"click, {family}", "way": way, "prompts": len(asks), "ms": seconds * 1e3,
                   "clicks_per_s": len(asks) / seconds, "off": off}  # fmt: skip


def sam3(bench: Bench) -> Iterator[Row]:
    """SAM 3: the trunk, a phrase on a stored one, and clicks. Weights are drawn on the device, nothing is read."""
    engine, off = _sam3_engine(bench)
    yield {"what": "trunk, bf16 against fp32", "rms": off}
    side, place, backbone = engine._side, bench.device.place, engine._detector.vision_encoder.backbone
    generator = torch.Generator().manual_seed(7)

    def network(square: Tensor) -> tuple[Tensor, ...]:
        return (backbone(square).last_hidden_state,)

    def squares_of(images: int) -> list[Tensor]:
        drawn = [torch.randn(images, 3, side, side, generator=generator) for _ in range(2)]
        return [each.to(place, torch.bfloat16) for each in drawn]

    trunk_ms = 0.0
    for images in (1, 2) if bench.toy else (1, 8):
        ms = bench.ms(network, squares_of(images), 10)
        trunk_ms = trunk_ms or ms
        yield {"what": "trunk", "way": "kernel by kernel", "images": images, "ms": ms,
               "share": bench.share(_SAM3_TRUNK * images, ms)}  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 255, (768, 1024, 3), np.uint8)
    yield {
        "what": "trunk",
        "way": "the engine's call, from pixels and back",
        "ms": bench.ms(engine.trunk, [pixels], 10),
    }
    tensors = {"trunk": engine.trunk(pixels)}
    new, held = Embedding(tensors, 768, 1024), Embedding(tensors, 768, 1024, digest="known")

    def phrase(on: Embedding) -> object:
        return engine.detect(on, engine.text("small screw"), None, least=0.05)

    phrase(held)
    for way, on in (("a new one on a stored trunk", new), ("features at hand", held)):
        ms = bench.ms(phrase, [on], 10)
        yield {"what": "phrase", "way": way, "ms": ms, "of_trunk_and_phrase": ms / (ms + trunk_ms)}
    yield {"what": "embedding for clicks", "way": "from a stored trunk", "ms": bench.ms(engine.embed, [new], 10)}
    embedding, read = engine.embed(new), sample_click(Family.SAM3)
    ms = bench.ms(lambda _: engine.decode(embedding, read, alone=True), [None])
    yield {"what": "click", "way": "alone, copies included", "ms": ms, "clicks_per_s": 1e3 / ms}
    if bench.device.is_gpu:  # last: where something in it cannot be recorded, the rest is written
        for images in (1, 8):
            ms = bench.ms(Replays(network, cuda_graphs(), 1), squares_of(images), 10)
            yield {"what": "trunk", "way": "graph", "images": images, "ms": ms,
                   "share": bench.share(_SAM3_TRUNK * images, ms)}  # fmt: skip


def _sam3_engine(bench: Bench) -> tuple[Sam3Engine, float]:
    """The engine in bf16, and how far its trunk is off from that in fp32."""
    from tests.sam.references_sam3 import tiny_config
    from transformers import Sam3Model, Sam3TrackerModel, Sam3VideoConfig

    config = tiny_config() if bench.toy else Sam3VideoConfig()
    of_detector, of_tracker = halves_of(config)
    torch.manual_seed(5)
    with torch.device(bench.device.place), torch.inference_mode(False):
        detector, tracker = Sam3Model(of_detector).eval(), Sam3TrackerModel(of_tracker).eval()
    backbone, side = detector.vision_encoder.backbone, int(of_detector.vision_config.image_size)
    square = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(8)).to(bench.device.place)
    with torch.inference_mode():
        wanted = backbone(square).last_hidden_state
    networks = joined(detector, tracker, lambda phrase: {"input_ids": [1, 2, 3, 4]}, torch.bfloat16)
    with torch.inference_mode():
        off = rms(backbone(square.bfloat16()).last_hidden_state, wanted)
    return Sam3Engine(networks, device=str(bench.device.place), features_bytes=1 << 30), off


def hieras(bench: Bench) -> Iterator[Row]:
    """SAM 2.1's encoders in bf16."""
    for name, (size, gflop) in HIERA.items():
        made = encoder(bench, hiera(*(_SMALL_HIERA if bench.toy else size)), torch.bfloat16)
        for images in (1,) if bench.toy else (1, 8):
            ms = bench.ms(made.call, squares(bench, images))
            yield {"what": name, "way": "graph", "images": images, "ms": ms, "share": bench.share(gflop * images, ms)}
        if bench.toy:
            return


def copies(bench: Bench) -> Iterator[Row]:
    """Embeddings to the device and back, and the engine's own ways of doing it."""
    for megabytes in (2, 4, 16):
        array = np.ones((1, megabytes << 18), np.float32)
        there = bench.device.send([array])
        for way, call in (
            ("to, as the engine does", lambda _, array=array: bench.device.send([array])),
            ("to, from unlocked memory", lambda _, array=array: torch.from_numpy(array).to(bench.device.place)),
            ("back, as the engine does", lambda _, there=there: bench.device.fetch([there])),
            ("back, to unlocked memory", lambda _, there=there: there.cpu()),
        ):
            ms = bench.ms(call, [None])
            yield {"what": f"{megabytes} MiB", "way": way, "ms": ms, "gb_per_s": array.nbytes / ms / 1e6}


STEPS: Sequence[tuple[str, int, Callable[[Bench], Iterator[Row]]]] = (
    ("ceilings", 20, ceilings),
    ("correctness", 60, correctness),
    ("encode", 100, encode),
    ("decode", 50, decode),
    ("sam3", 80, sam3),
    ("compile", 110, compiled),
    ("hiera", 50, hieras),
    ("copies", 20, copies),
)
"""Name, seconds, and what to do; together less than nine minutes, for what comes before and between."""

PATIENCE = 60
"""So many times a step's deadline is what a toy has: the processor is slow, and may be busy."""


class _Held(dict[str, Any]):
    """An embedding with a digest, as out of the cache."""

    def __init__(self, family: Family, rng: Any, number: int) -> None:
        super().__init__(
            {name: rng.standard_normal(shape, np.float32) for name, shape in family.embedding_shapes.items()}
        )
        self.digest = f"{number:x}"


@contextlib.contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Raise ``TimeoutError`` when it is over, wherever the work then is."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(*, toy: bool, write: Callable[[Mapping[str, Any]], None], steps: Sequence[str] = ()) -> dict[str, Any]:
    """Each step within its deadline; what fails or is late says so in its place, and the next one begins."""
    device = Device("cpu" if toy else "auto")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device.place)
        if device.is_gpu
        else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
        "toy": toy or not device.is_gpu,
        "predictions": dict(PREDICTIONS),
        "steps": {},
    }
    write(result)
    bench = Bench(device, bool(result["toy"]), result)
    for name, seconds, step in STEPS:
        if steps and name not in steps:
            continue
        rows: list[Row] = []
        result["steps"][name] = rows
        started = time.perf_counter()
        try:
            with deadline(PATIENCE * seconds if bench.toy else seconds):
                rows.extend(step(bench))
        except Exception as error:  # noqa: BLE001 -- one step that fails must not take the others' time with it
            rows.append({"what": name, "failed": f"{type(error).__name__}: {error}"})
        result.setdefault("seconds", {})[name] = round(time.perf_counter() - started, 1)
        write(result)
        if device.is_gpu:
            torch.cuda.empty_cache()
    return result


def table(result: Mapping[str, Any]) -> str:
    """The figures in Markdown, a list for each step."""
    lines = [f"Device: {result['device']}; torch {result['torch']}; commit {result['commit']}; {result['date']}."]
    for name, rows in result["steps"].items():
        lines += ["", f"**{name}** ({result['seconds'].get(name)} s). Predicted: {result['predictions'][name]}."]
        for row in rows:
            lines.append(
                "- "
                + ", ".join(
                    f"{key} {x:.4g}" if isinstance(x, float) else f"{x}" if key == "what" else f"{key} {x}"
                    for key, x in row.items()
                )
            )
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="small sizes on the processor")
    parser.add_argument("--json", action="store_true", help="figures instead of text")
    parser.add_argument(
        "--step", action="append", default=[], choices=[name for name, _, _ in STEPS], help="only this one"
    )
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON, after each step")
    given = parser.parse_args()

    def write(result: Mapping[str, Any]) -> None:
        if given.out:
            draft = given.out.with_suffix(".part")
            draft.write_text(json.dumps(result, indent=1), "utf-8")
            draft.replace(given.out)

    result = run(toy=given.toy, write=write, steps=given.step)
    print(json.dumps(result, indent=2) if given.json else table(result))


if __name__ == "__main__":
    main()
