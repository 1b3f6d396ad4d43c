"""The weights on this machine: files by digest, and one manifest a model that says which are its.

::

    blobs/sha256-<hex>        a file; it gets this name only when its digest is known to be that
    manifests/<model>.json    which blob is the model's encoder, decoder, checkpoint
    partial/                  downloads and copies under way, or interrupted
    locks/                    empty files to hold locks on
"""

import contextlib
import dataclasses
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from labeling_ground.errors import BadInput, PullFailed, UnknownModel
from labeling_ground.models.catalogue import (
    Artifact,
    Catalogue,
    CatalogueModel,
    Format,
    Role,
    catalogue,
    is_model_name,
)
from labeling_ground.models.disk import check_room, copied, digest_of, disk_errors, flush, locked
from labeling_ground.models.manifests import InstalledModel, Manifests, StoredFile
from labeling_ground.networks.sam3_files import files_of
from labeling_ground.sam.family import Family
from labeling_ground.verdict import Verdict

log = logging.getLogger(__name__)

_MACHINES = 16
"""Of so many kinds of machines a manifest has verdicts."""
_NOT_A_NAME_FOR_WEIGHTS = frozenset({"classical"})
"""The weight-free engine's id: a model of that name could be taken for it."""


class ModelStore:
    """The models in one folder. Several processes may share it. Nothing is made before something is kept.

    Args:
        folder: where; made when it is needed.
        known: the catalogue to identify files with; the packaged one by default.
    """

    def __init__(self, folder: Path, known: Catalogue | None = None) -> None:
        self.folder = folder
        self.known = known or catalogue()
        self._manifests = Manifests(folder / "manifests")

    def installed(self) -> dict[str, InstalledModel]:
        """What is here, by name. Files that are gone or of another size do not count."""
        found = {name: model for name in self._manifests.names() if (model := self.get(name)) is not None}
        return {name: model for name, model in found.items() if model.files}

    def get(self, name: str) -> InstalledModel | None:
        """What is here of one model; ``None`` when nothing ever was."""
        noted = self.noted(name)
        if noted is None:
            return None
        return dataclasses.replace(noted, files={role: f for role, f in noted.files.items() if self._is_whole(f)})

    def noted(self, name: str) -> InstalledModel | None:
        """The model as its manifest has it, whether or not the files are still here: one half may live elsewhere."""
        return self._manifests.read(name)

    def path_of(self, name: str, role: Role) -> Path:
        """Where a model's file is.

        Raises:
            UnknownModel: it is not here; the sentence says how to get it.
        """
        model = self.get(name)
        if model is not None and role in model.files:
            return self.blob(model.files[role].sha256)
        if name not in self.known:
            if model is None:
                self.known.model(name)
            raise UnknownModel(f"No {role} of {name} is here. Add one: labeling-ground models add FILE --as {name}.")
        wanted = self.known.model(name)
        if wanted.bring and model is not None and model.formats:
            raise UnknownModel(f"{name} is served as a whole, by torch: there is no {role} of it.")
        if wanted.bring:
            wanted.files()
        if role.written_as is Format.ONNX and Format.ONNX not in wanted.formats:
            raise UnknownModel(
                f"There is no ready-made {role} of {name}, and none was exported here: labeling-ground models pull "
                f"{name}, then labeling-ground models export {name}; or serve the checkpoint as it is: "
                "LABELING_GROUND_ENGINE=torch."
            )
        choice = f" --format {role.written_as}" if role.written_as is not wanted.formats[0] else ""
        wanted.files(role.written_as)
        raise UnknownModel(f"The {role} of {name} is not here. Get it: labeling-ground models pull {name}{choice}.")

    def damaged(self, name: str) -> tuple[Role, ...]:
        """The roles of the files whose content does not match their digest. Reads them all: seconds a gigabyte."""
        model = self.get(name)
        files = model.files.values() if model else ()
        return tuple(file.role for file in files if digest_of(self.blob(file.sha256)) != file.sha256)

    def blob(self, sha256: str) -> Path:
        """Where a file of that digest is, or would be."""
        return self.folder / "blobs" / f"sha256-{sha256}"

    def add(self, file: Path, *, name: str | None = None, role: Role | None = None, family: str | None = None) -> str:
        """Copy a file into the store. Returns the name of the model that it belongs to.

        Without a name, the file must be one of the catalogue's: its digest says which. With a name and a role, it is
        the user's own model, whose identity its digest then is. It is a copy, not a link, so that nobody who writes to
        the original changes what is served.

        Raises:
            BadInput: the file is not in the catalogue and has no name, is no file, or the name cannot be used.
            PullFailed: it cannot be read, or there is no room for it.
        """
        own = name is not None
        if own:
            check_own(self, name or "", role, family)
        check_given(file)
        check_room(self.folder, file.stat().st_size)
        with self.scratch() as copy:
            sha256, size = copied(file, copy)
            if name is not None and role is not None:
                stored = StoredFile(role, sha256, size, file.name, "by hand")
            else:
                known = self.known.identify(sha256)
                if known is None:
                    raise BadInput(_unknown(file, sha256, size))
                name, stored = known[0].name, stored_from(known[1], size, "by hand")
                family = known[0].family
            self.install(name, [(stored, copy)], family=family, own=own)
        return name

    def install(
        self, name: str, files: Iterable[tuple[StoredFile, Path]], *, family: str | None, own: bool
    ) -> InstalledModel:
        """Move files into the store and note them as the model's, all in one step. Returns what is here then.

        The caller has checked each file's digest. A file whose blob is here already may be missing. A file takes the
        place of the model's earlier one of that role, and goes where no other model uses that.

        Raises:
            PullFailed: the disk is full, or the folder cannot be written.
        """
        files = list(files)
        with disk_errors(self.folder):
            self._manifests.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "blobs").mkdir(exist_ok=True)
            with self._locked():
                for stored, path in files:
                    blob = self.blob(stored.sha256)
                    if blob.is_file() and blob.stat().st_size == stored.bytes:
                        continue
                    flush(path)
                    path.replace(blob)
                before = self.get(name)
                roles = dict(before.files if before else {})
                replaced = {roles[stored.role].sha256 for stored, _ in files if stored.role in roles}
                roles |= {stored.role: stored for stored, _ in files}
                known_family = family or (before.family if before else None)
                now = InstalledModel(name, known_family, own, roles)
                self._manifests.write(now)
                self._drop_unused(replaced)
                return now

    def note_memory(self, name: str, memory_bytes: int) -> None:
        """Note what a model took when it was loaded, until its files change.

        Raises:
            PullFailed: the folder cannot be written.
        """
        with disk_errors(self.folder), self._locked():
            model = self.noted(name)
            if model is not None and model.memory_bytes != memory_bytes:
                self._manifests.write(dataclasses.replace(model, memory_bytes=memory_bytes))

    def note_verdicts(self, name: str, machine: str, verdicts: Iterable[Verdict]) -> None:
        """Note what was found of engines and precisions on a machine, in the place of what was found of them before.

        Goes when the model's files change. Of other machines that share the folder the last ones stay.

        Raises:
            PullFailed: the folder cannot be written.
        """
        with disk_errors(self.folder), self._locked():
            model = self.noted(name)
            if model is None:
                return
            known = (*model.verdicts.get(machine, ()), *verdicts)
            found = {(each.engine, each.precision, each.embedding): each for each in known}
            others = [(key, value) for key, value in model.verdicts.items() if key != machine]
            now = {**dict(others[1 - _MACHINES :]), machine: tuple(found.values())}
            self._manifests.write(dataclasses.replace(model, verdicts=now))

    def remove(self, name: str) -> int:
        """Remove a model, and what an interrupted pull of it left. Returns the bytes that this gave back.

        Raises:
            UnknownModel: nothing of it is here.
            PullFailed: it is being pulled right now, or a file cannot be removed.
        """
        artifacts = self.known.model(name).artifacts if name in self.known else ()
        parts = [part for artifact in artifacts if (part := self.part(artifact.sha256)).exists()]
        if not is_model_name(name) or not (self._manifests.path(name).exists() or parts):
            raise UnknownModel(f"Nothing of a model {name!r} is here.")
        with disk_errors(self.folder), self.pulling(name, wait_s=0), self._locked():
            model = self.get(name)
            self._manifests.path(name).unlink(missing_ok=True)
            freed = self._drop_unused({file.sha256 for file in model.files.values()} if model else set())
            for part in parts:
                with contextlib.suppress(FileNotFoundError):
                    freed += part.stat().st_size
                    part.unlink()
                part.with_suffix(".json").unlink(missing_ok=True)
        return freed

    def part(self, sha256: str) -> Path:
        """Where the download of a file grows. It outlives an interruption."""
        return self.folder / "partial" / f"sha256-{sha256}.part"

    @contextlib.contextmanager
    def pulling(
        self, name: str, *, wait_s: float | None = None, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Lock the download of a model.

        Raises:
            PullFailed: somebody else still does after ``wait_s``, or the folder cannot be written.
        """
        with contextlib.ExitStack() as held:
            with disk_errors(self.folder):
                for folder in ("locks", "partial"):
                    (self.folder / folder).mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(locked(self.folder / "locks" / f"{name}.lock", wait_s=wait_s, waiting=waiting))
                except TimeoutError:
                    raise PullFailed(f"{name} is being pulled by another process. Wait for it, or stop it.") from None
            yield

    def _is_whole(self, file: StoredFile) -> bool:
        try:
            return self.blob(file.sha256).stat().st_size == file.bytes
        except OSError:
            return False

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        # A leading dot: no model can have this name, so no pull can hold this lock.
        return locked(self.folder / "locks" / ".store.lock")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Where a copy can be made before it is kept; it goes if it is not."""
        folder = self.folder / "partial"
        with disk_errors(self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"add-{secrets.token_hex(6)}"
        try:
            with disk_errors(self.folder):
                yield path
        finally:
            path.unlink(missing_ok=True)

    def _drop_unused(self, digests: Iterable[str]) -> int:
        used = {file.sha256 for model in self.installed().values() for file in model.files.values()}
        freed = 0
        for sha256 in set(digests) - used:
            blob = self.blob(sha256)
            size = blob.stat().st_size if blob.exists() else 0
            # A system that will not remove a file in use leaves it behind; it is found again by its digest.
            with contextlib.suppress(OSError):
                blob.unlink(missing_ok=True)
                freed += size
        return freed


@contextlib.contextmanager
def judging(folder: Path, name: str) -> Iterator[None]:
    """Lock the trial of a model's engines: another process waits, and then finds the result.

    Args:
        folder: of the store.
        name: the model id.

    Raises:
        PullFailed: the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        with disk_errors(folder):
            (folder / "locks").mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / "locks" / f".{name}.judging.lock"))
        yield


def stored_from(artifact: Artifact, size: int, origin: str) -> StoredFile:
    """The catalogue's file, as it is noted in a manifest."""
    return StoredFile(
        artifact.role, artifact.sha256, size, artifact.file, origin, precision=artifact.precision, io=artifact.io
    )


def is_here(model: InstalledModel | None, wanted: CatalogueModel, as_format: Format | None = None) -> bool:
    """Whether a model is here in the catalogue's present version."""
    here = model.files if model else {}
    return all(a.role in here and here[a.role].sha256 == a.sha256 for a in wanted.files(as_format))


def check_own(store: ModelStore, name: str, role: Role | None, family: str | None) -> None:
    """See that a file of this role can be taken in under a name by hand.

    Raises:
        BadInput: it cannot.
    """
    if not is_model_name(name):
        raise BadInput(f"{name!r} cannot be a model's name: use a-z, 0-9, dots and hyphens.")
    brought = name in store.known and bool(store.known.model(name).bring)
    if name in _NOT_A_NAME_FOR_WEIGHTS or (name in store.known and not brought):
        raise BadInput(f"{name} is a name of ours; a model of your own needs another, or answers would mislead.")
    if role is None:
        raise BadInput(f"Say what the file of {name} is: --role encoder, decoder or checkpoint.")
    if brought and role.written_as is not Format.TRANSFORMERS:
        raise BadInput(f"{name} is taken in as a whole: labeling-ground models add FOLDER --as {name}.")
    before = store.get(name)
    if family and before and before.family and before.family != family and set(before.files) - {role}:
        raise BadInput(f"{name} is of the family {before.family}. Remove it first, or choose another name.")


def check_given(file: Path) -> None:
    """See that a path is a file that is not empty. Raises ``BadInput``."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}.") from None
    if not file.is_file():
        raise BadInput(f"{file} is no file.")
    if size == 0:
        raise BadInput(f"{file} is empty.")


def _unknown(file: Path, sha256: str, size: int) -> str:
    with file.open("rb") as opened:
        start = opened.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return f"{file} is a pointer of Git LFS, not the weights: fetch the file itself (git lfs pull)."
    if start.startswith((b"<!doctype", b"<html")):
        return f"{file} is a web page, not the weights: the download needed a login or another address."
    return (
        f"{file} ({size} bytes, SHA-256 {sha256}) is none of the catalogue's files: it is damaged, another version, or "
        "your own. If it is your own model, say so: --as NAME --role encoder, decoder or checkpoint."
    )


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
