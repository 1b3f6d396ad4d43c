"""``random_weights.py MODEL FILE``: a checkpoint of the official layout whose weights are random numbers from a seed.

For trials of everything but the masks, where no weights can be had. MODEL is ``mobile-sam``, ``sam-vit-b``, ``-l`` or
``-h``. It is the real architecture at its real size, so times and memory are real, too.
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor

from labeling_ground.networks.layout import PREFIXES, rename
from labeling_ground.networks.tinyvit import TinyViT

SEED = 20260101
VITS: Mapping[str, Mapping[str, Any]] = {
    "sam-vit-b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_dim": 3072},
    "sam-vit-l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_dim": 4096},
    "sam-vit-h": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120},
}
WHOLE = {"sam-vit-b": [2, 5, 8, 11], "sam-vit-l": [5, 11, 17, 23], "sam-vit-h": [7, 15, 23, 31]}
"""Blocks that see the whole image (``segment_anything/build_sam.py``)."""
_HEADS = ("output_hypernetworks_mlps.", "iou_prediction_head.")


def weights_of(model: str) -> dict[str, Tensor]:
    """Random weights by their official names."""
    vision = {**VITS[model], "global_attn_indexes": WHOLE[model]} if model in VITS else {"num_hidden_layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        sam = transformers.SamModel(transformers.SamConfig(vision_config=vision))
        weights = {official(name): value for name, value in sam.state_dict().items() if "shared_embedding" not in name}
        if model not in VITS:
            weights = {name: value for name, value in weights.items() if not name.startswith("image_encoder.")}
            weights |= {f"image_encoder.{name}": value for name, value in TinyViT().state_dict().items()}
        for name, value in weights.items():
            # They start as zeros, which would hide mistakes in what is done with them.
            if any(part in name for part in ("rel_pos", "pos_embed", "attention_biases")):
                value.normal_(0, 0.02)
    return weights


def official(name: str) -> str:
    """The official name of one weight of ``transformers``: what ``layout.rename`` makes this name of."""
    back = {ours: theirs for theirs, ours in PREFIXES.items()}
    prefix = max((ours for ours in back if name.startswith(ours)), key=len, default="")
    found = back.get(prefix, "") + name[len(prefix) :].replace("layer_norm", "norm")
    if any(head in found for head in _HEADS):
        for ours, theirs in (("proj_out.", "layers.2."), ("layers.0.", "layers.1."), ("proj_in.", "layers.0.")):
            if f".{ours}" in found:
                found = found.replace(ours, theirs)
                break
    if rename(found) != name:
        raise ValueError(f"{name} has no official name: {found} would be {rename(found)}.")
    return found


def main(model: str, file: str) -> None:
    """Write the checkpoint."""
    if model not in (*VITS, "mobile-sam"):
        sys.exit(f"There are no random weights for {model}: take {', '.join(VITS)} or mobile-sam.")
    torch.save(weights_of(model), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
