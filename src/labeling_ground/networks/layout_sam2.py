"""Names of SAM 2's weights: the official checkpoints' on the left, the module tree of ``transformers`` on the right.

The official names are those of the package ``sam2`` (its tiny model has 471 of them). EfficientTAM's and EdgeTAM's are
the same but for the image encoder's. A checkpoint holds the whole video model; what only videos need is left out. Pure
data and text, no torch.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from labeling_ground.networks.layout import (
    MASK_EMBED,
    MLP_OF_THREE,
    NORMS,
    SHARED,
    UPSCALING,
    replace_after,
    replace_all,
    replace_prefix,
)

PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "image_encoder.trunk.patch_embed.proj.": "vision_encoder.backbone.patch_embed.projection.",
        "image_encoder.trunk.": "vision_encoder.backbone.",
        "image_encoder.neck.": "vision_encoder.neck.",
        "no_mem_embed": "no_memory_embedding",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": SHARED,
        **{
            f"sam_prompt_encoder.mask_downscaling.{a}.": f"prompt_encoder.mask_embed.{b}."
            for a, b in MASK_EMBED.items()
        },
        "sam_prompt_encoder.": "prompt_encoder.",
        **{f"sam_mask_decoder.output_upscaling.{a}.": f"mask_decoder.{b}." for a, b in UPSCALING.items()},
        "sam_mask_decoder.transformer.norm_final_attn.": "mask_decoder.transformer.layer_norm_final_attn.",
        "sam_mask_decoder.": "mask_decoder.",
    }
)
"""What a name starts with. The longest match is replaced; what matches nothing keeps its name."""

OF_VIDEOS = (
    "mask_downsample.",
    "maskmem_tpos_enc",
    "memory_attention.",
    "memory_encoder.",
    "no_mem_pos_enc",
    "no_obj_embed_spatial",
    "no_obj_ptr",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
    "spatial_perceiver.",
)
"""What the weights that a single image does not need start with."""

POINT_KINDS = tuple(f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4))
"""Four weights of one row each here, one of four rows there."""
POINT_TABLE = "prompt_encoder.point_embed.weight"

_MLP_OF_TWO = MappingProxyType({"layers.0.": "proj_in.", "layers.1.": "proj_out."})


def of_images(names: Iterable[str]) -> list[str]:
    """The names without those that only videos need, and without the four that become one."""
    return [name for name in names if not name.startswith(OF_VIDEOS) and name not in POINT_KINDS]


def rename(name: str) -> str:
    """The name in ``transformers`` of one official weight of SAM 2."""
    renamed = replace_all(replace_prefix(name, PREFIXES), {**NORMS, ".out_proj.": ".o_proj."})
    if renamed.startswith("vision_encoder.neck."):
        return renamed.replace(".conv.", ".")
    for head in ("output_hypernetworks_mlps.", "iou_prediction_head.", "pred_obj_score_head."):
        renamed = replace_after(renamed, head, MLP_OF_THREE)
    return replace_after(renamed, ".mlp.", _MLP_OF_TWO)
