"""SAM 3, tiny and of random weights, behind a real engine server: what it finds is what it finds in this process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles import on, until
from tests.inference.remote_values import prompt
from tests.inference.sam3_backends import sam3_of_discs
from tests.inference.toy_engine import OTHER, VERSION, ToyEngine, backend_of, endpoint, pool, remote, served
from tests.needs import needs

from labeling_ground.codec.records import open_embedding, seal_embedding
from labeling_ground.codec.tensors import pack, unpack
from labeling_ground.errors import BackendFailed, BadInput, BadPrompt
from labeling_ground.inference.remote import concept_wire, envelope, wire
from labeling_ground.inference.remote.concept_wire import OfTrunk, Text, Wanted
from labeling_ground.inference.remote.handler import InferenceHandler
from labeling_ground.inference.remote.wire import EngineRole
from labeling_ground.sam.family import Family
from labeling_ground.testing.backend_contract import click
from labeling_ground.types import Box, Detections, Embedding, Exemplar, Image

pytestmark = pytest.mark.anyio

KEY = "c" * 64
SIDE = Family.SAM3.side


@pytest.fixture
def here() -> Any:
    """The model in this process."""
    needs("torch")
    needs("transformers")
    return sam3_of_discs()


def image() -> Image:
    """Of the model's own size: a tiny model would otherwise be given other pixels by way of the large square."""
    return Image("0" * 64, np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8))


def stored(embedding: Embedding) -> Embedding:
    return open_embedding(seal_embedding("k", embedding, cost=1.0, created=0.0, precision="fp16"), "k")


def forget(kept: Path) -> None:
    for file in kept.iterdir():
        file.unlink()


def same(one: Detections, other: Detections) -> None:
    assert [each.score for each in one.instances] == [each.score for each in other.instances]
    assert [each.box for each in one.instances] == [each.box for each in other.instances]
    for first, second in zip(one.instances, other.instances, strict=True):
        assert np.array_equal(first.draw(), second.draw())


async def test_trunk_phrase_exemplars_instances_and_clicks_are_those_of_this_process(here: Any, tmp_path: Path) -> None:
    with remote(here.engine, tmp_path) as there:
        assert there.info.capabilities == here.info.capabilities
        [trunk], [expected] = await there.trunk([image()]), await here.trunk([image()])  # type: ignore[attr-defined]
        assert np.array_equal(trunk.tensors["trunk"], expected.tensors["trunk"])
        trunk = stored(trunk)
        boxes = (Exemplar(Box(10.25, 20.5, 300, 400)), Exemplar(Box(500, 500, 600, 700), positive=False))
        made = []
        for backend in (there, here):
            concepts: Any = backend
            [text], [shown] = await concepts.texts(["screw"]), await concepts.exemplars([(trunk, boxes)])
            asks = [(trunk, text, None), (trunk, None, shown), (trunk, text, shown)]
            [embedding] = await concepts.embed([trunk])
            masks = (await concepts.decode(on(stored(embedding), [click(60, 45)])))[0].masks
            made.append((text, shown, await concepts.detect(asks), masks))
        (text, shown, found, masks), (text_here, shown_here, found_here, masks_here) = made
        assert np.array_equal(text["text"], text_here["text"])
        assert np.array_equal(shown["exemplars"], shown_here["exemplars"])
        assert any(one.instances for one in found)
        for one, other in zip(found, found_here, strict=True):
            same(one, other)
        for mask, wanted in zip(masks, masks_here, strict=True):
            assert np.array_equal(mask.logits, wanted.logits)
        await there.aclose()


async def test_a_trunk_travels_once_and_again_where_it_was_dropped(here: Any, tmp_path: Path) -> None:
    with remote(here.engine, tmp_path) as backend:
        there: Any = backend
        [trunk], texts = await there.trunk([image()]), await there.texts(["screw", "ew"])
        trunk = stored(trunk)
        [first] = await there.detect([(trunk, texts[0], None)])
        await there.detect([(trunk, texts[1], None)])
        await there.embed([trunk])
        assert backend.engines()[1].embeddings_sent == 1
        forget(tmp_path)
        [again] = await there.detect([(trunk, texts[0], None)])
        same(first, again)
        assert backend.engines()[1].embeddings_sent == 2
        await backend.aclose()


