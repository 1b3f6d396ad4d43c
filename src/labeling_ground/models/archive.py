"""TorchServe archives of an installed model: one for its encoder, one for its decoder.

An archive is a zip (stored, not compressed: weights do not shrink). It holds its half's ONNX files, ``model.json`` with
what the handler must know, ``model-config.yaml`` for TorchServe, and a handler of a few lines: what answers is this
package, which the serving environment has installed.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from labeling_ground.errors import BadInput, BadSettings, UnknownModel
from labeling_ground.models.catalogue import Role
from labeling_ground.models.disk import check_room, disk_errors
from labeling_ground.models.manifests import InstalledModel
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION
from labeling_ground.types import ModelVersion

LAYOUT = 1
"""Of ``model.json``. A handler refuses one of another layout."""

ARCHIVER = "model_archiver"
"""What writes archives: the package ``torch-model-archiver``."""

HALVES: Mapping[Role, tuple[Role, ...]] = MappingProxyType(
    {
        Role.ENCODER: (Role.ENCODER, Role.ENCODER_DATA),
        Role.DECODER: (Role.DECODER, Role.FAST_DECODER),
    }
)
"""Half → the files that it can consist of."""

RANDOM = "random-"
"""How the names of models begin whose weights are random numbers, made for trials. Their archives say so."""

_HANDLER = '''"""Answers for TorchServe; the code is in the package labeling-ground."""

from labeling_ground.engine_server.torchserve import handle

__all__ = ["handle"]
'''


@dataclass(frozen=True, slots=True)
class Serving:
    """How TorchServe runs one archive. This stands in the archive: TorchServe reads most of it nowhere else.

    Attributes:
        batch: asks that a worker is handed at once, at most. On a processor, a batch gains nothing.
        batch_delay_ms: how long TorchServe waits for a batch to fill, in milliseconds.
        response_s: a worker that has not answered after so many seconds is ended, and another one started.
        startup_s: seconds that loading may take.
        queue: asks that wait for a worker. TorchServe answers more than that with 503, at once.
        workers: how many; ``None`` leaves it to the server's setting ``default_workers_per_model``.
    """

    batch: int = 1
    batch_delay_ms: int = 1
    response_s: int = 60
    startup_s: int = 300
    queue: int = 100
    workers: int | None = None

    def yaml(self) -> str:
        """``model-config.yaml``."""
        values = {
            "batchSize": self.batch,
            "maxBatchDelay": self.batch_delay_ms,
            "responseTimeout": self.response_s,
            "startupTimeout": self.startup_s,
            "jobQueueSize": self.queue,
        }
        if self.workers is not None:
            values |= {"minWorkers": self.workers, "maxWorkers": self.workers}
        return "".join(f"{name}: {value}\n" for name, value in values.items())


SERVING: Mapping[Role, Serving] = MappingProxyType(
    # A large encoder takes a minute on a slow processor, and more beside others.
    {Role.ENCODER: Serving(response_s=600), Role.DECODER: Serving()}
)
"""How each half is run unless something else is asked for."""


def archive(
    store: ModelStore,
    name: str,
    half: Role,
    version: ModelVersion,
    target: Path,
    *,
    serving: Serving | None = None,
) -> Path:
    """Make the archive of one half of a model. What was there under its name is replaced when it is whole.

    Args:
        store: where the model is.
        name: which model.
        half: ``Role.ENCODER`` or ``Role.DECODER``.
        version: of the whole model; see ``version_files``.
        target: the file to be, ``*.mar``. Its name without the ending is what TorchServe calls the model.
        serving: how it is to be run; ``SERVING`` has what is usual.

    Raises:
        UnknownModel: one of its files is not here.
        BadSettings: ``torch-model-archiver`` is not installed, or failed.
        BadInput: the target's name cannot be an archive's.
        PullFailed: the disk is full, or cannot be written to.
    """
    check_target(target)
    check_archiver()
    model = installed_model(store, name)
    files = {role: store.path_of(name, role) for role in HALVES[half] if role is half or role in model.files}
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        check_room(target.parent, 2 * sum(path.stat().st_size for path in files.values()))
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".archive-") as temporary:
            stage, work = Path(temporary, "stage"), Path(temporary, "work")
            stage.mkdir()
            work.mkdir()
            for role, path in files.items():
                (stage / file_name(model, role)).symlink_to(path.resolve())
            words = {"layout": LAYOUT, **about(model, half, version, files)}
            (stage / "model.json").write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8")
            config, handler = work / "model-config.yaml", work / "handler.py"
            config.write_text((serving or SERVING[half]).yaml(), encoding="utf-8")
            handler.write_text(_HANDLER, encoding="utf-8")
            _pack(target.stem, version, stage, handler, config, work)
            (work / target.name).replace(target)
    return target


def version_files(store: ModelStore, name: str) -> list[Path]:
    """The files whose bytes are the model's version, in the order in which they are counted.

    Raises:
        UnknownModel: one is not here.
    """
    model = installed_model(store, name)
    roles = [Role.ENCODER, Role.DECODER] + [role for role in (Role.FAST_DECODER,) if role in model.files]
    return [store.path_of(name, role) for role in roles]


def file_name(model: InstalledModel, role: Role) -> str:
    """What a file is called in an archive. A file of weights is known to its graph by its digest."""
    return f"sha256-{model.files[role].sha256}" if role is Role.ENCODER_DATA else f"{role}.onnx"


def check_target(target: Path) -> None:
    """See that a file can be an archive that TorchServe will find.

    Raises:
        BadInput: its name is not of ASCII letters, digits, ``_`` and ``-``, with ``.mar`` at the end.
    """
    if target.suffix != ".mar" or not is_name_in_address(target.stem):
        raise BadInput(f"{target.name!r} cannot be an archive's name: letters, digits, _ and -, then .mar.")


def is_name_in_address(name: str) -> bool:
    """Whether a model server takes a name in its addresses: ASCII letters, digits, ``_`` and ``-``."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) is not None


