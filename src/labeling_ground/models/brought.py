"""Models whose weights nobody may hand on: a folder that the operator was given, as ``transformers`` reads it."""

import contextlib
from pathlib import Path

from labeling_ground.errors import BadInput
from labeling_ground.models.catalogue import Role
from labeling_ground.models.disk import check_room, copied
from labeling_ground.models.manifests import StoredFile
from labeling_ground.models.store import ModelStore, check_given, check_own
from labeling_ground.networks.sam3_files import files_of
from labeling_ground.sam.family import Family


def add_folder(store: ModelStore, folder: Path, *, name: str, family: str | None = None) -> None:
    """Take in copies of a folder's files as one model, in one step.

    Args:
        store: where to.
        folder: with the files of SAM 3, the one family that is so read.
        name: one of the catalogue whose weights the operator brings, or the user's own.
        family: of a model of the user's own.

    Raises:
        BadInput: the name cannot be used, or the family is another one.
        BadSettings: a file is missing.
        PullFailed: one cannot be read, or there is no room for them.
    """
    own = name not in store.known
    known = family if own else store.known.model(name).family
    if known != Family.SAM3:
        raise BadInput(f"A folder is taken in for a model of the family {Family.SAM3} only: --family {Family.SAM3}.")
    files = {Role(role): path for role, path in files_of(folder).items()}
    for role, path in files.items():
        check_own(store, name, role, known)
        check_given(path)
    check_room(store.folder, sum(path.stat().st_size for path in files.values()))
    with contextlib.ExitStack() as copies:
        taken = []
        for role, path in files.items():
            copy = copies.enter_context(store.scratch())
            taken.append((StoredFile(role, *copied(path, copy), path.name, "by hand"), copy))
        store.install(name, taken, family=known, own=own)
