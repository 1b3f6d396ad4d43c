"""Official checkpoints into modules. Files are read as tensors only: a checkpoint cannot run code here."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labeling_ground.errors import BadInput
from labeling_ground.networks import efficient_tam, layout_sam2
from labeling_ground.networks.efficient_tam import EfficientTamEncoder
from labeling_ground.networks.hiera import SIZES, HieraEncoder, Size
from labeling_ground.networks.layout import copies, rename, rename_all
from labeling_ground.networks.repvit import EdgeTamEncoder, Network
from labeling_ground.networks.tinyvit import TinyViT
from labeling_ground.sam.family import Family

_HEADS = {768: 12, 1024: 16, 1280: 16}
"""Width of SAM's three encoders → attention heads (``segment_anything/build_sam.py``)."""

_OF_HQ = "mask_decoder.hf_token.weight"
_ENCODER = "image_encoder."
_NO_ENCODER = Size("", 1, (1, 1, 1, 1), ()), (1, 1, 1, 1), [8, 16, 32, 64], [1, 1]
"""The least that ``transformers`` makes a SAM 2 of, where only its prompt encoder and mask decoder are used."""

_FOR_SQUARES_OF_512 = frozenset(
    {
        "67b5840012737ed2c94a4cb8787c5c1b27b3a946045d2e602e65ef77230b6085",
        "7d4d652a465f0081391050932f45d8a66768ccc99c8ea393ce8a5927e83f3b9b",
    }
)
"""Digests of ``efficienttam_s_512x512.pt`` and ``efficienttam_ti_512x512.pt``: nothing in their weights tells them from
those for squares of 1024 pixels, and read so they would give poor masks without a word."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, ready to be exported.

    Attributes:
        family: whose conventions it follows.
        architecture: ``vit_b``, ``vit_l``, ``vit_h``, ``vit_t`` (MobileSAM), or ``hiera_t``, ``hiera_s``, ``hiera_b+``,
            ``hiera_l`` (SAM 2), ``repvit_m1`` (EdgeTAM), ``efficienttam_ti``, ``efficienttam_s``; ``vit-768x2`` and the
            like for others.
        encoder: normalised ``[1, 3, 1024, 1024]`` → the tensors of the family's embedding.
        sam: the ``transformers.SamModel``, ``SamHQModel`` or ``Sam2Model`` that holds prompt encoder and mask decoder.
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


class HqEncoder(nn.Module):
    """SAM-HQ's ViT, and what its decoder would make of the image anew for each prompt, though no prompt is in it.

    The decoder adds two upscaled maps: one of the embedding, one of what the first block that sees the whole image
    gives. Their sum is smaller than the latter alone (768, 1024 or 1280 × 64 × 64), and of one size in all encoders.

    Args:
        sam: a ``transformers.SamHQModel``.
    """

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.vision = sam.vision_encoder
        decoder = sam.mask_decoder
        self.late = nn.Sequential(decoder.encoder_conv1, decoder.encoder_norm, nn.GELU(), decoder.encoder_conv2)
        self.early = nn.Sequential(
            decoder.compress_vit_conv1, decoder.compress_vit_norm, nn.GELU(), decoder.compress_vit_conv2
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``float32 [1, 3, 1024, 1024]`` normalised → ``[1, 256, 64, 64]`` and ``[1, 32, 256, 256]``."""
        made = self.vision(image, return_dict=True)
        first = made.intermediate_embeddings[0].permute(0, 3, 1, 2)
        return made.last_hidden_state, self.late(made.last_hidden_state) + self.early(first)


