"""Models that are too large for one ONNX file: their weights lie beside it, under the name of their digest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.needs import needs

from labeling_ground.errors import BackendFailed
from labeling_ground.models.catalogue import Role
from labeling_ground.models.disk import digest_of
from labeling_ground.models.manifests import StoredFile
from labeling_ground.models.store import ModelStore


def graph_of(module: Any) -> Any:
    torch = needs("torch")
    needs("onnxscript")
    from labeling_ground.models.export.graphs import GraphPlan

    return GraphPlan("encoder", module.eval(), {"image": torch.randn(3, 2000)}, ("image_embeddings",), {})


def small() -> Any:
    torch = needs("torch")
    needs("onnx")
    needs("onnxruntime")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return torch.nn.Linear(2000, 50)


def ask(path: Path, image: Any) -> Any:
    onnxruntime = needs("onnxruntime")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]


def test_weights_apart_are_known_by_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small()
    from labeling_ground.models.export import graphs

    whole = graphs.write(graph_of(module), tmp_path / "whole", {"family": "sam"})
    assert whole.data is None

    monkeypatch.setattr(graphs, "LARGEST", 1000)
    made = graphs.write(graph_of(module), tmp_path / "apart", {"family": "sam"})
    assert made.data is not None
    assert made.data.name == f"sha256-{digest_of(made.data)}"
    assert sorted(path.name for path in (tmp_path / "apart").iterdir()) == ["encoder.onnx", made.data.name]
    assert made.path.stat().st_size < 20_000 < made.data.stat().st_size
    assert graphs.read_metadata(made.path)["family"] == "sam"
    image = np.random.default_rng(0).standard_normal((3, 2000), np.float32)
    np.testing.assert_array_equal(ask(made.path, image), ask(whole.path, image))

    with needs("torch").no_grad():
        module.bias[0] += 1
    other = graphs.write(graph_of(module), tmp_path / "other", {"family": "sam"})
    assert digest_of(other.path) != digest_of(made.path)


def test_a_store_keeps_them_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small()
    from labeling_ground.models.export import graphs

    monkeypatch.setattr(graphs, "LARGEST", 1000)
    made = graphs.write(graph_of(module), tmp_path / "made", {})
    image = np.random.default_rng(0).standard_normal((3, 2000), np.float32)
    expected = ask(made.path, image)
    assert made.data is not None
    store = ModelStore(tmp_path / "store")
    files = [
        (StoredFile(role, digest_of(path), path.stat().st_size, path.name, "exported"), path)
        for role, path in ((Role.ENCODER, made.path), (Role.ENCODER_DATA, made.data))
    ]
    store.install("large", files, family="sam", own=True)
    np.testing.assert_array_equal(ask(store.path_of("large", Role.ENCODER), image), expected)


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small()
    from labeling_ground.models.export import graphs

    monkeypatch.setattr(graphs, "LARGEST", 1000)
    with pytest.raises(BackendFailed, match="not kept"):
        graphs.write(graph_of(module), tmp_path, {}, tolerance=-1.0)
    assert list(tmp_path.iterdir()) == []