async def test_what_is_wrong_with_the_ask_is_said_and_what_is_wrong_with_the_engine_is_its_own(
    here: Any, tmp_path: Path
) -> None:
    with remote(here.engine, tmp_path) as backend:
        there: Any = backend
        [text] = await there.texts(["screw"])
        with pytest.raises(BadPrompt, match="SAM 3 reads at most 30: shorten it"):
            await there.texts(["nut " * 100])
        for tensors in ({"nothing": np.zeros(1, np.float32)}, {"trunk": np.zeros((1, 5, 5), np.float32)}):
            with pytest.raises(BackendFailed, match=r"not one of this model|must be float"):
                await there.detect([(Embedding(tensors, 10, 10), text, None)])
        assert not backend.failing()
        await backend.aclose()


@pytest.mark.parametrize(
    "given",
    [
        {"trunk": np.zeros((1, 3, 3), np.float32), "text": np.zeros((2, 32), np.float32)},
        {"text": np.zeros((2, 31), np.float32)},
        {"text": np.zeros((0, 32), np.float32)},
        {"text": np.zeros((60_000, 32), np.float32)},
        {"exemplars": np.zeros((60_000, 32), np.float32)},
        {"image_embeddings": (1, 32, 7, 8)},
        {"high_res_features_0": (1, 3, 32, 32)},
    ],
    ids=["trunk", "width", "no rows", "rows", "rows of exemplars", "embedding", "fine level"],
)
def test_tensors_that_the_model_never_made_are_the_askers_fault(here: Any, tmp_path: Path, given: Any) -> None:
    """However well-formed; and an engine does not begin with what it would take all memory for."""
    decoder = endpoint(EngineRole.DECODER, here.engine, tmp_path).handler
    trunk = here.engine.trunk(image().pixels)
    if name := next((name for name in given if name in Family.SAM3.embedding_shapes), None):
        made = here.engine.embed(Embedding({"trunk": trunk}, SIDE, SIDE))
        wrong = made | {name: np.zeros(given[name], np.float32)}
        answers = [
            decoder.answer(wire.write_ask(wire.Decode(VERSION, key, prompt(), tensors)))
            for key, tensors in (("a" * 64, wrong), ("b" * 64, made))
        ]
    else:
        ask = OfTrunk(VERSION, KEY, Wanted.DETECT, SIDE, SIDE, embedding={"trunk": trunk})
        good = replace(ask, text=here.engine.text("screw"), key="b" * 64)
        wrong = {"embedding": {"trunk": given.pop("trunk", trunk)}}
        wrong |= {{"exemplars": "shown"}.get(name, name): tensor for name, tensor in given.items()}
        answers = [decoder.answer(concept_wire.write_ask(each)) for each in (replace(ask, **wrong), good)]
    assert [answer.status for answer in answers] == [400, 200], answers[0].body


async def test_engines_that_come_to_find_no_concepts_are_named(here: Any, tmp_path: Path) -> None:
    halves = [endpoint(role, here.engine, tmp_path) for role in (EngineRole.ENCODER, EngineRole.DECODER)]
    with served(*halves) as both:
        backend = backend_of(*(pool(role, both.url) for role in (EngineRole.ENCODER, EngineRole.DECODER)), poll_s=0.05)
        await backend.texts(["screw"])  # type: ignore[attr-defined]
        for half in halves:
            plain = wire.Description(OTHER, Family.SAM2, "fp32", half.handler.description.role)
            half.handler = InferenceHandler(ToyEngine(Family.SAM2), plain, None)
        await until(lambda: "model" in backend.failing())
        assert "which finds no concepts" in backend.failing()["model"]
        assert "restart this server" in backend.failing()["model"]
        assert backend.info.version == VERSION
        await backend.aclose()


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_an_older_side_refuses_what_it_would_misread_and_names_both_protocols(tmp_path: Path) -> None:
    said = [wire.description_words(wire.Description(VERSION, family, "fp32", EngineRole.DECODER)) for family in Family]
    assert {words["family"] for words in said if words["protocol"] != "1"} == {Family.SAM3}
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    trunk = OfTrunk(VERSION, KEY, Wanted.EMBED, 9, 9)
    new = (wire.Encode(VERSION, pixels, is_trunk=True), Text(VERSION, "screw"), trunk)
    plain = endpoint(EngineRole.DECODER, ToyEngine(), tmp_path).handler
    for ask in new:
        body = concept_wire.write_ask(ask)
        assert unpack(body)[1]["protocol"] == "2"
        reply = plain.answer(body)
        assert reply.status == 400
        assert "protocol '2'; this engine speaks 1. Run the same release" in wire.read_problem(reply.body)["detail"]
    for old in (wire.Encode(VERSION, pixels), wire.Describe()):
        assert unpack(concept_wire.write_ask(old))[1]["protocol"] == "1"


