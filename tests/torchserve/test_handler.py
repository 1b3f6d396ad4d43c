"""The handler without TorchServe around it: archives that cannot be used, and bodies that are no asks."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.needs import needs
from tests.sam.references import exported

from labeling_ground.errors import BadSettings
from labeling_ground.inference.remote import wire
from labeling_ground.models import archive
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION

ABOUT: dict[str, Any] = {
    "layout": archive.LAYOUT,
    "model": "small",
    "digest": "ab" * 32,
    "role": "decoder",
    "precision": "fp32",
    "preprocessing_version": PREPROCESSING_VERSION,
    "note": "",
    "files": {"decoder": {"file": "decoder.onnx"}, "decoder-fast": {"file": "decoder-fast.onnx"}},
}


class Context:
    """What TorchServe hands over, as far as the handler looks at it."""

    def __init__(self, folder: Path) -> None:
        self.system_properties: dict[str, Any] = {"model_dir": str(folder), "gpu_id": None}
        self.statuses: dict[int, int] = {}
        self.headers: dict[int, dict[str, str]] = {}

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.statuses[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.headers.setdefault(idx, {})[key] = value


@pytest.fixture
def handler() -> Any:
    needs("onnxruntime")
    from labeling_ground.engine_server import torchserve

    return torchserve


def written(folder: Path, **changes: Any) -> Path:
    (folder / "model.json").write_text(json.dumps({**ABOUT, **changes}))
    return folder


def test_archives_made_before_the_handler_moved_find_it(handler: Any) -> None:
    assert importlib.import_module("labeling_ground.inference.remote.torchserve").handle is handler.handle


def test_both_sides_mean_the_same_layout(handler: Any) -> None:
    assert handler.LAYOUT == archive.LAYOUT


def test_an_archive_that_cannot_be_used_is_refused_in_a_sentence(handler: Any, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"no model\.json"):
        handler.open_handler(tmp_path)
    (tmp_path / "model.json").write_text("[1]")
    with pytest.raises(BadSettings, match="make it again"):
        handler.open_handler(tmp_path)
    with pytest.raises(BadSettings, match="make it again"):
        handler.open_handler(written(tmp_path, layout=archive.LAYOUT + 1))
    with pytest.raises(BadSettings, match="make it again"):
        handler.open_handler(written(tmp_path, preprocessing_version="0"))
    with pytest.raises(BadSettings, match="painter"):
        handler.open_handler(written(tmp_path, role="painter"))
    with pytest.raises(BadSettings, match="'decoder'"):
        handler.open_handler(written(tmp_path, files={}))
    with pytest.raises(BadSettings, match=r"decoder\.onnx cannot be loaded"):
        handler.open_handler(written(tmp_path))
    with pytest.raises(BadSettings, match="many"):
        handler.open_handler(written(tmp_path), environment={handler.THREADS: "many"})
    for name in (handler.THREADS, handler.EMBEDDING_STORE_BYTES):
        with pytest.raises(BadSettings, match=f"{name} is -1"):
            handler.open_handler(written(tmp_path), environment={name: "-1"})
    with pytest.raises(BadSettings, match=r"decoder\.onnx cannot be loaded"):  # an empty variable is not set
        handler.open_handler(written(tmp_path), environment={handler.THREADS: " ", handler.EMBEDDING_STORE_BYTES: " "})


def test_each_of_a_batch_gets_its_own_status_and_type(handler: Any, tmp_path: Path) -> None:
    folder, _ = exported()
    for name in ("decoder", "decoder-fast"):
        (tmp_path / f"{name}.onnx").symlink_to(folder / f"{name}.onnx")
    context = Context(written(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(handler.EMBEDDING_STORE_DIR, str(tmp_path / "kept"))
        assert handler.handle(None, context) == []
    # A body as it comes; JSON and forms as TorchServe hands them over when it reads them itself; and none.
    rows = [{"body": bytearray(wire.write_ask(wire.Describe()))}, {"body": {"a": 1}}, {"field": b"x"}, {"body": "text"}]
    described, *refused = handler.handle(rows, context)
    assert wire.read_description(described).version.digest == ABOUT["digest"]
    assert context.statuses == {1: 400, 2: 400, 3: 400}
    assert [json.loads(body)["status"] for body in refused] == [400, 400, 400]
    types = [context.headers[index]["content-type"] for index in range(4)]
    assert types == [wire.MEDIA_TYPE, *[wire.PROBLEM_TYPE] * 3]
    assert {context.headers[index][handler.BATCH_HEADER] for index in range(4)} == {"4"}
