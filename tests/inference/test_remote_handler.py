"""What an engine server answers, whoever runs it."""

from pathlib import Path

import numpy as np
import pytest
from tests.inference.remote_values import KEY, embedding, prompt
from tests.inference.toy_engine import OTHER, VERSION, ToyEngine

from labeling_ground.inference.remote import wire
from labeling_ground.inference.remote.embedding_store import EmbeddingStore
from labeling_ground.inference.remote.handler import InferenceHandler
from labeling_ground.sam.family import Family


@pytest.fixture
def decoder(tmp_path: Path) -> InferenceHandler:
    return handler(wire.EngineRole.DECODER, tmp_path)


def handler(
    role: wire.EngineRole, folder: Path, engine: ToyEngine | None = None, most_bytes: int = 1 << 26
) -> InferenceHandler:
    kept = EmbeddingStore(folder, most_bytes) if role is wire.EngineRole.DECODER else None
    return InferenceHandler(engine or ToyEngine(), wire.Description(VERSION, Family.SAM, "fp32", role), kept)


def decode(**chosen: object) -> bytes:
    return wire.write_ask(wire.Decode(**{"version": VERSION, "key": KEY, "prompt": prompt(), **chosen}))  # type: ignore[arg-type]


def test_an_embedding_is_sent_once_and_asked_for_by_its_key_after_that(decoder: InferenceHandler) -> None:
    missing = decoder.answer(decode())
    assert missing.status == 424
    assert wire.read_problem(missing.body)["missing"] == "embedding"
    sent = wire.read_decoded(decoder.answer(decode(embedding=embedding())).body, VERSION)
    assert sent.kept
    again = wire.read_decoded(decoder.answer(decode()).body, VERSION)
    np.testing.assert_array_equal(sent.logits, again.logits)
    assert decoder.answer(decode(key="e" * 64)).status == 424


def test_a_decoder_that_cannot_keep_says_so(tmp_path: Path) -> None:
    forgetful = handler(wire.EngineRole.DECODER, tmp_path, most_bytes=1000)
    assert not wire.read_decoded(forgetful.answer(decode(embedding=embedding())).body, VERSION).kept
    assert forgetful.answer(decode()).status == 424


def test_only_the_wanted_candidates_travel(decoder: InferenceHandler) -> None:
    everything = wire.read_decoded(decoder.answer(decode(embedding=embedding())).body, VERSION)
    assert len(everything.scores) == 4
    some = wire.read_decoded(decoder.answer(decode(candidates=(1, 2, 3))).body, VERSION)
    np.testing.assert_array_equal(some.logits, everything.logits[1:])
    best = wire.read_decoded(decoder.answer(decode(candidates=(1, 2, 3), best=True)).body, VERSION)
    assert list(best.scores) == [everything.scores[1:].max()]
    np.testing.assert_array_equal(best.logits[0], everything.logits[1 + int(np.argmax(everything.scores[1:]))])


def test_another_model_is_refused_with_the_one_that_is_served(decoder: InferenceHandler) -> None:
    refused = decoder.answer(decode(version=OTHER, embedding=embedding()))
    assert refused.status == 409
    assert wire.read_version(wire.read_problem(refused.body)) == VERSION


def test_a_half_does_not_do_the_others_work(decoder: InferenceHandler, tmp_path: Path) -> None:
    image = wire.write_ask(wire.Encode(VERSION, np.zeros((1024, 512, 3), np.uint8)))
    assert decoder.answer(image).status == 400
    assert handler(wire.EngineRole.ENCODER, tmp_path).answer(decode()).status == 400
    assert handler(wire.EngineRole.ENCODER, tmp_path).answer(image).status == 200


def test_what_cannot_be_read_is_the_askers_fault(decoder: InferenceHandler) -> None:
    refused = decoder.answer(b"no safetensors")
    assert (refused.status, refused.media_type) == (400, wire.PROBLEM_TYPE)


def test_an_engine_that_fails_or_gives_no_numbers_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ToyEngine()
    broken = handler(wire.EngineRole.DECODER, tmp_path, engine)
    nothing = (np.full((4, 256, 256), np.nan, np.float32), np.ones(4, np.float32))
    monkeypatch.setattr(engine, "decode", lambda *_, **__: nothing)
    assert broken.answer(decode(embedding=embedding())).status == 500

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory\nat line 7")

    monkeypatch.setattr(engine, "decode", fail)
    failed = broken.answer(decode(embedding=embedding()))
    assert failed.status == 500
    assert wire.read_problem(failed.body)["detail"] == "out of memory"
