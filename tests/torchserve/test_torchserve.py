"""The real TorchServe over real archives: what it answers, and that it is what the engine in this process answers."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.inference.engines import HEIGHT, PROMPTS, WIDTH
from tests.needs import needs
from tests.torchserve.conftest import BATCH, BATCHED, DECODER, ENCODER, MODEL, Archives
from tests.torchserve.server import Answer, TorchServe

from labeling_ground.inference.graphs import FloatArray
from labeling_ground.inference.remote import wire
from labeling_ground.sam.family import Family
from labeling_ground.sam.prompts import PromptTensors, tensors
from labeling_ground.types import ModelVersion

KEYS = [f"{number:064x}" for number in range(4)]
"""Of embeddings; each test has its own."""


def prompt(number: int) -> PromptTensors:
    return tensors(PROMPTS[number], Family.SAM.frame(HEIGHT, WIDTH), Family.SAM)


def problem(answer: Answer) -> dict[str, Any]:
    assert answer.headers["content-type"] == wire.PROBLEM_TYPE
    found: dict[str, Any] = json.loads(answer.body)
    assert found["status"] == answer.status
    assert found["detail"].endswith(".")
    return found


def check_same(answer: Answer, version: ModelVersion, expected: tuple[FloatArray, FloatArray]) -> None:
    """To the bit: the same files, the same library, the same machine."""
    assert answer.status == 200, answer.body
    made = wire.read_decoded(answer.body, version)
    np.testing.assert_array_equal(made.logits, expected[0])
    np.testing.assert_array_equal(made.scores, expected[1])
    assert made.seconds > 0


@pytest.mark.parametrize(("name", "role"), [(ENCODER, wire.EngineRole.ENCODER), (DECODER, wire.EngineRole.DECODER)])
def test_both_halves_say_that_they_are_one_model(
    server: TorchServe, archives: Archives, name: str, role: wire.EngineRole
) -> None:
    answer = server.ask(name, wire.write_ask(wire.Describe()))
    assert (answer.status, answer.headers["content-type"]) == (200, wire.MEDIA_TYPE)
    found = wire.read_description(answer.body)
    assert found.version == archives.version
    assert (found.family, found.precision, found.role) == (Family.SAM, "fp32", role)
    assert "random" in found.note


def test_an_embedding_is_that_of_the_engine_in_this_process(
    server: TorchServe, archives: Archives, pixels: NDArray[np.uint8], embedding: Mapping[str, FloatArray]
) -> None:
    answer = server.ask(ENCODER, wire.write_ask(wire.Encode(archives.version, pixels)))
    assert answer.status == 200, answer.body
    made = wire.read_encoded(answer.body, archives.version, Family.SAM)
    assert list(made.tensors) == list(embedding)
    for name, tensor in made.tensors.items():
        np.testing.assert_array_equal(tensor, embedding[name])
    assert made.seconds > 0


def test_an_embedding_is_sent_once_and_then_known_to_all_workers_by_its_key(
    server: TorchServe, archives: Archives, engine: Any, embedding: Mapping[str, FloatArray]
) -> None:
    click = wire.Decode(archives.version, KEYS[0], prompt(0))
    expected = engine.decode(embedding, click.prompt, alone=True)

    unknown = server.ask(DECODER, wire.write_ask(click))
    assert unknown.status == 424
    assert problem(unknown)["missing"] == "embedding"

    sent = server.ask(DECODER, wire.write_ask(wire.Decode(archives.version, KEYS[0], click.prompt, embedding)))
    check_same(sent, archives.version, expected)
    assert wire.read_decoded(sent.body, archives.version).kept

    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            answers = list(pool.map(lambda _: server.ask(DECODER, wire.write_ask(click)), range(8)))
            for answer in answers:
                check_same(answer, archives.version, expected)
            if len(workers_that_answered(server, DECODER)) == 2:
                break
    assert len(workers_that_answered(server, DECODER)) == 2


def workers_that_answered(server: TorchServe, model: str) -> set[str]:
    """Of all 200s, as far as the log is written."""
    log = server.log.read_text(encoding="utf-8", errors="replace")
    return set(re.findall(rf'(W-\d+)-{model}_\w+ ACCESS_LOG - .* "POST /predictions/{model} HTTP/1.1" 200 ', log))


@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_every_kind_of_prompt(
    server: TorchServe, archives: Archives, engine: Any, embedding: Mapping[str, FloatArray], number: int
) -> None:
    ask = wire.Decode(archives.version, KEYS[1], prompt(number), embedding)
    answer = server.ask(DECODER, wire.write_ask(ask))
    check_same(answer, archives.version, engine.decode(embedding, ask.prompt, alone=True))


def test_a_batch_of_four_is_four_answers_each_to_its_own_ask(
    server: TorchServe, archives: Archives, engine: Any, embedding: Mapping[str, FloatArray]
) -> None:
    asks = [wire.Decode(archives.version, KEYS[2], prompt(number), embedding) for number in range(BATCH)]
    answers = at_once(server, [wire.write_ask(ask) for ask in asks])
    for ask, answer in zip(asks, answers, strict=True):
        check_same(answer, archives.version, engine.decode(embedding, ask.prompt, alone=True))


def test_a_bad_ask_in_a_batch_spoils_no_other(
    server: TorchServe, archives: Archives, engine: Any, embedding: Mapping[str, FloatArray]
) -> None:
    good = wire.Decode(archives.version, KEYS[2], prompt(0), embedding)
    stranger = ModelVersion("sam-vit-h", "0" * 64)
    bodies = [
        wire.write_ask(good),
        b"{}",
        wire.write_ask(wire.Decode(stranger, KEYS[2], good.prompt)),
        wire.write_ask(wire.Decode(archives.version, KEYS[3], good.prompt)),
    ]
    right, unreadable, other_model, unknown = at_once(server, bodies)
    check_same(right, archives.version, engine.decode(embedding, good.prompt, alone=True))
    assert [answer.status for answer in (unreadable, other_model, unknown)] == [400, 409, 424]
    assert wire.read_version(wire.read_problem(other_model.body)) == archives.version
    assert problem(unknown)["missing"] == "embedding"


def at_once(server: TorchServe, bodies: list[bytes]) -> list[Answer]:
    """Ask so that one worker is handed all of them together, which the answers prove."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: server.ask(BATCHED, body), bodies))
    assert [answer.headers["x-batch"] for answer in answers] == [str(BATCH)] * len(bodies)
    return answers


