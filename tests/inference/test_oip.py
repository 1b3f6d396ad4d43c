"""Halves of a model behind servers of the Open Inference Protocol; none of their misbehaviour becomes a mask."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from starlette.responses import JSONResponse, Response
from tests.doubles import on, through_the_cache
from tests.inference.oip_server import LENGTH, OipServer, Spoilt, oip_pool, oip_remote, oip_served
from tests.inference.remote_asks import PROMPTS, image, same
from tests.inference.toy_engine import (
    NAMES,
    OTHER,
    VERSION,
    ToyEngine,
    backend_of,
    endpoint,
    pool,
    served,
)

from labeling_ground.errors import BackendFailed, BadSettings, Overloaded
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.remote.oip import declared_version
from labeling_ground.inference.remote.wire import EngineRole
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import version_number
from labeling_ground.settings import Settings
from labeling_ground.types import Embedding, Point, Prediction, Prompt
from labeling_ground.wiring.models import build_remote

pytestmark = pytest.mark.anyio

CLICK = PROMPTS[0]


async def encode(backend: Backend) -> Embedding:
    [embedding] = await backend.encode([image()])
    return embedding


async def decode(backend: Backend, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
    return await backend.decode(on(embedding, prompts))


@pytest.mark.parametrize("family", [Family.SAM, Family.SAM_HQ, Family.SAM2, Family.EFFICIENT_TAM])
async def test_masks_are_those_of_the_same_engine_in_this_process(family: Family) -> None:
    here = SamBackend(ToyEngine(family), VERSION, "", decode_threads=2)
    server = OipServer(ToyEngine(family))
    with oip_remote(server) as there:
        assert (there.info.version, there.info.note, there.family) == (VERSION, "of a toy", family)
        embedding, expected = await encode(there), await encode(here)
        for name in family.embedding_names:
            np.testing.assert_array_equal(embedding.tensors[name], expected.tensors[name])
        for given in (embedding, through_the_cache(embedding)):
            same(await decode(there, given, PROMPTS), await decode(here, given, PROMPTS))
        number = version_number(VERSION)
        assert set(server.asked) == {f"/v2/models/{name}/versions/{number}/infer" for name in NAMES.values()}
        await there.aclose()
    await here.aclose()


async def test_half_precision_goes_there_and_comes_back() -> None:
    here = SamBackend(ToyEngine(), VERSION, "", decode_threads=1)
    with oip_remote(OipServer(ToyEngine(), "FP16")) as there:
        embedding, expected = await encode(there), await encode(here)
        assert embedding.tensors["image_embeddings"].dtype == np.float16
        wanted = expected.tensors["image_embeddings"]
        np.testing.assert_allclose(embedding.tensors["image_embeddings"], wanted, atol=2e-3)
        for made, other in zip(
            await decode(there, embedding, PROMPTS), await decode(here, expected, PROMPTS), strict=True
        ):
            for a, b in zip(made.masks, other.masks, strict=True):
                assert (a.pixels == b.pixels).mean() > 0.99
        too_large = Prompt((Point(1, 1, 1),), mask_input=np.full((256, 256), 1e6, np.float32))
        with pytest.raises(BackendFailed, match="mask_input has numbers that are too large for FP16"):
            await decode(there, embedding, [too_large])
        assert not there.failing()
        await there.aclose()
    await here.aclose()


async def test_an_encoder_elsewhere_goes_with_a_decoder_of_our_own(tmp_path: Path) -> None:
    here = SamBackend(ToyEngine(), VERSION, "", decode_threads=1)
    with (
        oip_served(OipServer(ToyEngine())) as theirs,
        served(endpoint(EngineRole.DECODER, ToyEngine(), tmp_path)) as ours,
    ):
        management = f"http://127.0.0.1:{ours.management_port}"
        backend = backend_of(
            oip_pool(EngineRole.ENCODER, theirs.url), pool(EngineRole.DECODER, ours.url, management=management)
        )
        embedding = await encode(backend)
        same(await decode(backend, embedding, PROMPTS), await decode(here, embedding, PROMPTS))
        await backend.aclose()
    await here.aclose()


# --- which model it is -----------------------------------------------------------------------------------------------


async def test_a_new_model_is_met_with_its_own_version_and_never_with_the_old_one() -> None:
    server = OipServer(ToyEngine())
    with oip_remote(server) as backend:
        old = await encode(backend)
        server.exchange(OTHER, ToyEngine(seed=2))
        with pytest.raises(BackendFailed, match="changed to another model"):
            await encode(backend)
        assert backend.info.version == OTHER
        new = await encode(backend)
        assert (new.tensors["image_embeddings"] != old.tensors["image_embeddings"]).any()
        await backend.aclose()


async def test_one_half_of_another_model_answers_nothing() -> None:
    encoder, decoder = OipServer(ToyEngine()), OipServer(ToyEngine())
    with oip_served(encoder), oip_served(decoder):
        backend = backend_of(oip_pool(EngineRole.ENCODER, encoder.url), oip_pool(EngineRole.DECODER, decoder.url))
        embedding = await encode(backend)
        decoder.exchange(OTHER, ToyEngine(seed=2))
        for _ in range(2):
            with pytest.raises(BackendFailed):
                await decode(backend, embedding, [CLICK])
        assert backend.info.version == VERSION
        assert "must be halves of one model" in backend.failing()["model"]
        await backend.aclose()


def settings(url: str, **chosen: str) -> Settings:
    names = {"encoder_name": NAMES[EngineRole.ENCODER], "decoder_name": NAMES[EngineRole.DECODER]}
    protocols = {"encoder_protocol": "oip", "decoder_protocol": "oip"}
    given = {"encoder_url": url, "decoder_url": url, **names, **protocols, **chosen}
    return Settings(engine_wait_s=0, **given)  # type: ignore[arg-type]


TOLD = f"{VERSION.model}@{VERSION.digest}"
BY_HAND = {"encoder_oip_version": "3", "decoder_oip_version": "3"}
NO_VERSIONS = {"encoder_oip_version": "none", "decoder_oip_version": "none"}


@pytest.mark.parametrize(
    ("number", "chosen", "words"),
    [
        (str(version_number(VERSION)), {}, "does not tell which model it is"),
        ("3", {"oip_model_version": TOLD}, "It serves 3, and toy-sam@aaaaaaaaaaaaaaaa would be"),
        ("4", {"oip_model_version": TOLD, **BY_HAND}, "It serves 4, and"),
        (None, {"oip_model_version": TOLD}, "It serves no version"),
        ("3", BY_HAND, "name the model that is served there: oip_model_version"),
    ],
)
def test_a_server_that_tells_no_model_is_refused_unless_the_settings_name_it(
    number: str | None, chosen: dict[str, str], words: str
) -> None:
    with (
        oip_served(OipServer(ToyEngine(), version=None, number=number)) as server,
        pytest.raises(BadSettings, match=words),
    ):
        build_remote(settings(server.url, **chosen))


async def test_a_model_that_the_settings_name_has_a_version_of_its_own_for_each_number_served() -> None:
    seen = []
    for number, chosen in ((str(version_number(VERSION)), {}), ("3", BY_HAND), (None, NO_VERSIONS)):
        with oip_served(OipServer(ToyEngine(), version=None, number=number)) as server:
            backend, why = build_remote(settings(server.url, oip_model_version=TOLD, **chosen))
            assert "in other processes" in why
            seen.append(backend.info.version)
            await encode(backend)
            number_asked = "" if number is None else f"/versions/{number}"
            assert server.asked == [f"/v2/models/{NAMES[EngineRole.ENCODER]}{number_asked}/infer"]
            await backend.aclose()
    assert seen[0] == VERSION  # as computed here: one cache for both
    assert len(set(seen)) == 3
    assert {version.model for version in seen} == {VERSION.model}


def test_what_the_server_tells_and_what_the_settings_say_must_agree() -> None:
    with (
        oip_served(OipServer(ToyEngine())) as server,
        pytest.raises(BadSettings, match="oip_model_version says toy-sam@bbbb"),
    ):
        build_remote(settings(server.url, oip_model_version=f"{OTHER.model}@{OTHER.digest}"))


def test_numbers_of_one_half_count_for_the_other_too() -> None:
    both = declared_version(TOLD, {"encoder": "1", "decoder": "2"})
    assert both != declared_version(TOLD, {"encoder": "2", "decoder": "1"})
    assert both != declared_version(TOLD, {"encoder": "1", "decoder": "auto"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ready": False}, "/v2/health/ready is answered with status 503"),
        ({"preprocessing": "0"}, "archived for another version of the preprocessing"),
        ({"datatype": "BF16"}, "It takes BF16"),
    ],
)
def test_what_cannot_be_used_is_said_at_start(change: dict[str, object], words: str) -> None:
    with (
        oip_served(OipServer(ToyEngine(), **change)) as server,  # type: ignore[arg-type]
        pytest.raises(BadSettings, match=words),
    ):
        build_remote(settings(server.url))


def test_a_model_that_is_not_there_is_named_in_the_servers_words() -> None:
    with (
        oip_served(OipServer(ToyEngine())) as server,
        pytest.raises(BadSettings, match="unknown model: 'nothing' is not found"),
    ):
        build_remote(settings(server.url, encoder_name="nothing"))


# --- misbehaviour ----------------------------------------------------------------------------------------------------


def shaped(shape: list[object]) -> Callable[[Spoilt], None]:
    return lambda spoilt: spoilt.output.update(shape=shape)


def header(**values: object) -> Callable[[Spoilt], None]:
    return lambda spoilt: spoilt.header.update(values)


def length(text: str) -> Callable[[Spoilt], None]:
    return lambda spoilt: spoilt.headers.update({LENGTH: text})


def sized(size: object) -> Callable[[Spoilt], None]:
    return lambda spoilt: spoilt.output["parameters"].update(binary_data_size=size)


def part(change: Callable[[bytes], bytes]) -> Callable[[Spoilt], None]:
    def spoil(spoilt: Spoilt) -> None:
        spoilt.parts[-1] = change(spoilt.parts[-1])

    return spoil


def twice(spoilt: Spoilt) -> None:
    spoilt.header["outputs"].append(spoilt.output)
    spoilt.parts.append(spoilt.parts[0])


MISBEHAVIOUR: dict[str, tuple[Callable[[Spoilt], Response | None], str]] = {
    "cut off": (part(lambda data: data[:-4]), "cut off"),
    "too long": (part(lambda data: data + b"\0" * 8), "8 bytes more than its tensors"),
    "not finite": (part(lambda data: b"\xff" * len(data)), "no finite numbers"),
    "of another shape": (shaped([1, 64, 256, 64]), "image_embeddings must be"),
    "of a shape that is larger than its bytes": (shaped([1, 256, 64, 65]), "has 4194304 bytes"),
    "of a negative shape": (shaped([-1, 256, 64, -64]), "has 4194304 bytes"),
    "of a shape that is no number": (shaped(["1", True]), "bytes"),
    "of an endless shape": (shaped([10**30, 10**30]), "bytes"),
    "of another datatype": (lambda spoilt: spoilt.output.update(datatype="INT32"), "is INT32"),
    "of half the datatype": (lambda spoilt: spoilt.output.update(datatype="FP16"), "has 4194304 bytes"),
    "of a size that is none": (sized("many"), "has many bytes"),
    "without a size": (sized(None), "has None bytes"),
    "under another name": (lambda spoilt: spoilt.output.update(name="other"), "There is no tensor image_embeddings"),
    "there twice": (twice, "there twice"),
    "of another version": (header(model_version="7"), "It is of version 7"),
    "without outputs": (header(outputs=None), "outputs cannot be read"),
    "with outputs that are none": (header(outputs=["x"]), "outputs cannot be read"),
    "without a header's length": (length("absent"), "binary tensor extension"),
    "of a header longer than all": (length("99999999"), "99999999"),
    "of a header's length that is none": (length("-5"), "-5"),
    "of a header cut off": (length("10"), "no JSON"),
    "JSON alone": (lambda _: JSONResponse({"outputs": []}), "binary tensor extension"),
    "a page": (lambda _: Response("<html>", media_type="text/html"), "binary tensor extension"),
}


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
async def test_an_embedding_that_is_not_as_specified_is_a_failure_in_words(kind: str) -> None:
    server = OipServer(ToyEngine())
    with oip_remote(server) as backend:
        server.spoil, words = MISBEHAVIOUR[kind]
        for _ in range(3 if kind == "cut off" else 1):
            with pytest.raises(BackendFailed, match=words):
                await encode(backend)
        assert ("encoder" in backend.failing()) == (kind == "cut off")  # each counts as a failure of the engine
        await backend.aclose()


def scores_short(spoilt: Spoilt) -> None:
    spoilt.header["outputs"][1].update(shape=[1, 3], parameters={"binary_data_size": 12})
    spoilt.parts[1] = spoilt.parts[1][:12]


def swapped(spoilt: Spoilt) -> None:
    first, second = spoilt.header["outputs"]
    first["name"], second["name"] = second["name"], first["name"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (scores_short, "do not go with 3 scores"),
        (swapped, "do not go with"),
        (shaped([1, 4, 128, 512]), "do not go with 4 scores"),
        (shaped([2, 2, 256, 256]), ""),
        (part(lambda data: data[:-4]), "cut off"),
        (part(lambda data: b"\xff" * len(data)), "no finite numbers"),
    ],
)
async def test_masks_that_are_not_as_specified_are_a_failure_and_never_masks(
    spoil: Callable[[Spoilt], None], words: str
) -> None:
    server = OipServer(ToyEngine())
    with oip_remote(server) as backend:
        embedding = await encode(backend)
        before = await decode(backend, embedding, PROMPTS)
        server.spoil = spoil
        if words:
            with pytest.raises(BackendFailed, match=words):
                await decode(backend, embedding, [CLICK])
        else:  # the same four masks, written otherwise
            same(await decode(backend, embedding, PROMPTS), before)
        server.spoil = None
        same(await decode(backend, embedding, PROMPTS), before)
        await backend.aclose()


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, BackendFailed, r"The \w+ failed: shape mismatch"),
        (500, BackendFailed, r"The \w+ failed: shape mismatch"),
        # Between our own servers these mean something of which a server of another make knows nothing.
        (409, BackendFailed, r"The \w+ failed: shape mismatch"),
        (422, BackendFailed, r"The \w+ failed: shape mismatch"),
        (424, BackendFailed, r"The \w+ failed: shape mismatch"),
        (503, Overloaded, "shape mismatch"),
        (429, Overloaded, "shape mismatch"),
    ],
)
async def test_the_servers_own_words_reach_the_asker(status: int, kind: type[Exception], words: str) -> None:
    server = OipServer(ToyEngine())
    with oip_remote(server) as backend:
        embedding = await encode(backend)
        server.spoil = lambda _: JSONResponse({"error": "shape mismatch"}, status, {"Retry-After": "7"})
        with pytest.raises(kind, match=words):
            await encode(backend)
        with pytest.raises(kind, match=words) as caught:
            await decode(backend, embedding, PROMPTS[:1])
        assert not backend.failing()  # it answers; this ask was its trouble
        assert getattr(caught.value, "retry_after", 7) == 7
        await backend.aclose()


async def test_an_answer_that_does_not_come_is_given_up_at_the_deadline() -> None:
    engine = ToyEngine()
    server = OipServer(engine)
    with oip_remote(server) as backend:
        embedding = await encode(backend)
        decoder = oip_pool(EngineRole.DECODER, server.url, deadline_s=0.2)
        slow = backend_of(oip_pool(EngineRole.ENCODER, server.url), decoder)
        engine.go.clear()
        try:
            with pytest.raises(BackendFailed, match="no answer within"):
                await decode(slow, embedding, [CLICK])
        finally:
            engine.go.set()
        await slow.aclose()
        await backend.aclose()


async def test_a_server_that_is_away_is_left_alone_and_back_when_it_answers() -> None:
    server = OipServer(ToyEngine())
    with oip_remote(server) as backend:
        embedding = await encode(backend)
        server.spoil = lambda _: Response(b"", 502)
        server.ready = False
        for _ in range(3):
            with pytest.raises(BackendFailed):
                await decode(backend, embedding, [CLICK])
        assert "/v2/health/ready is answered with status 503" in backend.failing()["decoder"]
        server.spoil, server.ready = None, True
        await backend._served.refresh()
        assert not backend.failing()
        assert await decode(backend, embedding, [CLICK])
        await backend.aclose()
