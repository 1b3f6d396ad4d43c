"""Names of the weights: official SAM checkpoints on the left, the module tree of ``transformers`` on the right.

The official names are those of ``segment_anything`` (``sam_vit_b_01ec64.pth`` has 314 of them); MobileSAM's checkpoint
uses the same ones for its prompt encoder and mask decoder, SAM-HQ's has some more in its decoder. SAM 2's differ and
are in ``layout_sam2``. Pure data and text, no torch.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

_NECK = {"0": "conv1", "1": "layer_norm1", "2": "conv2", "3": "layer_norm2"}
MASK_EMBED = {"0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"}
_FINER = {"0": "conv1", "1": "norm", "3": "conv2"}
_OF_HQ = {"compress_vit_feat": "compress_vit", "embedding_encoder": "encoder", "embedding_maskfeature": "mask"}
UPSCALING = {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"}
MLP_OF_THREE = MappingProxyType({"layers.0.": "proj_in.", "layers.1.": "layers.0.", "layers.2.": "proj_out."})
"""The layers of a small network with one hidden layer between two others."""

PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "image_encoder.patch_embed.proj.": "vision_encoder.patch_embed.projection.",
        "image_encoder.blocks.": "vision_encoder.layers.",
        **{f"image_encoder.neck.{a}.": f"vision_encoder.neck.{b}." for a, b in _NECK.items()},
        "image_encoder.": "vision_encoder.",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": "shared_image_embedding.positional_embedding",
        **{f"prompt_encoder.mask_downscaling.{a}.": f"prompt_encoder.mask_embed.{b}." for a, b in MASK_EMBED.items()},
        "prompt_encoder.point_embeddings.": "prompt_encoder.point_embed.",
        **{f"mask_decoder.output_upscaling.{a}.": f"mask_decoder.{b}." for a, b in UPSCALING.items()},
        "mask_decoder.transformer.norm_final_attn.": "mask_decoder.transformer.layer_norm_final_attn.",
        "mask_decoder.hf_token.": "mask_decoder.hq_token.",
        "mask_decoder.hf_mlp.": "mask_decoder.hq_mask_mlp.",
        **{f"mask_decoder.{a}.{i}.": f"mask_decoder.{b}_{c}." for a, b in _OF_HQ.items() for i, c in _FINER.items()},
    }
)
"""What a name starts with. The longest match is replaced; what matches nothing keeps its name."""

NORMS = MappingProxyType({f".norm{i}.": f".layer_norm{i}." for i in (1, 2, 3, 4)})
SHARED = "shared_image_embedding.positional_embedding"
_SHARED_COPY = "prompt_encoder.shared_embedding.positional_embedding"


def rename(name: str) -> str:
    """The name in ``transformers`` of one official weight of SAM or SAM-HQ."""
    renamed = replace_all(replace_prefix(name, PREFIXES), NORMS)
    for head in ("output_hypernetworks_mlps.", "iou_prediction_head.", "hq_mask_mlp."):
        renamed = replace_after(renamed, head, MLP_OF_THREE)
    return renamed


def rename_all(names: Iterable[str], rename: Callable[[str], str] = rename) -> dict[str, str]:
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
    return {_SHARED_COPY: SHARED} if SHARED in set(renamed) else {}


def replace_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    """Replace the longest of the prefixes that the name starts with; without any, the name stays."""
    prefix = max((p for p in prefixes if name.startswith(p)), key=len, default="")
    return prefixes.get(prefix, "") + name[len(prefix) :]


def replace_all(name: str, parts: Mapping[str, str]) -> str:
    """Replace each part wherever it stands."""
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def replace_after(name: str, head: str, parts: Mapping[str, str]) -> str:
    """Replace the first of the parts that is found after ``head``; without a head, the name stays."""
    before, found, after = name.partition(head)
    part = next((old for old in parts if found and old in after), None)
    return name if part is None else before + found + after.replace(part, parts[part])