def load(path: Path) -> Loaded:
    """Read an official checkpoint of SAM, SAM-HQ, MobileSAM, SAM 2, SAM 2.1, EfficientTAM or EdgeTAM.

    Raises:
        BadInput: no checkpoint, or of a model that cannot be exported here.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest in _FOR_SQUARES_OF_512:
        raise BadInput(
            f"{path.name} is EfficientTAM for squares of 512 pixels, which cannot be used: take efficient-tam-ti or "
            "efficient-tam-s, which read 1024."
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no list of what damaged files make it raise
        raise BadInput(f"{path.name} is not a checkpoint that can be read safely: {error}") from error
    return from_weights(weights, source_sha256=digest)


def from_weights(
    weights: Mapping[str, Any],
    *,
    source_sha256: str = "",
    sam2_sizes: Mapping[tuple[int, tuple[int, ...]], Size] = SIZES,
) -> Loaded:
    """Build the modules from a checkpoint's weights, by their official names.

    Args:
        weights: name → tensor; or what has them under ``model``, as SAM 2's files do.
        source_sha256: digest of the file that they came from.
        sam2_sizes: the sizes of SAM 2 that are known.

    Raises:
        BadInput: weights of a model that cannot be exported here, or some are missing or left over.
    """
    if isinstance(weights.get("model"), Mapping):
        weights = weights["model"]
    if "image_encoder.pos_embed" in weights:
        return _sam(weights, source_sha256)
    if "image_encoder.patch_embed.seq.0.c.weight" in weights:
        if _OF_HQ in weights:
            raise BadInput("SAM-HQ's tiny model, with MobileSAM's encoder, cannot be used: take its ViT-B, L or H.")
        return _mobile(weights, source_sha256)
    if "image_encoder.neck.convs.0.conv_1x1.weight" in weights:
        return _efficient_tam(weights, source_sha256)
    if "image_encoder.trunk.body.stem.conv1.c.weight" in weights:
        return _edge_tam(weights, source_sha256)
    if "image_encoder.trunk.pos_embed" in weights:
        return _sam2(weights, source_sha256, sam2_sizes)
    raise BadInput(
        "These weights are not of a model that can be used: SAM ViT-B, L or H, SAM-HQ, MobileSAM, SAM 2, SAM 2.1, "
        "EfficientTAM or EdgeTAM."
    )


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
    is_hq = _OF_HQ in weights
    sam = skeleton(vision, hq=is_hq)
    _fill(sam, weights)
    names = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
    architecture = names.get((width, len(blocks)), f"vit-{width}x{len(blocks)}")
    encoder = HqEncoder(sam) if is_hq else VisionEncoder(sam.vision_encoder)
    return Loaded(Family.SAM_HQ if is_hq else Family.SAM, architecture, encoder.eval(), sam, source_sha256)


def _mobile(weights: Mapping[str, Tensor], source_sha256: str) -> Loaded:
    unused = ("norm_head.", "head.")  # the classifier that the encoder was once trained with
    own, others = _apart(weights)
    own = {name: tensor for name, tensor in own.items() if not name.startswith(unused)}
    encoder = TinyViT()
    own = {name: tensor for name, tensor in own.items() if not name.endswith("attention_bias_idxs")}
    _load(encoder, own)
    sam = skeleton({"num_hidden_layers": 1, "global_attn_indexes": []})
    _fill(sam, others, encoder=False)
    return Loaded(Family.SAM, "vit_t", encoder.eval(), sam, source_sha256)


def _efficient_tam(weights: Mapping[str, Tensor], source_sha256: str) -> Loaded:
    own, others = _apart(weights)
    learned = _weight(own, "trunk.pos_embed")
    blocks = {int(name.split(".")[2]) for name in own if name.startswith("trunk.blocks.")}
    width = int(learned.shape[-1])
    architecture = efficient_tam.SIZES.get((width, len(blocks)))
    if architecture is None:
        known = ", ".join(efficient_tam.SIZES.values())
        raise BadInput(f"EfficientTAM has no encoder of width {width} with {len(blocks)} blocks: there is {known}.")
    encoder = EfficientTamEncoder(width, len(blocks))
    del own["trunk.pos_embed"]
    no_memory = _weight(weights, "no_mem_embed").view(1, -1, 1, 1)
    _load(encoder, own | {"positions": efficient_tam.enlarged(learned), "no_memory": no_memory})
    sam = _sam2_skeleton(*_NO_ENCODER)
    del sam.mask_decoder.conv_s0, sam.mask_decoder.conv_s1  # of the finer features, which it has not
    _fill_sam2(sam, others, encoder=False)
    return Loaded(Family.EFFICIENT_TAM, architecture, encoder.eval(), sam, source_sha256)


def _edge_tam(weights: Mapping[str, Tensor], source_sha256: str) -> Loaded:
    own, others = _apart(weights)
    network = Network()
    _load(network, own)
    sam = _sam2_skeleton(*_NO_ENCODER)
    _fill_sam2(sam, others, encoder=False)
    return Loaded(Family.SAM2, "repvit_m1", EdgeTamEncoder(network, sam).eval(), sam, source_sha256)


def _sam2(
    weights: Mapping[str, Tensor], source_sha256: str, sizes: Mapping[tuple[int, tuple[int, ...]], Size]
) -> Loaded:
    trunk = "image_encoder.trunk."
    width, *background = weights[f"{trunk}pos_embed"].shape[1:]
    blocks = sorted({int(name.split(".")[3]) for name in weights if name.startswith(f"{trunk}blocks.")})
    widths = [int(_weight(weights, f"{trunk}blocks.{i}.attn.proj.weight").shape[0]) for i in blocks]
    stages = tuple(widths.count(each) for each in sorted(set(widths)))
    size = sizes.get((int(width), stages))
    if size is None:
        known = ", ".join(each.name for each in sizes.values())
        raise BadInput(f"SAM 2 has no encoder of width {width} with {stages} blocks in its stages: there is {known}.")
    sam = _sam2_skeleton(size, stages, sorted(set(widths)), background)
    _fill_sam2(sam, weights)
    return Loaded(Family.SAM2, size.name, HieraEncoder(sam).eval(), sam, source_sha256)


def _sam2_skeleton(size: Size, stages: tuple[int, ...], widths: list[int], background: list[int]) -> Any:
    # Imported here: it takes seconds, and a file that is refused should not wait for them.
    from transformers import Sam2Config, Sam2Model

    backbone = {
        "hidden_size": widths[0],
        "num_attention_heads": size.heads,
        "window_positional_embedding_background_size": [int(side) for side in background],
        "blocks_per_stage": list(stages),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [size.heads * 2**i for i in range(len(stages))],
        "window_size_per_stage": list(size.windows),
        "global_attention_blocks": list(size.whole),
        "model_type": "sam2_hiera_det_model",
    }
    vision = {"backbone_config": backbone, "backbone_channel_list": widths[::-1], "model_type": "sam2_vision_model"}
    config = Sam2Config(vision_config=vision)
    _use_plain_attention(config, config.vision_config, config.vision_config.backbone_config, config.mask_decoder_config)
    return Sam2Model(config).eval()


def _fill_sam2(sam: Any, weights: Mapping[str, Tensor], *, encoder: bool = True) -> None:
    named = {name: weights[name] for name in layout_sam2.of_images(weights)}
    named[layout_sam2.POINT_TABLE] = torch.cat([_weight(weights, name) for name in layout_sam2.POINT_KINDS])
    _fill(sam, named, layout_sam2.rename, encoder=encoder)


def skeleton(vision: dict[str, Any], *, hq: bool = False) -> Any:
    """A ``transformers.SamModel`` or ``SamHQModel`` with that ``SamVisionConfig``, its weights not filled yet."""
    from transformers import SamConfig, SamHQConfig, SamHQModel, SamModel  # here for the same reason

    # The reference's decoder leaves layer norms at torch's default.
    decoder = {"layer_norm_eps": 1e-5, **({"vit_dim": vision["hidden_size"]} if hq else {})}
    config = (SamHQConfig if hq else SamConfig)(vision_config=vision, mask_decoder_config=decoder)
    _use_plain_attention(config, config.vision_config, config.mask_decoder_config)
    return (SamHQModel if hq else SamModel)(config).eval()


def _use_plain_attention(*configs: Any) -> None:
    for each in configs:
        each._attn_implementation = "eager"


def _apart(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The image encoder's weights, by their names in it, and all others."""
    own = {name[len(_ENCODER) :]: tensor for name, tensor in weights.items() if name.startswith(_ENCODER)}
    return own, {name: tensor for name, tensor in weights.items() if not name.startswith(_ENCODER)}


def _weight(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise BadInput(f"The checkpoint does not fit its architecture: {name} is missing.")
    return weights[name]


def _fill(
    sam: Any, weights: Mapping[str, Tensor], names: Callable[[str], str] = rename, *, encoder: bool = True
) -> None:
    try:
        table = rename_all(weights, names)
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