@pytest.mark.parametrize("name", [ENCODER, DECODER])
@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", "application/octet-stream"),
        (b"x" * 1000, "application/octet-stream"),
        (b'{"image": "aGVsbG8="}', "application/json"),
        (b'{"image": ', "application/json"),
        ("Grüße".encode("latin-1"), "text/plain; charset=utf-8"),
        (b"body=1&other=2", "application/x-www-form-urlencoded"),
        (b"--b\r\nContent-Disposition: form-data; name=body\r\n\r\n1\r\n--b--\r\n", "multipart/form-data; boundary=b"),
    ],
)
def test_what_is_no_ask_is_told_so(server: TorchServe, name: str, body: bytes, media_type: str) -> None:
    answer = server.ask(name, body, media_type)
    assert answer.status == 400
    problem(answer)


def test_each_half_refuses_the_asks_of_the_other(
    server: TorchServe, archives: Archives, pixels: NDArray[np.uint8], embedding: Mapping[str, FloatArray]
) -> None:
    encode = wire.write_ask(wire.Encode(archives.version, pixels))
    decode = wire.write_ask(wire.Decode(archives.version, KEYS[3], prompt(0), embedding))
    for name, body in ((DECODER, encode), (ENCODER, decode)):
        answer = server.ask(name, body)
        assert answer.status == 400
        assert "engine is" in problem(answer)["detail"]


def test_workers_and_queue_can_be_read(server: TorchServe, archives: Archives) -> None:
    about = server.about(DECODER)
    assert about["modelVersion"] == archives.version.digest[:16]
    assert (about["minWorkers"], about["maxWorkers"], len(about["workers"])) == (2, 2, 2)
    assert about["jobQueueStatus"] == {"remainingCapacity": 100, "pendingRequests": 0}
    assert (about["responseTimeout"], server.about(ENCODER)["responseTimeout"]) == (60, 600)
    batched = server.about(BATCHED)
    assert (batched["batchSize"], batched["maxBatchDelay"], batched["minWorkers"]) == (BATCH, 20_000, 1)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"/models?url={DECODER}.mar&model_name=more"), ("DELETE", f"/models/{DECODER}")],
)
def test_models_can_be_neither_added_nor_removed(server: TorchServe, method: str, path: str) -> None:
    request = urllib.request.Request(f"{server.management}{path}", method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value as error:
        assert error.code in (403, 405)
    with urllib.request.urlopen(f"{server.management}/models", timeout=60) as answer:
        names = {model["modelName"] for model in json.load(answer)["models"]}
    assert names == {ENCODER, DECODER, BATCHED}


def test_a_worker_imports_no_more_than_it_needs() -> None:
    needs("onnxruntime")
    heavy = ("torch", "transformers", "scipy", "skimage", "pydantic", "fastapi", "aiohttp", "redis")
    code = (
        "import sys, labeling_ground.engine_server.torchserve\n"
        f"print(*[name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180)
    assert done.stdout.split() == []


def test_the_model_is_no_real_one(archives: Archives) -> None:
    assert archives.version.model == MODEL
    assert MODEL not in archives.store.known
