"""The protocol: round trips, and everything that must not be read."""

from typing import Any

import numpy as np
import pytest
from tests.inference.remote_values import KEY, SHAPE, VERSION, embedding, prompt

from labeling_ground.codec.tensors import pack
from labeling_ground.errors import BadInput
from labeling_ground.inference.remote import envelope, wire
from labeling_ground.sam.family import Family
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.types import Priority


def test_a_description_comes_through() -> None:
    sent = wire.Description(VERSION, Family.SAM2, "bf16", wire.EngineRole.DECODER, "Masks can differ by a pixel.")
    assert wire.read_description(wire.write_description(sent)) == sent
    assert wire.description_from(wire.description_words(sent)) == sent


def test_a_request_says_at_its_head_what_it_is() -> None:
    assert envelope.read_head(wire.write_ask(wire.Describe())).ask == "describe"
    decode = wire.write_ask(wire.Decode(VERSION, KEY, prompt()), Priority.PREFETCH)
    assert envelope.read_head(decode) == envelope.Head("decode", 1, Priority.PREFETCH)
    assert envelope.read_head(envelope.write_several([decode] * 3, Priority.JOB)) == envelope.Head(
        "several", 3, Priority.JOB
    )
    for nonsense in (b"", b"describe", decode[:30], (9).to_bytes(8, "little") + b"[1, 2, 3]", b"\xff" * 40):
        assert envelope.read_head(nonsense) == envelope.Head()


def test_several_asks_come_through_in_one_request_and_so_do_their_answers() -> None:
    bodies = [wire.write_ask(wire.Decode(VERSION, KEY, prompt())), b"", b"no ask"]
    assert envelope.read_several(envelope.write_several(bodies)) == bodies
    replies = [(200, b"yes"), (424, b""), (400, b"no")]
    assert envelope.read_replies(envelope.write_replies(replies), 3) == replies


@pytest.mark.parametrize(
    "body",
    [
        pack({}, {"protocol": "1", "ask": "several"}),
        pack({"1": np.zeros(1, np.uint8)}, {"protocol": "1", "ask": "several"}),
        pack({"0": np.zeros(1, np.float32)}, {"protocol": "1", "ask": "several"}),
        pack({str(n): np.zeros(1, np.uint8) for n in range(65)}, {"protocol": "1", "ask": "several"}),
        b"nonsense",
    ],
    ids=["none", "none first", "floats", "too many", "nonsense"],  # a header's keys are in any order
)
def test_what_are_no_several_asks_is_refused(body: bytes) -> None:
    with pytest.raises(BadInput):
        envelope.read_several(body)


@pytest.mark.parametrize("status", ["200", "200,2", "200,999", "", "200,200,200"])
def test_answers_that_are_not_as_many_as_the_asks_are_refused(status: str) -> None:
    body = pack({"0": np.zeros(1, np.uint8), "1": np.zeros(1, np.uint8)}, {"status": status})
    with pytest.raises(BadInput):
        envelope.read_replies(body, 2)


def test_another_protocol_is_named_on_either_side() -> None:
    ask = wire.write_ask(wire.Decode(VERSION, KEY, prompt()))
    other = ask.replace(b'"protocol":"1"', b'"protocol":"2"')
    with pytest.raises(BadInput, match=r"protocol '2'; this engine speaks 1\. Run the same release"):
        wire.read_ask(other, Family.SAM)
    described = wire.write_ask(wire.Describe()).replace(b'"protocol":"1"', b'"protocol":"2"')
    assert isinstance(wire.read_ask(described, Family.SAM), wire.Describe)
    words = wire.description_words(wire.Description(VERSION, Family.SAM, "fp32", wire.EngineRole.DECODER))
    with pytest.raises(BadInput, match=r"speaks protocol '3'; this server speaks 1 and 2\. Run the same release"):
        wire.description_from(words | {"protocol": "3"})


@pytest.mark.parametrize(("said", "together"), [({}, 1), ({"together": "16"}, 16), ({"together": "5000"}, 64)])
def test_an_engine_of_before_takes_one_ask_in_a_request(said: dict[str, str], together: int) -> None:
    words = wire.description_words(wire.Description(VERSION, Family.SAM, "fp32", wire.EngineRole.DECODER))
    del words["together"]
    assert wire.description_from(words | said).together == together