def check_archiver() -> None:
    """See that ``torch-model-archiver`` is installed.

    Raises:
        BadSettings: it is not.
    """
    if importlib.util.find_spec(ARCHIVER) is None:
        raise BadSettings("Archives are written by torch-model-archiver: pip install torch-model-archiver")


def installed_model(store: ModelStore, name: str) -> InstalledModel:
    """What is here of a model.

    Raises:
        UnknownModel: nothing; the sentence says how to get it.
    """
    model = store.get(name)
    if model is None:
        store.path_of(name, Role.ENCODER)  # which says how to get it
        raise UnknownModel(f"Nothing of {name} is here.")
    return model


def about(model: InstalledModel, half: Role, version: ModelVersion, files: Mapping[Role, Path]) -> dict[str, Any]:
    """What an archive says of its half of a model."""
    return {
        "model": version.model,
        "digest": version.digest,
        **({"family": model.family} if model.family else {}),
        "role": half,
        "precision": "fp32",
        "preprocessing_version": PREPROCESSING_VERSION,
        "note": _note(model, half),
        "files": {
            role: {"file": file_name(model, role), "sha256": model.files[role].sha256, "bytes": model.files[role].bytes}
            for role in files
        },
    }


def _note(model: InstalledModel, half: Role) -> str:
    if model.name.startswith(RANDOM):
        return "This model's weights are random numbers: its masks mean nothing."
    return model.files[half].rounding_note


def _pack(name: str, version: ModelVersion, stage: Path, handler: Path, config: Path, work: Path) -> None:
    """Run the archiver. It copies all files to a folder of a fixed name under TMPDIR first: that must be ours alone."""
    command = [sys.executable, "-c", f"from {ARCHIVER}.model_packaging import generate_model_archive as main; main()"]
    command += ["--model-name", name, "--version", version.digest[:16], "--archive-format", "zip-store"]
    command += ["--handler", handler.name, "--config-file", config.name, "--export-path", "."]
    # Relative: the archiver takes commas and wildcards in a path for its own.
    command += ["--extra-files", os.path.relpath(stage, work)]
    environment = {**os.environ, "TMPDIR": str(work)}
    done = subprocess.run(  # noqa: S603 -- our own interpreter and words
        command, cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not (work / f"{name}.mar").is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BadSettings(f"torch-model-archiver could not write {name}.mar: {last}")
