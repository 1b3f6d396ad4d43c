"""Ready-made files of others: they call their tensors differently, and want some in another form.

Which dialect a file speaks is told by its tensors' names; the catalogue has them in words (``io``). Our own files and
the reference's decoder of SAM 1 need no translation.

- ``osam-sam2``: SAM 2 as ``export_onnx.py`` of ryouchinsa/sam-cpp-macos writes it. The decoder adds the padding point
  itself, clamps its low-res logits to ± 32, and upsamples all masks to ``orig_im_size``, which is not used.
- ``efficient-sam``: the decoder takes coordinates in an image of ``orig_im_size`` and gives masks of that size, by
  interpolation of its 256 × 256 logits. Asked for a size of 256 × 256 it gives these logits themselves.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadSettings
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import LOW_RES, SIDE
from labeling_ground.sam.prompts import PADDING, PromptTensors

LOGITS, SCORES = "low_res_masks", "iou_predictions"
"""Outputs of a decoder graph."""

_PADDING_POINT = np.zeros((1, 1, 2), np.float32)
_PADDING_LABEL = np.full((1, 1), PADDING, np.float32)


class Dialect(StrEnum):
    """The naming convention of a model file."""

    OURS = "ours"
    OSAM_SAM2 = "osam-sam2"
    EFFICIENT_SAM = "efficient-sam"


_TELLTALES: Mapping[str, Dialect] = MappingProxyType(
    {
        "high_res_features1": Dialect.OSAM_SAM2,
        "batched_images": Dialect.EFFICIENT_SAM,
        "batched_point_coords": Dialect.EFFICIENT_SAM,
    }
)
_FAMILIES: Mapping[Dialect, Family] = MappingProxyType(
    {Dialect.OSAM_SAM2: Family.SAM2, Dialect.EFFICIENT_SAM: Family.EFFICIENT_SAM}
)
_FINER = MappingProxyType({"high_res_features_0": "high_res_features1", "high_res_features_1": "high_res_features2"})


def dialect_of(names: Collection[str]) -> Dialect:
    """Which dialect a file speaks that has inputs or outputs of these names."""
    return next((dialect for name, dialect in _TELLTALES.items() if name in names), Dialect.OURS)


def described(metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """A file's metadata; of one that names no family, with the family that its tensors' names tell."""
    family = _FAMILIES.get(dialect_of(names))
    return {**({"family": family.value} if family else {}), **metadata}


def embedding_outputs(family: Family, outputs: Sequence[str]) -> list[str]:
    """What an encoder graph calls the tensors of an embedding, in the family's order.

    Raises:
        BadSettings: it does not give them all.
    """
    if len(outputs) == 1 == len(family.embedding_names):
        return list(outputs)  # files of others call SAM's one output as they like
    finer = _FINER if dialect_of(outputs) is Dialect.OSAM_SAM2 else {}
    wanted = [finer.get(name, name) for name in family.embedding_names]
    absent = set(wanted) - set(outputs)
    if absent:
        raise BadSettings(
            f"The encoder gives no {', '.join(sorted(absent))}: it is not one that can be used. Make one from the "
            "authors' checkpoint: labeling-ground models export."
        )
    return wanted


def decoder_outputs(outputs: Collection[str]) -> tuple[str, str]:
    """What a decoder graph calls low-res logits and scores.

    Raises:
        BadSettings: it does not give them.
    """
    wanted = ("output_masks" if "output_masks" in outputs else LOGITS, SCORES)
    absent = set(wanted) - set(outputs)
    if absent:
        raise BadSettings(
            f"The decoder gives no {', '.join(sorted(absent))}: it is not one that can be used. Make one from the "
            "authors' checkpoint: labeling-ground models export."
        )
    return wanted


def decoder_inputs(
    embedding: Mapping[str, NDArray[np.float32]], prompt: PromptTensors, names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """What a decoder graph takes, of what there is.

    Graphs that also want the original image's size upsample their masks to it. Where that result is not used, the size
    given is small.
    """
    dialect = dialect_of(names)
    if dialect is Dialect.EFFICIENT_SAM:
        return {
            "image_embeddings": embedding["image_embeddings"],
            "batched_point_coords": (prompt.point_coords * np.float32(LOW_RES / SIDE))[None],
            "batched_point_labels": prompt.point_labels[None],
            "orig_im_size": np.array([LOW_RES, LOW_RES], np.int64),
        }
    coords, labels = prompt.point_coords, prompt.point_labels
    if dialect is Dialect.OSAM_SAM2 and prompt.tokens and labels[0, -1] == PADDING:
        coords, labels = coords[:, :-1], labels[:, :-1]
    if "orig_im_size" in names and labels.shape[1] == 0:
        # Graphs of others were not made for prompts without any token; the padding point says the least.
        coords, labels = _PADDING_POINT, _PADDING_LABEL
    offered: dict[str, NDArray[Any]] = {
        **embedding,
        "point_coords": coords,
        "point_labels": labels,
        "mask_input": prompt.mask_input,
        "has_mask_input": prompt.has_mask_input,
        "orig_im_size": np.array([8, 8], np.int64 if dialect is Dialect.OSAM_SAM2 else np.float32),
    }
    if dialect is Dialect.OSAM_SAM2:
        offered |= {theirs: offered[ours] for ours, theirs in _FINER.items()}
    return {name: offered[name] for name in names}


def check_decoder_inputs(family: Family, names: Sequence[str]) -> None:
    """See that a decoder graph wants nothing that we do not have.

    Raises:
        BadSettings: it does.
    """
    one = np.zeros((1, 1), np.float32)
    nothing = PromptTensors(_PADDING_POINT, _PADDING_LABEL, one, one)
    try:
        decoder_inputs(dict.fromkeys(family.embedding_names, one), nothing, names)
    except KeyError as error:
        raise BadSettings(
            f"The decoder wants a tensor {error}, which is of no convention that we know. Make one from the authors' "
            "checkpoint: labeling-ground models export."
        ) from None