def ask(**changed: Any) -> bytes:
    """An ask for instances, with these tensors or words changed; ``None`` takes one out."""
    tensors: dict[str, Any] = {"text": np.ones((3, 4), np.float32)}
    words: dict[str, Any] = {
        "ask": "detect",
        "protocol": "2",
        "model_version": wire.version_text(VERSION),
        "embedding": KEY,
        "height": "9",
        "width": "7",
    }
    for name, value in changed.items():
        (tensors if isinstance(value, np.ndarray) or name in tensors else words)[name] = value
    return pack({n: x for n, x in tensors.items() if x is not None}, {n: x for n, x in words.items() if x is not None})


def test_an_ask_of_a_trunk_comes_as_it_was_sent() -> None:
    boxes = (Exemplar(Box(1.5, 2, 3, 4)), Exemplar(Box(0, 0, 7, 9), positive=False))
    sent = OfTrunk(VERSION, KEY, Wanted.EXEMPLARS, 9, 7, boxes, embedding={"trunk": np.ones((1, 4, 5), np.float16)})
    read = concept_wire.read_ask(concept_wire.write_ask(sent), Family.SAM3)
    assert isinstance(read, OfTrunk)
    assert (read.wanted, read.height, read.width, read.exemplars, read.key) == (Wanted.EXEMPLARS, 9, 7, boxes, KEY)
    assert read.embedding is not None
    assert np.array_equal(read.embedding["trunk"], sent.embedding["trunk"])  # type: ignore[index]
    assert concept_wire.read_ask(concept_wire.write_ask(Text(VERSION, "café")), Family.SAM3) == Text(VERSION, "café")
    assert envelope.read_head(ask()).ask in concept_wire.ASKS


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"text": None}, "neither a phrase nor an exemplar"),
        ({"text": np.full((3, 4), np.nan, np.float32)}, "no finite numbers"),
        ({"text": np.ones(3, np.float32)}, r"text must be float32 \[any, any\]"),
        ({"embedding": "../secret"}, "no embedding's key"),
        ({"height": "0"}, "The image's height is '0'"),
        ({"width": "٣"}, "The image's width"),
        ({"trunk": np.ones((1, 6000, 1024), np.float16)}, r"trunk must be float16 or float32 \[1, 5184, 1024\]"),
        ({"trunk": np.ones((1, 0, 4), np.float16)}, "trunk must be"),
        ({"boxes": np.ones((1, 4))}, "do not belong here: boxes"),
        ({"ask": "exemplars", "text": None}, "There is no tensor boxes"),
        ({"ask": "text", "text": None}, "A phrase has 1 to"),
        ({"protocol": "3"}, "protocol '3'; this engine speaks 2"),
        ({"model_version": "x"}, "no model version"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "+".join(value),
)
def test_an_ask_that_cannot_be_read_says_why(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        concept_wire.read_ask(ask(**changed), Family.SAM3)


@pytest.mark.parametrize(
    ("boxes", "positive"),
    [
        (np.ones((1, 3)), np.ones(1, np.uint8)),
        (np.full((1, 4), np.inf), np.ones(1, np.uint8)),
        (np.ones((2, 4)), np.ones(1, np.uint8)),
        (np.ones((0, 4)), np.ones(0, np.uint8)),
        (np.ones((1001, 4)), np.ones(1001, np.uint8)),
        (np.array(1.0), np.ones(1, np.uint8)),
    ],
    ids=["three sides", "infinite", "another number of signs", "none", "too many", "a number"],
)
def test_exemplars_that_are_none_are_refused(boxes: Any, positive: Any) -> None:
    with pytest.raises(BadInput, match=r"boxes must be float64|Each exemplar has a box"):
        concept_wire.read_ask(ask(ask="exemplars", text=None, boxes=boxes, positive=positive), Family.SAM3)


def test_instances_whose_parts_do_not_go_together_are_refused() -> None:
    whole = {
        "scores": np.ones(2, np.float32),
        "boxes": np.ones((2, 4), np.float32),
        "logits": np.ones((2, 288, 288), np.float32),
    }
    assert len(concept_wire.detected(whole, Family.SAM3).scores) == 2
    for name, other in (("boxes", np.ones((3, 4), np.float32)), ("logits", np.ones((2, 300, 288), np.float32))):
        with pytest.raises(BadInput, match=name):
            concept_wire.detected({**whole, name: other}, Family.SAM3)
