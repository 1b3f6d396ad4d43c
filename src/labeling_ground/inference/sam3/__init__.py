"""SAM 3 through ``transformers``, with weights that the operator brings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labeling_ground.errors import BadSettings
from labeling_ground.inference.graphs import NOTES, Precision, version_from, version_of
from labeling_ground.networks.sam3_files import FILES

if TYPE_CHECKING:
    from labeling_ground.inference.sam3.backend import Sam3Backend

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
FEATURES_BYTES = 512 << 20
"""What the detector's features may take on the device: those of four images in fp32."""


def create(
    encode_threads: int,
    decode_threads: int,
    *,
    files: Mapping[str, Path],
    digests: Sequence[str] = (),
    model: str = "sam3",
    precision: Precision = "fp32",
    device: str | None = None,
    features_bytes: int = FEATURES_BYTES,
) -> "Sam3Backend":
    """Build the backend.

    Args:
        encode_threads: threads of one computation on a processor, at least 1.
        decode_threads: prompts decoded at the same time, at least 1.
        files: weights, configuration, vocabulary and merges, by their names in ``FILES``.
        digests: their SHA-256 in that order, hex, where they are known; otherwise the files are read once more.
        model: the model's id.
        precision: of the trunk, the necks and the text encoder; part of the version.
        device: as torch names it; where nothing is given a GPU if there is one.
        features_bytes: what the detector's features of the last images may take on the device.

    Raises:
        BadSettings: torch or transformers is not installed, or the files are not exactly those of SAM 3.
    """
    if precision not in PRECISIONS:
        raise BadSettings(f"SAM 3 is computed in {' or '.join(PRECISIONS)}, not in {precision}.")
    try:
        import torch

        from labeling_ground.inference.sam3.backend import Sam3Backend
        from labeling_ground.inference.sam3.engine import Sam3Engine
        from labeling_ground.networks.sam3 import load

        # Inside, too: what transformers lacks for a class it says when the class is used.
        networks = load(files, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    except ImportError as error:
        raise BadSettings(
            f"SAM 3 is computed by torch and transformers, which the extra 'torch' installs: {error}."
        ) from error
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(encode_threads)
    ordered = [files[role] for role in FILES]
    version = version_from(model, digests, precision) if digests else version_of(model, ordered, precision)
    engine = Sam3Engine(networks, device=chosen, features_bytes=features_bytes)
    return Sam3Backend(engine, version, NOTES[precision], decode_threads=decode_threads, precision=precision)
