"""Segment Anything by ONNX Runtime, and what both engines share."""

import asyncio
import shutil
import threading
import weakref
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.doubles import encoded, on
from tests.inference.engines import (
    CHECKS,
    Check,
    check_against_the_reference,
    files,
    image,
    ready_made,
    reference_embedding,
)
from tests.needs import needs
from tests.sam.parity import MASK

from labeling_ground.errors import BackendFailed, BadPrompt, BadSettings
from labeling_ground.inference.auto import Model, choose
from labeling_ground.inference.dialects import decoder_inputs
from labeling_ground.inference.graphs import agree, encoder_input, version_of
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.family import Family
from labeling_ground.sam.prompts import PromptTensors, tensors
from labeling_ground.types import Embedding, Image, ModelVersion, Point, Prompt

pytestmark = pytest.mark.anyio

CLICK = Prompt((Point(1, 1, 1),))


@pytest.fixture
async def backend() -> AsyncIterator[SamBackend]:
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    made = create(1, 2, **files())
    yield made
    await made.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
async def test_onnx(backend: SamBackend, check: Check) -> None:
    await check(backend)
    assert backend.info.note == ""


@pytest.mark.slow
async def test_ready_made_files_are_served_too() -> None:
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    made = create(1, 2, **ready_made())
    await check_against_the_reference(made)
    assert await made.decode(on(reference_embedding(), [Prompt((), None, MASK)]))
    await made.aclose()


async def test_an_embedding_of_another_model_is_refused(backend: SamBackend) -> None:
    with pytest.raises(BackendFailed, match="image_embeddings"):
        await backend.decode(on(Embedding({"scene": np.zeros(3)}, 10, 10), [CLICK]))
    with pytest.raises(BackendFailed, match="decode"):
        await backend.decode([(Embedding({"image_embeddings": np.zeros((1, 9), np.float32)}, 10, 10), CLICK)])


async def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    onnx = needs("onnx")
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    given = files()
    model = onnx.load(str(given["decoder_path"]))
    onnx.helper.set_model_props(model, {"family": "sam", "source_sha256": "of another checkpoint"})
    other = tmp_path / "decoder.onnx"
    onnx.save(model, str(other))
    with pytest.raises(BadSettings, match="do not belong together"):
        create(1, 1, **{**given, "decoder_path": other})


async def test_a_damaged_file_is_refused_in_words(tmp_path: Path) -> None:
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    damaged = tmp_path / "encoder.onnx"
    damaged.write_bytes(b"no model")
    with pytest.raises(BadSettings, match=r"encoder\.onnx cannot be loaded"):
        create(1, 1, **{**files(), "encoder_path": damaged})
    with pytest.raises(BadSettings, match="cannot be read"):
        create(1, 1, **{**files(), "encoder_path": tmp_path / "absent.onnx"})