@pytest.mark.parametrize(
    ("family", "pixels"),
    [
        (Family.SAM, np.arange(1024 * 7 * 3, dtype=np.uint32).astype(np.uint8).reshape(7, 1024, 3)),
        (Family.SAM2, np.full((1024, 1024, 3), 0.25, np.float32)),
    ],
)
def test_an_image_comes_through(family: Family, pixels: Any) -> None:
    read = wire.read_ask(wire.write_ask(wire.Encode(VERSION, pixels)), family)
    assert isinstance(read, wire.Encode)
    assert read.version == VERSION
    np.testing.assert_array_equal(read.pixels, pixels)
    assert read.pixels.dtype == pixels.dtype


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("dtype", [None, np.float16, np.float32])
def test_a_prompt_comes_through(mask: bool, dtype: Any) -> None:
    tensors = None if dtype is None else embedding(dtype)
    sent = wire.Decode(VERSION, KEY, prompt(3, mask=mask), tensors, (1, 2, 3), best=True)
    read = wire.read_ask(wire.write_ask(sent), Family.SAM)
    assert isinstance(read, wire.Decode)
    assert (read.version, read.key, read.candidates, read.best) == (VERSION, KEY, (1, 2, 3), True)
    for name in PromptTensors.__slots__:
        np.testing.assert_array_equal(getattr(read.prompt, name), getattr(sent.prompt, name))
    if tensors is None:
        assert read.embedding is None
    else:
        assert read.embedding is not None
        np.testing.assert_array_equal(read.embedding["image_embeddings"], tensors["image_embeddings"])


def test_a_click_on_a_known_embedding_is_small() -> None:
    assert len(wire.write_ask(wire.Decode(VERSION, KEY, prompt(), None, (1, 2, 3)))) < 1024


def test_answers_come_through() -> None:
    encoded = wire.read_encoded(
        wire.write_encoded(VERSION, wire.Encoded(embedding(np.float32), 1.25)), VERSION, Family.SAM
    )
    assert encoded.seconds == 1.25
    np.testing.assert_array_equal(encoded.tensors["image_embeddings"], embedding(np.float32)["image_embeddings"])
    logits = np.random.default_rng(2).normal(size=(3, 256, 256)).astype(np.float32)
    decoded = wire.read_decoded(
        wire.write_decoded(VERSION, wire.Decoded(logits, np.ones(3, np.float32), 0.5, True)), VERSION
    )
    np.testing.assert_array_equal(decoded.logits, logits)
    assert (decoded.seconds, decoded.kept, list(decoded.scores)) == (0.5, True, [1.0, 1.0, 1.0])


ASK = {"protocol": "1", "ask": "decode", "model_version": wire.version_text(VERSION), "embedding": KEY}
GOOD = {"point_coords": np.zeros((1, 1, 2), np.float32), "point_labels": np.ones((1, 1), np.float32)}
HUGE = np.full((1, wire.MOST_TOKENS + 1), 1.0, np.float32)

BAD_ASKS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "no protocol": ({**ASK, "protocol": ""}, GOOD),
    "another protocol": ({**ASK, "protocol": "2"}, GOOD),
    "no such ask": ({**ASK, "ask": "delete"}, GOOD),
    "no version": ({**ASK, "model_version": ""}, GOOD),
    "a short version": ({**ASK, "model_version": "sam@12"}, GOOD),
    "no key": ({**ASK, "embedding": ""}, GOOD),
    "a path for a key": ({**ASK, "embedding": "../" * 20}, GOOD),
    "no labels": (ASK, {"point_coords": GOOD["point_coords"]}),
    "labels of another length": (ASK, {**GOOD, "point_labels": np.ones((1, 2), np.float32)}),
    "coordinates as doubles": (ASK, {**GOOD, "point_coords": np.zeros((1, 1, 2))}),
    "coordinates in three dimensions": (ASK, {**GOOD, "point_coords": np.zeros((1, 1, 3), np.float32)}),
    "a coordinate that is no number": (ASK, {**GOOD, "point_coords": np.full((1, 1, 2), np.nan, np.float32)}),
    "a label that means nothing": (ASK, {**GOOD, "point_labels": np.full((1, 1), 4.0, np.float32)}),
    "far too many points": (
        ASK,
        {"point_labels": HUGE, "point_coords": np.zeros((1, HUGE.shape[1], 2), np.float32)},
    ),
    "nothing at all": (
        ASK,
        {"point_coords": np.zeros((1, 0, 2), np.float32), "point_labels": np.zeros((1, 0), np.float32)},
    ),
    "a mask of another size": (ASK, {**GOOD, "mask_input": np.zeros((1, 1, 64, 64), np.float32)}),
    "a tensor that does not belong": (ASK, {**GOOD, "weights": np.zeros(1, np.float32)}),
    "an embedding of another shape": (ASK, {**GOOD, "image_embeddings": np.zeros((1, 256, 64, 63), np.float16)}),
    "an embedding of whole numbers": (ASK, {**GOOD, "image_embeddings": np.zeros(SHAPE, np.int16)}),
    "an embedding that overflowed": (ASK, {**GOOD, "image_embeddings": np.full(SHAPE, np.inf, np.float16)}),
    "an embedding of SAM 2": (
        ASK,
        {**GOOD, **embedding(), "high_res_features_0": np.zeros((1, 32, 256, 256), np.float16)},
    ),
    "a fifth candidate": ({**ASK, "candidates": "4"}, GOOD),
    "candidates that are no numbers": ({**ASK, "candidates": "1,x"}, GOOD),
    "an image that was not resized": ({**ASK, "ask": "encode"}, {"pixels": np.zeros((9, 9, 3), np.uint8)}),
    "an image without rows": ({**ASK, "ask": "encode"}, {"pixels": np.zeros((0, 1024, 3), np.uint8)}),
    "an image of floats": ({**ASK, "ask": "encode"}, {"pixels": np.zeros((1024, 9, 3), np.float32)}),
}


