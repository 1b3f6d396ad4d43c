"""A server whose engines are in other processes: what it tells about them, and what it does without them."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.inference.engines import disc_folder
from tests.inference.toy_engine import NAMES, OTHER, VERSION, Served, ToyEngine, endpoint, served
from tests.ports import free_port

from labeling_ground.inference.remote.wire import EngineRole
from labeling_ground.models.catalogue import Role as Part
from labeling_ground.models.store import ModelStore

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


def both(folder: Path, port: int = 0) -> contextlib.AbstractContextManager[Served]:
    return served(
        endpoint(EngineRole.ENCODER, ToyEngine(), folder, workers=1),
        endpoint(EngineRole.DECODER, ToyEngine(), folder),
        port=port,
    )


def using(engines: Served) -> dict[str, Any]:
    management = f"http://127.0.0.1:{engines.management_port}"
    return {
        "real_engine": True,
        "encoder_url": (engines.url,),
        "decoder_url": (engines.url,),
        "encoder_name": NAMES[EngineRole.ENCODER],
        "decoder_name": NAMES[EngineRole.DECODER],
        "encoder_management_url": (management,),
        "decoder_management_url": (management,),
        "engine_reset_s": 0.1,
        "engine_poll_s": 0.1,
        "disk_bytes": 0,
    }


async def checks(server: "Running") -> tuple[int, dict[str, str]]:
    answer = await server.client.get("/health/ready")
    return answer.status_code, answer.json()["checks"]


async def test_what_is_known_of_the_engines_is_told(
    start: "Start", tmp_path: Path, make_image: Callable[..., bytes]
) -> None:
    with both(tmp_path / "kept") as engines:
        async with start(**using(engines)) as server:
            assert (await server.click(await server.send_image(make_image()), 9, 9)).status_code == 200
            told = {one["engine"]: one for one in (await server.client.get("/v1/cache")).json()["engines"]}
            assert {name: one["workers"] for name, one in told.items()} == {"encoder": 1, "decoder": 2}
            assert {one["model_version"] for one in told.values()} == {str(VERSION)}
            assert told["decoder"]["asks"] == 2  # this click, and the one at the start
            assert told["decoder"]["round_trip_seconds"] >= told["decoder"]["engine_seconds"] > 0
            metrics = (await server.client.get("/metrics")).text
            assert f'labeling_ground_engine_workers{{address="{engines.url}",engine="decoder"}} 2.0' in metrics
            assert f'engine_bytes_total{{address="{engines.url}",direction="sent",engine="decoder"}}' in metrics
            assert told["decoder"]["embeddings_sent"] == 2
            assert told["decoder"]["left_out"] == ""
            [model] = (await server.client.get("/v1/models")).json()["models"]
            assert (model["version"], model["engine"]) == (
                str(VERSION),
                "in other processes: 1 encoder and 2 decoder workers",
            )
            assert server.app_state.predictor.encode_queue.slots == 1


@pytest.mark.parametrize("models", [("own-sam", "remote"), ("remote", "own-sam")])
async def test_an_installed_model_and_that_of_the_engines_are_served_side_by_side(
    start: "Start", tmp_path: Path, make_image: Callable[..., bytes], models: tuple[str, ...]
) -> None:
    """Over one cache, whichever of them is the default."""
    weights = ModelStore(tmp_path / "models")
    for role in (Part.ENCODER, Part.DECODER, Part.FAST_DECODER):
        weights.add(disc_folder() / f"{role.value}.onnx", name="own-sam", role=role, family="sam")
    with both(tmp_path / "kept") as engines:
        chosen = using(engines) | {"models": models, "models_dir": weights.folder, "engine": "onnx"}
        async with start(**chosen) as server:
            versions = {}
            image_id = await server.send_image(make_image())
            for name, model in (("own-sam", "own-sam"), ("remote", "toy-sam"), ("toy-sam", "toy-sam")):
                answer = (await server.click(image_id, 9, 9, model=name)).json()
                assert answer["model"] == model
                versions[model] = answer["model_version"]
            assert answer["outcome"] == "hit", "the id that the engines told is the same model"
            assert versions["toy-sam"] == str(VERSION)
            default = (await server.click(image_id, 9, 9)).json()
            assert (default["outcome"], default["model"]) == ("hit", "own-sam" if models[0] == "own-sam" else "toy-sam")
            listed = {each["id"]: each for each in (await server.client.get("/v1/models")).json()["models"]}
            assert {name: each["version"] for name, each in listed.items()} == versions
            assert "in other processes" in listed["toy-sam"]["engine"]
            assert listed["own-sam"]["engine"].startswith("onnx")
            figures = (await server.client.get("/v1/cache")).json()
            assert {(one["engine"], one["address"]) for one in figures["engines"]} == {
                ("encoder", engines.url),
                ("decoder", engines.url),
            }
            assert all(figures["models"][model]["queues"].keys() == {"encoder", "decoder"} for model in versions)


async def test_an_engine_of_another_model_is_named_and_its_pool_goes_on(
    start: "Start", tmp_path: Path, make_image: Callable[..., bytes]
) -> None:
    with both(tmp_path / "kept") as engines, both(tmp_path / "odd") as odd:
        decoder = odd.endpoints[1]
        decoder.handler = endpoint(EngineRole.DECODER, ToyEngine(seed=9), tmp_path / "other", version=OTHER).handler
        settings = using(engines)
        for name in ("encoder_url", "decoder_url"):
            settings[name] = (engines.url, odd.url)
        for name in ("encoder_management_url", "decoder_management_url"):
            settings[name] = (*settings[name], f"http://127.0.0.1:{odd.management_port}")
        async with start(**settings) as server:
            image_id = await server.send_image(make_image())
            first = (await server.click(image_id, 9, 9)).json()
            assert first["model_version"] == str(VERSION)
            status, found = await checks(server)
            assert status == 200
            assert f"it serves {OTHER}" in found[f"decoder at {odd.url}"]
            assert not [name for name in found if engines.url in name]
            metrics = (await server.client.get("/metrics")).text
            where = f'address="{odd.url}",engine="decoder"'
            assert f'labeling_ground_engine_left_out{{{where},reason="model"}} 1.0' in metrics
            assert f"labeling_ground_engine_asks_total{{{where}}} 0.0" in metrics
            queues = server.app_state.predictor.encode_queue, server.app_state.predictor.decode_queue
            assert [queue.slots for queue in queues] == [2, 3]  # both encoders; the one decoder, and one ahead
            decoder.handler = endpoint(EngineRole.DECODER, ToyEngine(), tmp_path / "odd").handler
            await server.until(lambda: queues[1].slots == 6)
            assert (await checks(server))[1].keys() == {"model"}


async def test_without_engines_the_cache_goes_on_and_the_rest_is_told_to_come_back(
    start: "Start", tmp_path: Path, make_image: Callable[..., bytes]
) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(contextlib.ExitStack())
        engines = running.enter_context(both(tmp_path / "kept", free_port()))
        async with start(**using(engines)) as server:
            image_id = await server.send_image(make_image())
            first = (await server.click(image_id, 9, 9)).json()
            running.close()
            for _ in range(5):
                refused = await server.click(image_id, 20, 20)
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
                assert "127.0.0.1" not in refused.text  # where engines are is not the client's business
            again = (await server.click(image_id, 9, 9)).json()
            assert (again["outcome"], again["masks"]) == ("hit", first["masks"])
            status, found = await checks(server)
            assert status == 503
            assert "failing: The decoder does not answer" in found["decoder"]
            stack.enter_context(both(tmp_path / "kept", engines.port))
            backend: Any = server.app_state.predictor.backend
            await server.until(lambda: not backend.failing())
            assert (await server.click(image_id, 20, 20)).status_code == 200
            assert (await checks(server))[0] == 200


async def test_after_a_change_of_the_model_nothing_of_the_old_one_is_served(
    start: "Start", tmp_path: Path, make_image: Callable[..., bytes]
) -> None:
    with both(tmp_path / "kept") as engines:
        async with start(**using(engines)) as server:
            file = make_image()
            image_id = await server.send_image(file)
            old = (await server.click(image_id, 9, 9)).json()
            for half in engines.endpoints:
                engine = ToyEngine(seed=-3)
                half.handler = endpoint(half.handler.description.role, engine, tmp_path / "kept", version=OTHER).handler
            backend: Any = server.app_state.predictor.backend
            await server.until(lambda: bool(backend.info.version == OTHER))
            new = (await server.click(image_id, 9, 9)).json()
            assert (old["model_version"], new["model_version"]) == (str(VERSION), str(OTHER))
            assert new["outcome"] == "recomputed"
            assert new["masks"] != old["masks"]
            engines.endpoints[1].handler = endpoint(EngineRole.DECODER, ToyEngine(), tmp_path / "kept").handler
            await server.until(lambda: "model" in backend.failing())
            status, found = await checks(server)
            assert status == 503
            assert "must be halves of one model" in found["model"]
