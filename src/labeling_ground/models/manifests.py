"""What is noted of each model on this machine: one manifest a model, which says which files are its."""

import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labeling_ground.models.catalogue import Format, Role, is_model_name, is_sha256
from labeling_ground.models.disk import flush
from labeling_ground.verdict import Verdict

log = logging.getLogger(__name__)

MANIFEST = 1
"""Layout of a manifest. One of another layout is not read."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file in the store.

    Attributes:
        role: what it is for.
        sha256: its digest, and so its name in the store.
        bytes: its size.
        file: the name that it came with.
        origin: where it came from: an address, ``by hand``, or what made it.
        precision: of its weights, where known.
        io: the convention for its tensors, where known (see the catalogue).
    """

    role: Role
    sha256: str
    bytes: int
    file: str
    origin: str
    precision: str | None = None
    io: str | None = None

    @property
    def format(self) -> Format:
        """How it is written."""
        return self.role.written_as

    @property
    def rounding_note(self) -> str:
        """A sentence for its users where its weights are rounded; else empty."""
        if self.precision in (None, "fp32"):
            return ""
        return f"The weights of these ready-made files are rounded to {self.precision}."


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """What is here of one model.

    Attributes:
        name: the model id.
        family: which numbers and prompts it follows; ``None`` where nobody said.
        own: it is the user's, not the catalogue's.
        files: by role.
        memory_bytes: what it took when it was last loaded, measured; ``None`` before that.
        verdicts: machine → what was found of each engine and precision there, for these files.
    """

    name: str
    family: str | None
    own: bool
    files: Mapping[Role, StoredFile]
    memory_bytes: int | None = None
    verdicts: Mapping[str, tuple[Verdict, ...]] = field(default_factory=dict)

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats of which everything is here: both halves, the checkpoint, or all that ``transformers`` reads."""
        complete = []
        if Role.ENCODER in self.files and Role.DECODER in self.files:
            complete.append(Format.ONNX)
        if Role.CHECKPOINT in self.files:
            complete.append(Format.PYTORCH)
        if all(role in self.files for role in Role if role.written_as is Format.TRANSFORMERS):
            complete.append(Format.TRANSFORMERS)
        return tuple(complete)


class Manifests:
    """The manifests in one folder, which is made when the first one is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The models of which there is a manifest."""
        try:
            return sorted(path.stem for path in self.folder.glob("*.json"))
        except OSError:
            return []

    def path(self, name: str) -> Path:
        """Where a model's manifest is, or would be."""
        return self.folder / f"{name}.json"

    def read(self, name: str) -> InstalledModel | None:
        """The model as its manifest has it; ``None`` where there is none that can be used, which is logged."""
        if not is_model_name(name):
            return None
        path = self.path(name)
        try:
            raw = json.loads(path.read_bytes())
            if raw["layout"] != MANIFEST:
                raise ValueError(f"its layout is {raw['layout']}")
            files = [_stored(entry) for entry in raw["files"]]
            family, own = raw["family"], bool(raw["own"])
            memory_bytes = None if raw.get("memory_bytes") is None else int(raw["memory_bytes"])
            verdicts = _verdicts(raw.get("verdicts"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the manifest %s cannot be used: %s", path, error)
            return None
        return InstalledModel(name, family, own, {file.role: file for file in files}, memory_bytes, verdicts)

    def write(self, model: InstalledModel) -> None:
        """Put a manifest into the place of an earlier one, in one step. Raises ``OSError``."""
        document = {
            "layout": MANIFEST,
            "model": model.name,
            "family": model.family,
            "own": model.own,
            "memory_bytes": model.memory_bytes,
            "files": [asdict(file) for _, file in sorted(model.files.items())],
            "verdicts": {machine: [asdict(verdict) for verdict in found] for machine, found in model.verdicts.items()},
        }
        path = self.path(model.name)
        temporary = path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _verdicts(raw: Any) -> dict[str, tuple[Verdict, ...]]:
    """Those of the manifest; none where they are of another version: they can be had again, unlike the files."""
    try:
        return {machine: tuple(Verdict(**verdict) for verdict in found) for machine, found in raw.items()}
    except (AttributeError, TypeError):
        return {}


def _stored(raw: dict[str, Any]) -> StoredFile:
    if not is_sha256(raw["sha256"]):
        raise ValueError(f"{raw['sha256']!r} is no SHA-256")
    return StoredFile(**{**raw, "role": Role(raw["role"])})
