"""Names of the weights: official SAM checkpoints on the left, the module tree of ``transformers`` on the right.

The official names are those of ``segment_anything`` (``sam_vit_b_01ec64.pth`` has 314 of them); MobileSAM's checkpoint
uses the same ones for its prompt encoder and mask decoder. Pure data and text, no torch.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

_NECK = {"0": "conv1", "1": "layer_norm1", "2": "conv2", "3": "layer_norm2"}
_MASK_EMBED = {"0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"}
_UPSCALING = {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"}
_MLP_OF_THREE = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}

PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "image_encoder.patch_embed.proj.": "vision_encoder.patch_embed.projection.",
        "image_encoder.blocks.": "vision_encoder.layers.",
        **{f"image_encoder.neck.{a}.": f"vision_encoder.neck.{b}." for a, b in _NECK.items()},
        "image_encoder.": "vision_encoder.",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": "shared_image_embedding.positional_embedding",
        **{f"prompt_encoder.mask_downscaling.{a}.": f"prompt_encoder.mask_embed.{b}." for a, b in _MASK_EMBED.items()},
        "prompt_encoder.point_embeddings.": "prompt_encoder.point_embed.",
        **{f"mask_decoder.output_upscaling.{a}.": f"mask_decoder.{b}." for a, b in _UPSCALING.items()},
        "mask_decoder.transformer.norm_final_attn.": "mask_decoder.transformer.layer_norm_final_attn.",
    }
)
"""What a name starts with. The longest match is replaced; what matches nothing keeps its name."""

_NORMS = MappingProxyType({f".norm{i}.": f".layer_norm{i}." for i in (1, 2, 3, 4)})
_SHARED_TWICE = "shared_image_embedding.positional_embedding"
_SHARED_COPY = "prompt_encoder.shared_embedding.positional_embedding"


def rename(name: str) -> str:
    """The name in ``transformers`` of one official weight."""
    prefix = max((p for p in PREFIXES if name.startswith(p)), key=len, default="")
    renamed = PREFIXES.get(prefix, "") + name[len(prefix) :]
    for old, new in _NORMS.items():
        renamed = renamed.replace(old, new)
    for head in ("output_hypernetworks_mlps.", "iou_prediction_head."):
        before, found, after = renamed.partition(head)
        if found:
            for old, new in _MLP_OF_THREE.items():
                if f"layers.{old}." in after:
                    renamed = before + found + after.replace(f"layers.{old}.", f"{new}.")
                    break
    return renamed


def rename_all(names: Iterable[str]) -> dict[str, str]:
    """Official name → name in ``transformers``, for every one given.

    Raises:
        ValueError: two official names would become one.
    """
    table = {name: rename(name) for name in names}
    if len(set(table.values())) != len(table):
        raise ValueError("Two weights of the checkpoint would get the same name: this is no layout that we know.")
    return table


def copies(renamed: Iterable[str]) -> dict[str, str]:
    """What ``transformers`` holds twice: name of the copy → name of the original."""
    return {_SHARED_COPY: _SHARED_TWICE} if _SHARED_TWICE in set(renamed) else {}
