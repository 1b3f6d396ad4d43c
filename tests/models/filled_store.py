"""A store of weights with one model in it."""

import hashlib
from pathlib import Path

from labeling_ground.models.catalogue import Role
from labeling_ground.models.manifests import StoredFile
from labeling_ground.models.store import ModelStore

PARTS = {
    Role.ENCODER: b"the graph of an encoder",
    Role.ENCODER_DATA: b"its weights" * 1000,
    Role.DECODER: b"a decoder",
    Role.FAST_DECODER: b"a faster one",
}


def filled(folder: Path, name: str = "my-sam", *, precision: str | None = None) -> ModelStore:
    """A store with one model. Archives do not look into its files."""
    store = ModelStore(folder / "models")
    files = []
    for role, content in PARTS.items():
        path = folder / f"{name}-{role}"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files.append((StoredFile(role, digest, len(content), path.name, "by hand", precision=precision), path))
    store.keep(name, files, family="sam", own=True)
    return store
