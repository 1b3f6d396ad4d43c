"""Stores of weights with one model in each."""

import hashlib
from pathlib import Path

from tests.needs import needs

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
    store.install(name, files, family="sam", own=True)
    return store


def graph(path: Path, kind: str = "FLOAT") -> Path:
    """An ONNX file with one input of three kinds of sizes, and one output."""
    onnx = needs("onnx")
    needs("onnxruntime")
    sizes = ["prompts", 3, None]
    tensor = getattr(onnx.TensorProto, kind)
    ends = [onnx.helper.make_tensor_value_info(name, tensor, sizes) for name in ("image", "embedding")]
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["image"], ["embedding"])], "g", ends[:1], ends[1:]
    )
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def stored(folder: Path, kind: str = "FLOAT") -> ModelStore:
    """A store with one model of graphs that can be loaded, of this type of tensor."""
    folder.mkdir(exist_ok=True)
    store = ModelStore(folder / "models")
    for role in (Role.ENCODER, Role.DECODER):
        store.add(graph(folder / f"{role}.onnx", kind), name="my-sam", role=role, family="sam")
    return store
