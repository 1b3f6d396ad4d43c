"""Official checkpoints into modules. Files are read as tensors only: a checkpoint cannot run code here."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labeling_ground.errors import BadInput
from labeling_ground.models.export.layout import copies, rename_all
from labeling_ground.models.export.tinyvit import TinyViT
from labeling_ground.sam.family import Family

_HEADS = {768: 12, 1024: 16, 1280: 16}
"""Width of SAM's three encoders → attention heads (``segment_anything/build_sam.py``)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, ready to be exported.

    Attributes:
        family: whose conventions it follows.
        architecture: ``vit_b``, ``vit_l``, ``vit_h`` or ``vit_t`` (MobileSAM); ``vit-768x2`` and the like for others.
        encoder: normalised ``[1, 3, 1024, 1024]`` → ``[1, 256, 64, 64]``.
        sam: the ``transformers.SamModel`` that holds prompt encoder and mask decoder.
        source_sha256: digest of the checkpoint file, hex; empty if it came from memory.
    """

    family: Family
    architecture: str
    encoder: nn.Module
    sam: Any
    source_sha256: str


class VisionEncoder(nn.Module):
    """SAM's ViT with a tensor in and a tensor out."""

    def __init__(self, vision: nn.Module) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, image: Tensor) -> Tensor:
        """``float32 [1, 3, 1024, 1024]`` normalised → ``float32 [1, 256, 64, 64]``."""
        return self.vision(image, return_dict=True).last_hidden_state


def load(path: Path) -> Loaded:
    """Read an official SAM or MobileSAM checkpoint.

    Raises:
        BadInput: no checkpoint, or of a model that cannot be exported here.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no list of what damaged files make it raise
        raise BadInput(f"{path.name} is not a checkpoint that can be read safely: {error}") from error
    return from_weights(weights, source_sha256=digest)


def from_weights(weights: Mapping[str, Any], *, source_sha256: str = "") -> Loaded:
    """Build the modules from a checkpoint's weights, by their official names.

    Raises:
        BadInput: weights of a model that cannot be exported here, or some are missing or left over.
    """
    if isinstance(weights.get("model"), Mapping):
        weights = weights["model"]
    if "image_encoder.pos_embed" in weights:
        return _sam(weights, source_sha256)
    if "image_encoder.patch_embed.seq.0.c.weight" in weights:
        return _mobile(weights, source_sha256)
    raise BadInput("These weights are not of a model that can be exported: SAM ViT-B, L, H or MobileSAM.")


def _sam(weights: Mapping[str, Tensor], source_sha256: str) -> Loaded:
    width = int(weights["image_encoder.pos_embed"].shape[-1])
    if width not in _HEADS:
        raise BadInput(f"SAM has no encoder of width {width}: it is 768, 1024 or 1280.")
    blocks = sorted({int(name.split(".")[2]) for name in weights if name.startswith("image_encoder.blocks.")})
    # Blocks that see the whole image have relative positions for all of it, the others for a window.
    full = [i for i in blocks if weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape[0] == 2 * 64 - 1]
    vision = {
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": _HEADS[width],
        "mlp_dim": 4 * width,
        "global_attn_indexes": full,
    }
    sam = _skeleton(vision)
    _fill(sam, weights)
    names = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
    architecture = names.get((width, len(blocks)), f"vit-{width}x{len(blocks)}")
    return Loaded(Family.SAM, architecture, VisionEncoder(sam.vision_encoder).eval(), sam, source_sha256)


def _mobile(weights: Mapping[str, Tensor], source_sha256: str) -> Loaded:
    prefix = "image_encoder."
    unused = ("norm_head.", "head.")  # the classifier that the encoder was once trained with
    own = {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
    own = {name: tensor for name, tensor in own.items() if not name.startswith(unused)}
    encoder = TinyViT()
    own = {name: tensor for name, tensor in own.items() if not name.endswith("attention_bias_idxs")}
    _load(encoder, own)
    sam = _skeleton({"num_hidden_layers": 1, "global_attn_indexes": []})
    _fill(sam, {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}, encoder=False)
    return Loaded(Family.SAM, "vit_t", encoder.eval(), sam, source_sha256)


def _skeleton(vision: dict[str, Any]) -> Any:
    # Imported here: it takes seconds, and a file that is refused should not wait for them.
    from transformers import SamConfig, SamModel

    # The reference's decoder leaves layer norms at torch's default.
    config = SamConfig(vision_config=vision, mask_decoder_config={"layer_norm_eps": 1e-5})
    config._attn_implementation = "eager"
    for part in (config.vision_config, config.mask_decoder_config):
        part._attn_implementation = "eager"
    return SamModel(config).eval()


def _fill(sam: Any, weights: Mapping[str, Tensor], *, encoder: bool = True) -> None:
    try:
        table = rename_all(weights)
    except ValueError as error:
        raise BadInput(str(error)) from error
    renamed = {table[name]: tensor for name, tensor in weights.items()}
    for copy, original in copies(renamed).items():
        renamed[copy] = renamed[original]
    if not encoder:
        renamed |= {k: v for k, v in sam.state_dict().items() if k.startswith("vision_encoder.")}
    _load(sam, renamed)


def _load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        module.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise BadInput(f"The checkpoint does not fit its architecture. {error}") from error
