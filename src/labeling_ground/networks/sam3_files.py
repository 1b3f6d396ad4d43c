"""The files of SAM 3, as they lie beside each other where its weights come from. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from labeling_ground.errors import BadSettings

FILES: Mapping[str, str] = MappingProxyType(
    {"weights": "model.safetensors", "config": "config.json", "vocabulary": "vocab.json", "merges": "merges.txt"}
)
"""What a file is for → its name."""


def files_of(folder: Path) -> dict[str, Path]:
    """The files of SAM 3 in a folder, by what they are for.

    Raises:
        BadSettings: one is missing.
    """
    found = {role: folder / name for role, name in FILES.items() if (folder / name).is_file()}
    missing = [name for role, name in FILES.items() if role not in found]
    if missing:
        others = sorted(path.name for path in folder.glob("*.pt"))
        instead = f" {', '.join(others)} are in another layout, which is not read." if others else ""
        raise BadSettings(f"{folder} has no {', '.join(missing)}, which come with the weights of SAM 3.{instead}")
    return found
