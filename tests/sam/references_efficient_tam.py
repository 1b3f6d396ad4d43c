"""EfficientTAM to compare ours with, and seeded random weights of it as an official checkpoint.

Its encoder is written down here a second time, from the paper and the authors' configurations, by other means than in
``networks.efficient_tam``: functions of the checkpoint's tensors, windows one by one, scores written down. Prompt
encoder and mask decoder are those of ``transformers``' SAM 2 with finer features of zeros.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.made_once import made_once
from tests.needs import needs
from tests.sam.references_sam2 import as_official as sam2_as_official
from tests.sam.references_sam2 import sam2

OFFICIAL = {
    "efficienttam_ti": (192, "5595ed69f47ce51d41070819c4a61d9fefa189f359cdf477c5192b0870503784"),
    "efficienttam_s": (384, "707e19f4e79867c3907371e54a5d04b6c7e28607b8166ebb593d4602a4f4741f"),
}
"""Name → width, and the SHA-256 of names and shapes that the authors' package
``efficient-track-anything`` 1.0 gives the weights of its image half (sorted lines of «name [shape]»)."""
_BLOCKS = 12


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the image encoder's weights, as the authors' checkpoints have them."""
    trunk, neck = "image_encoder.trunk", "image_encoder.neck.convs.0"
    found: dict[str, tuple[int, ...]] = {
        f"{trunk}.pos_embed": (1, 14 * 14 + 1, width),
        f"{trunk}.patch_embed.proj.weight": (width, 3, 16, 16),
        f"{trunk}.patch_embed.proj.bias": (width,),
        f"{neck}.conv_1x1.weight": (256, width, 1, 1),
        f"{neck}.conv_3x3.weight": (256, 256, 3, 3),
    }
    for norm in ("norm_0", "norm_1"):
        found |= {f"{neck}.{norm}.weight": (256,), f"{neck}.{norm}.bias": (256,)}
    for i in range(_BLOCKS):
        block = f"{trunk}.blocks.{i}"
        for norm in ("norm1", "norm2"):
            found |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        for layer, out, into in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.layers.0", 4 * width, width),
            ("mlp.layers.1", width, 4 * width),
        ):
            found |= {f"{block}.{layer}.weight": (out, into), f"{block}.{layer}.bias": (out,)}
    return found


def as_official(width: int, rest: Mapping[str, Any]) -> dict[str, Any]:
    """Random weights of an encoder of this width, and those of a ``Sam2Model`` that EfficientTAM has too."""
    torch = needs("torch")
    generator = torch.Generator().manual_seed(7)
    official = {name: x for name, x in sam2_as_official(rest).items() if not name.startswith("image_encoder.")}
    official = {name: x for name, x in official.items() if "conv_s" not in name}
    for name, shape in shapes(width).items():
        drawn = torch.randn(shape, generator=generator)
        if name.endswith("pos_embed"):
            official[name] = drawn * 0.5
        elif len(shape) == 1:
            official[name] = drawn * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            official[name] = drawn / drawn[0].numel() ** 0.5
    return official


@functools.cache
def weights() -> dict[str, Any]:
    """The Ti, of random weights, under the names of the authors' checkpoints."""
    return as_official(192, sam2().state_dict())


def encode(official: Mapping[str, Any], image: Any) -> tuple[Any, Any, Any]:
    """Normalised ``[1, 3, 1024, 1024]`` → finer features of zeros, and the embedding ``[1, 256, 64, 64]``."""
    torch = needs("torch")
    own = {name[len("image_encoder.") :]: x for name, x in official.items() if name.startswith("image_encoder.")}
    patches = image.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(3)
    x = patches @ own["trunk.patch_embed.proj.weight"].flatten(1).T + own["trunk.patch_embed.proj.bias"]
    learned = own["trunk.pos_embed"][0, 1:].T.view(1, -1, 14, 14)
    x = (x + torch.nn.functional.interpolate(learned, size=(64, 64), mode="bicubic").movedim(1, -1))[0]
    for i in range(_BLOCKS):
        block = {name.split(".", 3)[3]: x for name, x in own.items() if name.startswith(f"trunk.blocks.{i}.")}
        side = 64 if i in (2, 5, 8, 11) else 14
        seen = torch.zeros(70, 70, x.shape[-1])
        seen[:64, :64] = _norm(x, block["norm1.weight"], block["norm1.bias"])
        mixed = torch.empty_like(x)
        for top in range(0, 64, side):
            for left in range(0, 64, side):
                window = _attend(seen[top : top + side, left : left + side].reshape(side * side, -1), block)
                window = window.view(side, side, -1)[: 64 - top, : 64 - left]
                mixed[top : top + side, left : left + side] = window
        x = x + mixed
        wide = _linear(_norm(x, block["norm2.weight"], block["norm2.bias"]), block, "mlp.layers.0")
        wide = 0.5 * wide * (1 + torch.erf(wide / 2**0.5))
        x = x + _linear(wide, block, "mlp.layers.1")
    neck = {name.removeprefix("neck.convs.0."): x for name, x in own.items() if name.startswith("neck.")}
    x = _norm(x @ neck["conv_1x1.weight"].flatten(1).T, neck["norm_0.weight"], neck["norm_0.bias"])
    near = torch.nn.functional.unfold(x.movedim(-1, 0)[None], 3, padding=1)[0].T
    x = near @ neck["conv_3x3.weight"].flatten(1).T
    x = _norm(x, neck["norm_1.weight"], neck["norm_1.bias"]) + official["no_mem_embed"][0]
    return torch.zeros(1, 32, 256, 256), torch.zeros(1, 64, 128, 128), x.T.reshape(1, 256, 64, 64)


def _norm(x: Any, weight: Any, bias: Any) -> Any:
    away = x - x.mean(-1, keepdim=True)
    return away / (away.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def _linear(x: Any, block: Mapping[str, Any], name: str) -> Any:
    return x @ block[f"{name}.weight"].T + block[f"{name}.bias"]


def _attend(places: Any, block: Mapping[str, Any]) -> Any:
    torch = needs("torch")
    q, k, v = _linear(places, block, "attn.qkv").chunk(3, -1)
    heads = [
        (a @ b.T / 8).softmax(-1) @ c for a, b, c in zip(q.split(64, -1), k.split(64, -1), v.split(64, -1), strict=True)
    ]
    return _linear(torch.cat(heads, -1), block, "attn.proj")


def checkpoint() -> Path:
    """``weights()`` as a file of the authors' layout."""
    for name in ("torch", "transformers"):
        needs(name)
    return _checkpoint_efficient_tam()[0] / "efficienttam_random.pt"


@made_once
def _checkpoint_efficient_tam(folder: Path) -> None:
    needs("torch").save({"model": weights()}, folder / "efficienttam_random.pt")


def exported() -> Path:
    """Folder with the encoder and the fast decoder of ``weights()``, exported. The other decoder's graph is SAM's."""
    for name in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        needs(name)
    return _exported_efficient_tam()[0]


@made_once
def _exported_efficient_tam(folder: Path) -> None:
    from labeling_ground.models.export.graphs import plan, write
    from labeling_ground.models.export.run import describe
    from labeling_ground.networks.checkpoint import load

    loaded = load(checkpoint())
    encoder, _, fast = plan(loaded)
    for graph in (encoder, fast):
        write(graph, folder, describe(loaded, "efficient-tam-random"), tolerance=1e-4)