@pytest.mark.parametrize("what", BAD_ASKS)
def test_an_ask_that_makes_no_sense_is_refused(what: str) -> None:
    words, tensors = BAD_ASKS[what]
    with pytest.raises(BadInput):
        wire.read_ask(pack(tensors, words), Family.SAM)


@pytest.mark.parametrize("cut", [0, 7, 8, 200, -1])
def test_a_body_that_was_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(BadInput):
        wire.read_ask(wire.write_ask(wire.Decode(VERSION, KEY, prompt(), embedding()))[:cut], Family.SAM)


DECODED = {"model_version": wire.version_text(VERSION), "seconds": "0.1", "kept": "true"}
MASKS = {"logits": np.zeros((1, 256, 256), np.float32), "scores": np.ones(1, np.float32)}
BAD_ANSWERS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "of another model": ({**DECODED, "model_version": "sam-vit-h@" + "0" * 64}, MASKS),
    "of no model": ({**DECODED, "model_version": ""}, MASKS),
    "that took no time": ({**DECODED, "seconds": "nan"}, MASKS),
    "without scores": (DECODED, {"logits": MASKS["logits"]}),
    "with too few scores": (DECODED, {"logits": np.zeros((2, 256, 256), np.float32), "scores": MASKS["scores"]}),
    "with too many masks": (
        DECODED,
        {"logits": np.zeros((5, 256, 256), np.float32), "scores": np.ones(5, np.float32)},
    ),
    "with no mask": (DECODED, {"logits": np.zeros((0, 256, 256), np.float32), "scores": np.ones(0, np.float32)}),
    "in another size": (DECODED, {**MASKS, "logits": np.zeros((1, 255, 256), np.float32)}),
    "in half precision": (DECODED, {**MASKS, "logits": np.zeros((1, 256, 256), np.float16)}),
    "of what is no number": (DECODED, {**MASKS, "scores": np.full(1, np.nan, np.float32)}),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_an_answer_that_makes_no_sense_is_refused(what: str) -> None:
    words, tensors = BAD_ANSWERS[what]
    with pytest.raises(BadInput):
        wire.read_decoded(pack(tensors, words), VERSION)


@pytest.mark.parametrize("family", ["sam", "sam9"])
def test_a_description_of_what_is_not_known_is_refused(family: str) -> None:
    words = {**wire.description_words(wire.Description(VERSION, Family.SAM, "fp32", wire.EngineRole.ENCODER))}
    words |= {"family": family, "role": "both"}
    with pytest.raises(BadInput):
        wire.description_from(words)


def test_problems_are_read_leniently() -> None:
    ours = wire.write_problem(409, "Another model", "It serves b.", model_version="sam@" + "0" * 64)
    assert wire.read_problem(ours)["model_version"] == "sam@" + "0" * 64
    theirs = b'{"code": 503, "type": "ServiceUnavailableException", "message": "No worker"}'
    assert wire.read_problem(theirs)["detail"] == "No worker"
    for nonsense in (b"", b"[1]", b"<html>", b"[" * 100_000):
        assert wire.read_problem(nonsense) == {}