async def test_the_fast_decoder_is_used_for_few_points_only(
    backend: SamBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    class Session:
        def __init__(self, name: str, session: Any) -> None:
            self.name, self.session = name, session

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

        def run(self, *arguments: Any) -> Any:
            used.append(self.name)
            return self.session.run(*arguments)

    engine: Any = backend.engine
    decoder = engine._decoder
    for name in ("_plain", "_fast"):
        wrapped = {width: Session(name, session) for width, session in getattr(decoder, name).items()}
        monkeypatch.setattr(decoder, name, wrapped)
    embedding = Embedding({"image_embeddings": np.zeros((1, 256, 64, 64), np.float32)}, 50, 50)
    await backend.decode(on(embedding, [CLICK]))
    await backend.decode(on(embedding, [Prompt(tuple(Point(i, i, 1) for i in range(40)))]))
    assert used == ["_fast", "_plain"]


# -- what needs no engine --------------------------------------------------------------------------------------------


class FakeEngine:
    """Answers at once, unless it is told to wait."""

    family = Family.SAM

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.alone: list[bool] = []

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        assert self.go.wait(120)
        return {"image_embeddings": np.zeros((1, 256, 64, 64), np.float32)}

    def decode(
        self, embedding: Mapping[str, NDArray[np.float32]], prompt: PromptTensors, *, alone: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert embedding["image_embeddings"].dtype == np.float32
        self.alone.append(alone)
        if prompt.tokens == 5:
            raise RuntimeError("out of memory\nwith a long trace")
        return np.ones((4, 256, 256), np.float32), np.full(4, 0.5, np.float32)


def fake() -> tuple[FakeEngine, SamBackend]:
    engine = FakeEngine()
    return engine, SamBackend(engine, ModelVersion("m", "ab" * 32), "", decode_threads=2)


HALF = Embedding({"image_embeddings": np.zeros((1, 256, 64, 64), np.float16)}, 30, 40)


async def test_a_decode_never_waits_behind_encodes() -> None:
    engine, backend = fake()
    engine.go.clear()
    encodes = [
        asyncio.ensure_future(backend.encode([Image("0" * 64, np.zeros((4, 4, 3), np.uint8))])) for _ in range(5)
    ]
    async with asyncio.timeout(60):
        [made] = await backend.decode(on(HALF, [CLICK]))
    assert made.masks[0].pixels.shape == (30, 40)
    assert not any(task.done() for task in encodes)
    engine.go.set()
    await asyncio.gather(*encodes)
    await backend.aclose()


async def test_a_lone_decode_may_take_all_threads_and_many_may_not() -> None:
    engine, backend = fake()
    await backend.decode(on(HALF, [CLICK]))
    await backend.decode(on(HALF, [CLICK, CLICK]))
    assert engine.alone == [True, False, False]
    await backend.aclose()


async def test_what_an_engine_raises_is_one_sentence() -> None:
    engine, backend = fake()
    with pytest.raises(BackendFailed, match=r"could not decode: out of memory$"):
        await backend.decode(on(HALF, [Prompt(tuple(Point(i, i, 1) for i in range(4)))]))
    with pytest.raises(BadPrompt):
        await backend.decode(on(HALF, [Prompt()]))
    await backend.decode(on(HALF, [CLICK]))
    assert engine.alone[-1], "a failed decode is no longer counted as under way"
    await backend.aclose()


def test_the_version_is_the_bytes_the_preprocessing_and_the_precision(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"weights")
    shutil.copy(a, b)
    assert version_of("m", [a], "fp32") == version_of("m", [b], "fp32")
    assert version_of("m", [a], "fp32") != version_of("m", [a], "bf16")
    b.write_bytes(b"weightz")
    assert version_of("m", [a], "fp32") != version_of("m", [b], "fp32")


def test_files_must_agree_and_others_files_are_taken_for_sam() -> None:
    assert agree({"encoder": {}, "decoder": {}}) is Family.SAM
    assert agree({"encoder": {"family": "sam2"}, "decoder": {"family": "sam2"}}) is Family.SAM2
    with pytest.raises(BadSettings, match="family"):
        agree({"encoder": {"family": "sam2"}, "decoder": {"family": "sam"}})
    with pytest.raises(BadSettings, match="does not know"):
        agree({"encoder": {"family": "sam9"}, "decoder": {"family": "sam9"}})
    with pytest.raises(BadSettings, match="version 0 of the preprocessing"):
        agree({"encoder": {"preprocessing_version": "0"}, "decoder": {}})


def test_ready_made_graphs_get_what_they_ask_for() -> None:
    pixels = np.zeros((30, 60, 3), np.uint8)
    assert encoder_input(pixels, Family.SAM, 4).shape == (1, 3, 1024, 1024)
    assert encoder_input(pixels, Family.SAM, 3).shape == (512, 1024, 3)
    read = tensors(Prompt((), None, np.zeros((256, 256), np.float32)), Family.SAM.frame(9, 9), Family.SAM)
    own = decoder_inputs({"image_embeddings": np.zeros(1, np.float32)}, read, ["point_coords", "image_embeddings"])
    assert sorted(own) == ["image_embeddings", "point_coords"]
    assert own["point_coords"].shape == (1, 0, 2)
    official = decoder_inputs({}, read, ["point_coords", "point_labels", "orig_im_size"])
    assert official["point_labels"].tolist() == [[-1.0]]
    assert official["orig_im_size"].shape == (2,)


# -- the choice ------------------------------------------------------------------------------------------------------


TRIED: list["weakref.ref[SamBackend]"] = []


def slow(encode_threads: int, decode_threads: int, **given: Any) -> SamBackend:
    class Slow(FakeEngine):
        def decode(self, *arguments: Any, **named: Any) -> Any:
            threading.Event().wait(0.05)
            return super().decode(*arguments, **named)

    made = SamBackend(Slow(), ModelVersion("m", "ab" * 32), "", decode_threads=1)
    TRIED.append(weakref.ref(made))
    return made


def quick(encode_threads: int, decode_threads: int, **given: Any) -> SamBackend:
    note = f"Computes in {given['precision']}." if "precision" in given else ""
    return SamBackend(FakeEngine(), ModelVersion("m", "ab" * 32), note, decode_threads=1)


def picky(encode_threads: int, decode_threads: int, *, gpu_bytes: int, **given: Any) -> SamBackend:
    if gpu_bytes != 7:
        raise BadSettings("too much")
    return slow(encode_threads, decode_threads, **given)


HERE = __name__


def model(engines: dict[str, str], **more: Any) -> Model:
    return Model("m", Path("e"), Path("d"), engines=engines, **more)


def test_the_fastest_engine_is_chosen_and_the_reason_given() -> None:
    engines = {"slow": f"{HERE}:slow", "quick": f"{HERE}:quick", "absent": "no.such.module:create"}
    choice = choose(model(engines))
    assert (choice.engine, choice.precision) == ("quick", "fp32")
    took = {verdict.engine: verdict.total_s for verdict in choice.verdicts}
    assert took["quick"] < took["slow"]
    assert choice.why.startswith("quick in fp32: an image took")
    assert "slow took" in choice.why
    assert "absent" in choice.why


@pytest.mark.parametrize("names", [("slow", "quick"), ("quick", "slow")])
def test_what_lost_is_let_go(names: tuple[str, ...]) -> None:
    TRIED.clear()
    choice = choose(model({name: f"{HERE}:{name}" for name in names}))
    assert choice.engine == "quick"
    assert [tried() for tried in TRIED] == [None]


def test_where_a_gpu_works_the_processor_is_not_tried_and_each_engine_is_told_its_own_options() -> None:
    engines = {"onnx-cuda": f"{HERE}:picky", "quick": f"{HERE}:quick"}
    choice = choose(model(engines, options={"onnx-cuda": {"gpu_bytes": 7}}))
    assert choice.engine == "onnx-cuda"
    assert "not tried, quick: an engine on the GPU works" in choice.why
    choice = choose(model(engines, options={"onnx-cuda": {"gpu_bytes": 8}}))
    assert choice.engine == "quick"
    assert "onnx-cuda: too much" in choice.why


def test_without_any_engine_the_reasons_are_given() -> None:
    with pytest.raises(BadSettings, match="absent"):
        choose(model({"absent": "no.such.module:create"}))
    with pytest.raises(BadSettings, match="onnx: has no bf16"):
        choose(model({"onnx": "no.such.module:create"}), "bf16")


def test_a_lower_precision_of_one_half_has_its_error_measured() -> None:
    half = Model("m", Path("e"), None, engines={"quick": f"{HERE}:quick"})
    choice = choose(half, "bf16")
    assert choice.backend.info.note == "Computes in bf16. Measured at start: embeddings differ by 0.0% rms."


@pytest.mark.slow
async def test_real_engines_can_be_chosen() -> None:
    needs("onnxruntime")
    given = files()
    choice = choose(Model(given.pop("model"), **given, decode_threads=2))
    assert choice.engine in ("onnx", "openvino")
    embedding = await encoded(choice.backend, image())
    assert await choice.backend.decode(on(embedding, [CLICK]))
    await choice.backend.aclose()
