"""The encoders' work memory under ONNX Runtime: kept from image to image, and given back when none comes."""

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.needs import needs

from labeling_ground.inference.memory import give_back_free_memory
from labeling_ground.settings.machine import resident_bytes

needs("onnxruntime")

from labeling_ground.inference import onnx_arena  # noqa: E402 -- without ONNX Runtime there is none
from labeling_ground.inference.onnx_arena import SLOW_S, common_arena  # noqa: E402
from labeling_ground.inference.onnx_halves import OnnxEncoder  # noqa: E402

LONG_S = 60.0
PICTURE = np.zeros((64, 48, 3), np.uint8)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An encoder's file that takes 250 MB of work memory for each image, 16 MB for its embedding, and no time to speak
    of."""
    onnx = needs("onnx")
    monkeypatch.setattr(onnx_arena, "SLOW_S", 3600.0)  # whatever else this machine does
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("Concat", ["image"] * 20, ["wide"], axis=1),
        make.make_node("AveragePool", ["wide"], ["image_embeddings"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    image = make.make_tensor_value_info("image", floats, ["images", 3, 1024, 1024])
    embedding = make.make_tensor_value_info("image_embeddings", floats, ["images", 60, 256, 256])
    made = make.make_graph(nodes, "g", [image], [embedding])
    path = tmp_path / "encoder.onnx"
    onnx.save(make.make_model(made, opset_imports=[make.make_opsetid("", 20)], ir_version=10), str(path))
    return path


HELD = 125 << 20
"""Half of it: other memory comes and goes meanwhile."""


def test_work_memory_stays_for_the_next_image_and_goes_when_none_comes(graph: Path) -> None:
    encoder = OnnxEncoder(graph, 1, idle_s=3600)
    first = encoder.encode_all([PICTURE])[0]
    common_arena().give_back()
    without = resident_bytes()
    encoder.encode_all([PICTURE])
    assert resident_bytes() - without > HELD
    encoder._idle_s = 0.2
    again = encoder.encode_all([PICTURE])[0]
    until(lambda: resident_bytes() - without < HELD)
    assert (again["image_embeddings"] == first["image_embeddings"]).all()
    encoder._idle_s = 0.0
    encoder.encode_all([PICTURE])
    assert resident_bytes() - without < HELD


def test_embeddings_that_are_kept_keep_no_work_memory(graph: Path) -> None:
    """An engine hands its results on where they were computed: amid hundreds of megabytes that are in use as long."""
    encoder = OnnxEncoder(graph, 1, together=2, idle_s=0)
    gc.collect()
    give_back_free_memory()
    without = resident_bytes()
    kept = [encoder.encode_all([PICTURE])[0], *encoder.encode_all([PICTURE, PICTURE])]
    give_back_free_memory()  # also the C library's: after other tests it keeps what an encode's pictures took
    assert resident_bytes() - without < HELD
    for embedding in kept:
        [tensor] = embedding.values()
        assert tensor.shape == (1, 60, 256, 256)
        assert tensor.base is None, "no part of something larger"


def test_a_model_that_goes_gives_its_memory_back(graph: Path) -> None:
    encoder = OnnxEncoder(graph, 1, idle_s=3600)
    encoder.encode_all([PICTURE])
    held = resident_bytes()
    del encoder
    gc.collect()
    give_back_free_memory()
    assert resident_bytes() < held - HELD


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    noted: list[float] = []
    monkeypatch.setattr(common_arena(), "give_back", lambda: noted.append(time.monotonic()))
    return noted


def test_it_is_not_given_back_while_another_image_is_computed_in_it(given_back: list[float]) -> None:
    arena, runs, goes = common_arena(), threading.Event(), threading.Event()

    def other() -> None:
        with arena.in_use(0.01):
            runs.set()
            goes.wait(LONG_S)

    running = threading.Thread(target=other)
    running.start()
    assert runs.wait(LONG_S)
    with arena.in_use(0.01):
        pass
    assert arena._timer.finished.is_set()
    goes.set()
    running.join(LONG_S)
    until(lambda: len(given_back) == 1)
    with arena.in_use(3600):
        pass
    assert not arena._timer.finished.is_set()
    with arena.in_use(0.01):
        assert arena._timer.finished.is_set()
    until(lambda: len(given_back) == 2)


def test_after_a_slow_image_or_where_it_is_told_so_it_is_given_back_at_once(
    given_back: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    arena = common_arena()
    with arena.in_use(0.0):
        pass
    assert len(given_back) == 1
    now = iter([0.0, SLOW_S + 0.1])
    clock: Any = type("Clock", (), {"monotonic": lambda: next(now)})
    monkeypatch.setattr(onnx_arena, "time", clock)
    with arena.in_use(3600):
        pass
    assert len(given_back) == 2


def test_it_is_one_arena_however_many_ask_at_once() -> None:
    found: list[Any] = []
    asking = [threading.Thread(target=lambda: found.append(common_arena())) for _ in range(8)]
    for each in asking:
        each.start()
    for each in asking:
        each.join(LONG_S)
    assert len({id(each) for each in found}) == 1
