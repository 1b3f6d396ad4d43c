"""SAM's image encoder on a GPU: the reference in fp32 against bf16 with the best attention kernel and graph capture.

``python -m bench.engines.gpu``: ViT-B and ViT-H with seeded random weights. All ways take turns, round by round.
Without a GPU it runs at toy size on the processor, without graphs: that shows that all ways compute the same.

- *mask*: the relative positions as a mask of ``scaled_dot_product_attention`` (its memory-efficient kernel takes one).
- *head*: the relative positions as more dimensions of each head, exactly: ``q·k + h[q, row of k] + w[q, column of k]``
  is one product, of ``q`` beside ``h`` and ``w`` with ``k`` beside two one-hot codes of its row and column. It needs no
  mask, so the flash kernel takes it.
"""

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tests.sam.references import liven, segment_anything
from torch import Tensor, nn
from torch.nn import functional

from bench.serving.run import where

SIZES: Mapping[str, dict[str, Any]] = {
    "sam-vit-b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "global_attn_indexes": (2, 5, 8, 11)},
    "sam-vit-h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_attn_indexes": (7, 15, 23, 31)},
}
TOY: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "global_attn_indexes": (1,),
    "img_size": 128,
    "window_size": 3,
    "out_chans": 16,
}
Call = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """The reference's attention by ``scaled_dot_product_attention``, with its weights.

    Args:
        reference: ``segment_anything.modeling.image_encoder.Attention``.
        in_head: the way *head*; else *mask*.
    """

    def __init__(self, reference: Any, *, in_head: bool) -> None:
        super().__init__()
        self.heads, self.scale = reference.num_heads, reference.scale
        self.qkv, self.proj = reference.qkv, reference.proj
        self.rows, self.columns = reference.rel_pos_h, reference.rel_pos_w
        self.in_head = in_head

    def forward(self, x: Tensor) -> Tensor:
        """``[B, height, width, channels]`` in and out."""
        batch, height, width, _ = x.shape
        places = height * width
        q, k, v = self.qkv(x).view(batch, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        grid = q.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, _table(self.rows, height)).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, _table(self.columns, width)).flatten(2, 3)
        if self.in_head:
            place = torch.arange(places, device=x.device)
            row = functional.one_hot(place // width, height).to(x.dtype).expand(batch, self.heads, -1, -1)
            column = functional.one_hot(place % width, width).to(x.dtype).expand(batch, self.heads, -1, -1)
            wide_q = torch.cat([q * self.scale, by_row, by_column], -1)
            wide_k = torch.cat([k, row, column], -1)
            wide_v = functional.pad(v, (0, wide_q.shape[-1] - v.shape[-1]))
            mixed = functional.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)[..., : v.shape[-1]]
        else:
            mask = (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).reshape(batch, height, width, -1))


def _table(relative: Tensor, size: int) -> Tensor:
    """Positions of every place relative to every other, ``[size, size, channels]``; the table has that size already."""
    place = torch.arange(size, device=relative.device)
    return relative[place.unsqueeze(1) - place.unsqueeze(0) + size - 1]


def encoder(size: Mapping[str, Any]) -> Any:
    """The reference's encoder with seeded random weights."""
    modeling = segment_anything().modeling
    whole = {"img_size": 1024, "patch_size": 16, "window_size": 14, "out_chans": 256}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        norm = {"norm_layer": lambda width: nn.LayerNorm(width, eps=1e-6)}
        made = modeling.ImageEncoderViT(**{**whole, "use_rel_pos": True, "qkv_bias": True, **norm, **size})
        liven(made)
    return made.eval()


def with_attention(reference: Any, *, in_head: bool) -> Any:
    """A copy of the encoder with our attention."""
    made = copy.deepcopy(reference)
    for block in made.blocks:
        block.attn = Attention(block.attn, in_head=in_head)
    return made


def captured(module: nn.Module, example: Tensor) -> Call:
    """The module as one CUDA graph: launched as a whole, without a word from Python in between."""
    given = example.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            module(given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = module(given)

    def replay(image: Tensor) -> Tensor:
        given.copy_(image)
        graph.replay()
        return result

    return replay


def ways(reference: Any, image: Tensor, *, device: str) -> dict[str, tuple[Call, Tensor]]:
    """Each way to encode, and the image in its precision."""
    low = image.to(torch.bfloat16)
    made: dict[str, tuple[Call, Tensor]] = {"the reference, fp32": (reference, image)}
    for name, in_head in (("mask", False), ("head", True)):
        module = with_attention(reference, in_head=in_head)
        if device == "cpu":
            made[f"ours, fp32, {name}"] = (module, image)
            continue
        module = module.to(torch.bfloat16)
        made[f"ours, bf16, {name}"] = (module, low)
        made[f"ours, bf16, {name}, graph"] = (captured(module, low), low)
        made[f"ours, bf16, {name}, compiled"] = (torch.compile(module, mode="max-autotune"), low)
    if device != "cpu":
        made["the reference, fp32, compiled"] = (torch.compile(reference, mode="max-autotune"), image)
    return made


@torch.inference_mode()
def measure(size: Mapping[str, Any], *, device: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of one call and images a second of each way, and how far its result is from the reference's."""
    reference = encoder(size).to(device)
    side = size.get("img_size", 1024)
    image = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(6)).to(device)
    all_ways = ways(reference, image, device=device)
    wanted = reference(image).float().clone()
    off = {name: float((call(x).float() - wanted).square().mean().sqrt()) for name, (call, x) in all_ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in all_ways}
    for turn in range(rounds + 3):
        for name, (call, x) in all_ways.items():
            _wait(device)
            started = time.perf_counter()
            call(x)
            _wait(device)
            if turn >= 3:  # the first calls compile and choose kernels
                taken[name].append(time.perf_counter() - started)
    return [
        {
            "way": name,
            "batch": batch,
            "p50_ms": statistics.median(times) * 1e3,
            "min_ms": min(times) * 1e3,
            "images_per_second": batch / statistics.median(times),
            "rms_error": off[name] / float(wanted.std()),
        }
        for name, times in taken.items()
    ]


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def run(*, toy: bool, rounds: int) -> dict[str, Any]:
    """Everything that this machine can run."""
    if toy or not torch.cuda.is_available():
        rows = {"toy": measure(TOY, device="cpu", batch=1, rounds=2)}
        return {"device": platform.processor() or platform.machine(), "rows": rows, "where": where()}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows = {
        f"{name}, batch {batch}": measure(size, device="cuda", batch=batch, rounds=rounds)
        for name, size in SIZES.items()
        for batch in (1, 4)
    }
    return {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows, "where": where()}


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    place = result["where"]
    lines = [f"Device: {result['device']}; commit {place['commit']}; {place['date']}.", ""]
    lines += [
        "| encoder | way | p50 ms | min ms | images/s | rms error / std |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {row['way']} | {row['p50_ms']:.2f} | {row['min_ms']:.2f} | {row['images_per_second']:.1f} | "
        f"{row['rms_error']:.1e} |"
        for name, rows in result["rows"].items()
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="on the processor, a second")
    parser.add_argument("--json", action="store_true", help="figures instead of a table")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    result = run(toy=given.toy, rounds=given.rounds)
    print(json.dumps(result, indent=2) if given.json else table(result))
    if given.out:
        given.out.write_text(
            f"# Encoders on a GPU\n\nMade by `python -m bench.engines.gpu`.\n\n{table(result)}\n", "utf-8"
        )


if __name__ == "__main__":
    main()
