"""A Triton model repository of an installed model: a folder for its encoder, one for its decoder.

::

    <name>/config.pbtxt          inputs and outputs, as the graph has them; which model it is
    <name>/<number>/model.onnx   the graph; the number is that of the model version

OpenVINO Model Server and KServe's runtimes serve the same folders.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from labeling_ground.errors import BadInput, BadSettings
from labeling_ground.models.archive import HALVES, about, file_name, installed_model, is_name_in_address
from labeling_ground.models.catalogue import Role
from labeling_ground.models.disk import check_room, disk_errors
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.preprocess import version_number
from labeling_ground.types import ModelVersion

PARAMETER = "labeling_ground"
"""Of the configuration: which model it is, as JSON. ``inference.remote.oip`` reads it."""

_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "tensor(float)": "TYPE_FP32",
        "tensor(float16)": "TYPE_FP16",
        "tensor(int32)": "TYPE_INT32",
        "tensor(int64)": "TYPE_INT64",
    }
)
"""ONNX Runtime's words for tensors, and Triton's."""


def archive(store: ModelStore, name: str, half: Role, version: ModelVersion, target: Path) -> Path:
    """Write the repository's folder of one half of a model.

    The version's folder gets its name when it is whole, and only then the configuration names it. Folders of versions
    before stay: a server that has them loaded may still read them.

    Args:
        store: where the model is.
        name: which model.
        half: ``Role.ENCODER`` or ``Role.DECODER``.
        version: of the whole model; see ``archive.version_files``.
        target: the folder to be. Its name is what Triton calls the model.

    Raises:
        UnknownModel: one of its files is not here.
        BadSettings: ONNX Runtime is not installed, or the graph cannot be loaded or has tensors of other types.
        BadInput: the target's name cannot be a model's.
        PullFailed: the disk is full, or cannot be written to.
    """
    check_name(target.name)
    model = installed_model(store, name)
    roles = [
        role for role in HALVES[half] if role in (half, Role.ENCODER_DATA) and (role is half or role in model.files)
    ]
    files = {role: store.path_of(name, role) for role in roles}
    inputs, outputs = _tensors(files[half])
    number = version_number(version)
    config = _config(target.name, number, inputs, outputs, about(model, half, version, files))
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        check_room(target, sum(path.stat().st_size for path in files.values()))
        with tempfile.TemporaryDirectory(dir=target, prefix=".archive-") as temporary:
            stage = Path(temporary, str(number))
            stage.mkdir()
            for role, path in files.items():
                shutil.copyfile(path, stage / ("model.onnx" if role is half else file_name(model, role)))
            if not (target / str(number)).exists():  # equal numbers are equal files
                stage.replace(target / str(number))
            written = Path(temporary, "config.pbtxt")
            written.write_text(config, encoding="utf-8")
            written.replace(target / "config.pbtxt")
    return target


def check_name(name: str) -> None:
    """See that a folder can be a model's in a repository, and its name stand in an address.

    Raises:
        BadInput: it is not of letters, digits, ``_`` and ``-``.
    """
    if not is_name_in_address(name):
        raise BadInput(f"{name!r} cannot be a model's name: letters, digits, _ and -.")


def _config(name: str, number: int, inputs: Sequence[Any], outputs: Sequence[Any], words: Mapping[str, Any]) -> str:
    """``config.pbtxt``. No batches: a prompt's tensors have no dimension of their own that all would share."""
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        "max_batch_size: 0",
        f"version_policy: {{ specific: {{ versions: [ {number} ] }} }}",
    ]
    lines += [_tensor("input", each) for each in inputs] + [_tensor("output", each) for each in outputs]
    told = json.dumps(json.dumps(words))
    lines.append(f'parameters {{ key: "{PARAMETER}" value: {{ string_value: {told} }} }}')
    return "".join(f"{line}\n" for line in lines)


def _tensor(kind: str, tensor: Any) -> str:
    if tensor.type not in _TYPES:
        raise BadSettings(f"The graph's {tensor.name} is a {tensor.type}: only {', '.join(_TYPES)} are served.")
    dims = ", ".join(str(side if isinstance(side, int) else -1) for side in tensor.shape)
    return f'{kind} [ {{ name: "{tensor.name}" data_type: {_TYPES[tensor.type]} dims: [ {dims} ] }} ]'


def _tensors(graph: Path) -> tuple[Sequence[Any], Sequence[Any]]:
    """Inputs and outputs of a graph, as ONNX Runtime tells them."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BadSettings("Graphs are read by ONNX Runtime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package raises classes of its own that share no base but this one
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise BadSettings(f"The model file {graph} cannot be loaded by ONNX Runtime: {first[0]}") from error
    return session.get_inputs(), session.get_outputs()
