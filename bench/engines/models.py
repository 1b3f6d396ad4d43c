"""The models of the benchmark: seeded random weights, exported once into a folder that later runs find again."""

from pathlib import Path
from typing import Any

from tests.sam.references import export_official_decoder, mobile, sam

FAMILIES = ("sam-vit-b", "mobile-sam")


def reference(family: str) -> Any:
    """The reference implementation, in torch."""
    return sam(12) if family == "sam-vit-b" else mobile()


def files(family: str, folder: Path) -> dict[str, Any]:
    """Our files of one family, made if they are not there."""
    import torch

    from labeling_ground.models.export.run import export

    home = folder / family
    if not (home / "decoder-fast.onnx").exists():
        home.mkdir(parents=True, exist_ok=True)
        checkpoint = home / "weights.pth"
        torch.save(reference(family).state_dict(), checkpoint)
        export(checkpoint, home, model=family)
    return {
        "encoder_path": home / "encoder.onnx",
        "decoder_path": home / "decoder.onnx",
        "fast_decoder_path": home / "decoder-fast.onnx",
        "model": family,
    }


def official_decoder(family: str, folder: Path) -> Path:
    """The decoder as the reference's own script exports it: all four masks at the image's size."""
    path = folder / family / "official-decoder.onnx"
    if not path.exists():
        export_official_decoder(reference(family), path)
    return path
