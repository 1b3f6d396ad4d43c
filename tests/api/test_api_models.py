"""Several models behind one API: named in requests, loaded at the first, listed, loaded and unloaded by hand."""

import asyncio
import base64
import gc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import Running, Start, ToyBackend
from tests.sam.references import exported

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.agreement import this_machine
from labeling_ground.inference.memory import give_back_free_memory
from labeling_ground.models.catalogue import Role
from labeling_ground.models.manifests import InstalledModel
from labeling_ground.models.store import ModelStore
from labeling_ground.settings.machine import resident_bytes
from labeling_ground.types import ModelVersion
from labeling_ground.verdict import Verdict

pytestmark = pytest.mark.anyio

ADMIN = {"X-API-Key": "the-admin-key"}
HERE = "tests.api.test_api_models"
MADE: list[ToyBackend] = []
"""What the factories below have made, by any test."""


def second(*, encode_threads: int, decode_threads: int) -> ToyBackend:
    """A factory as users write it."""
    MADE.append(ToyBackend(ModelVersion("second", "2" * 64), note="The second toy."))
    return MADE[-1]


def third(*, encode_threads: int, decode_threads: int) -> ToyBackend:
    """Another one."""
    MADE.append(ToyBackend(ModelVersion("third", "3" * 64)))
    MADE[-1].memory_bytes = 1000  # type: ignore[attr-defined] # an engine may tell
    return MADE[-1]


def broken(*, encode_threads: int, decode_threads: int) -> ToyBackend:
    """One that cannot be made."""
    raise RuntimeError("its files are gone")


def named(*factories: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(f"{HERE}:{factory.__name__}" for factory in factories)


SECOND, THIRD, BROKEN = named(second, third, broken)


def own_sam(folder: Path) -> ModelStore:
    """A store with one installed model."""
    made, _ = exported()
    weights = ModelStore(folder / "models")
    for role in (Role.ENCODER, Role.DECODER):
        weights.add(made / f"{role.value}.onnx", name="own-sam", role=role, family="sam")
    return weights


async def models_of(server: Running) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in (await server.client.get("/v1/models")).json()["models"]}


@pytest.mark.parametrize("image_of", ["?model=", "none"])
async def test_a_request_names_its_model_and_the_answer_says_which_it_was(
    start: Start, make_image: Callable[..., bytes], image_of: str
) -> None:
    async with start(models=(SECOND,)) as server:
        client, file = server.client, make_image()
        query = f"?model={SECOND}" if image_of == "?model=" else ""
        sent = (await client.post(f"/v1/images{query}", content=file)).json()
        assert sent["model"] == ("second" if query else "toy")
        path = f"/v1/images/{sent['image_id']}"
        prompt = {"points": [{"x": 9, "y": 9}]}
        for name in (SECOND, "second"):
            mask = (await client.post(f"{path}/masks", json={**prompt, "model": name})).json()
            assert mask["model"] == "second"
            assert mask["model_version"].startswith("second@2222")
        assert mask["outcome"] == "hit"
        assert (await client.post(f"{path}/masks?model=second", json=prompt)).json()["model"] == "second"
        both = await client.post(f"{path}/masks?model=toy", json={**prompt, "model": "second"})
        assert both.json()["model"] == "second", "the body's counts"
        assert (await client.post(f"{path}/masks", json=prompt)).json()["model"] == "toy"
        assert (await client.get(f"{path}?model=second")).json()["model"] == "second"
        embedding = await client.get(f"{path}/embedding?model=second")
        assert embedding.headers["X-Model-Version"].startswith("second@")
        grid = await client.post(f"{path}/everything", json={"points_per_side": 2, "model": "second"})
        assert grid.json()["model"] == "second"
        grid = await client.post(f"{path}/everything?model=second", json={"points_per_side": 2})
        assert (grid.json()["model"], grid.json()["outcome"]) == ("second", "hit")
        lines = {"Accept": "application/x-ndjson"}
        stream = await client.post(f"{path}/everything", json={"points_per_side": 2, "model": "second"}, headers=lines)
        assert '"model":"second"' in stream.text
        assert server.app_state.models.loaded[SECOND].users == 0, "each request has let it go"


async def test_an_empty_name_is_none_in_every_request(start: Start, make_image: Callable[..., bytes]) -> None:
    async with start(models=(SECOND,)) as server:
        client, file = server.client, make_image()
        sent = (await client.post("/v1/images?model=", content=file)).json()
        path, prompt = f"/v1/images/{sent['image_id']}", {"points": [{"x": 9, "y": 9}]}
        shown = {"image": base64.b64encode(file).decode(), "params": {"marks": [{"type": "point", "data": [5, 5]}]}}
        for answer in (
            await client.get(f"{path}?model="),
            await client.post(f"{path}/masks?model=", json=prompt),
            await client.post(f"{path}/masks", json={**prompt, "model": ""}),
            await client.post(f"{path}/everything?model=", json={"points_per_side": 2}),
            await client.post("/api/sam/image", json={"session_id": "s", "image": shown["image"], "model": ""}),
            await client.post("/api/sam/click?model=", json={"session_id": "s", "points": [5, 5], "labels": [1]}),
        ):
            assert (answer.status_code, answer.json()["model"]) == (200, "toy")
        assert (await client.get(f"{path}/preview?model=")).status_code == 200
        assert (await client.get(f"{path}/embedding?model=")).headers["X-Model-Version"].startswith("toy@")
        shapes = (await client.post("/x-anylabeling/v1/predict", json={**shown, "model": ""})).json()
        assert shapes["data"]["shapes"]


async def test_an_unknown_model_is_404_with_those_that_are_served(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    async with start(models=(SECOND,)) as server:
        image_id = await server.send_image(make_image())
        body = {"model": "sam-9"}
        for answer in (
            await server.client.post("/v1/images?model=sam-9", content=make_image()),
            await server.client.get(f"/v1/images/{image_id}?model=sam-9"),
            await server.click(image_id, 5, 5, **body),
            await server.client.post(f"/v1/images/{image_id}/everything", json=body),
            await server.client.post(f"/v1/images/{image_id}/everything?model=sam-9"),
            await server.client.post(f"/v1/images/{image_id}/concepts?model=sam-9", json={"text": "a screw"}),
            await server.client.post(
                "/v1/upcoming?model=sam-9", json={"images": [image_id]}, headers={"X-Client-Id": "annotator-7"}
            ),
            await server.client.get("/v1/models/sam-9/decoder"),
        ):
            assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (404, "unknown-model")
            assert answer.json()["detail"] == f"The model 'sam-9' is not served here. Served: toy, {SECOND}."


async def test_the_list_says_of_each_what_it_is_and_whether_it_is_loaded(start: Start) -> None:
    async with start(models=("classical", THIRD)) as server:
        listed = await models_of(server)
        assert list(listed) == ["toy", "classical", THIRD]
        assert [model["default"] for model in listed.values()] == [True, False, False]
        assert [model["loaded"] for model in listed.values()] == [True, False, False]
        assert listed["classical"]["capabilities"] == ["points", "box", "mask"]
        assert "version" not in listed["classical"]
        await server.client.post("/v1/images?model=third", content=b"")  # not known by its id before it is loaded
        assert not (await models_of(server))[THIRD]["loaded"]
        await server.client.get(f"/v1/images/{'0' * 64}?model={THIRD}")
        third = (await models_of(server))["third"]
        assert (third["loaded"], third["memory_bytes"], third["version"]) == (True, 1000, "third@3333333333333333")


async def test_the_operator_loads_and_unloads_and_the_cache_keeps_what_the_model_made(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    async with start(models=(SECOND,), admin_key="the-admin-key") as server:
        client = server.client
        for verb in ("load", "unload"):
            assert (await client.post(f"/v1/models/{SECOND}/{verb}")).status_code == 401
            unknown = await client.post(f"/v1/models/sam-9/{verb}", headers=ADMIN)
            assert unknown.status_code == 404
        loaded = await client.post(f"/v1/models/{SECOND}/load", headers=ADMIN)
        assert (loaded.status_code, loaded.json()["id"], loaded.json()["loaded"]) == (200, "second", True)
        image_id = await server.send_image(make_image())
        assert (await server.click(image_id, 9, 9, model="second")).json()["outcome"] == "recomputed"
        await server.until(lambda: not server.app_state.models.loaded[SECOND].is_in_use)
        unloaded = await client.post("/v1/models/second/unload", headers=ADMIN)
        assert (unloaded.status_code, unloaded.json()["loaded"]) == (200, False)
        again = await server.click(image_id, 9, 9, model="second")
        assert again.json()["outcome"] == "hit"
        kept = await client.post("/v1/models/toy/unload", headers=ADMIN)
        assert kept.status_code == 400
        assert "stays loaded" in kept.json()["detail"]


async def test_a_model_that_cannot_be_loaded_says_why_and_the_others_answer(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    async with start(models=(BROKEN,)) as server:
        answer = await server.client.post(f"/v1/images?model={BROKEN}", content=make_image())
        assert answer.status_code == 503
        assert "its files are gone" in answer.json()["detail"]
        await server.send_image(make_image())


async def test_health_is_told_for_each_model_until_it_answers_again(
    start: Start, make_image: Callable[..., bytes], backend_failure: BackendFailed
) -> None:
    async with start(models=(SECOND,), engine_failures=2) as server:
        client = server.client
        image_id = (await client.post(f"/v1/images?model={SECOND}", content=make_image())).json()["image_id"]
        backend = server.app_state.models.loaded[SECOND].predictor.backend
        assert isinstance(backend, ToyBackend)
        backend.fail_decode = backend_failure
        for x in (5, 6):
            assert (await server.click(image_id, x, 5, model="second")).status_code == 503
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["checks"]["decoder of second"].startswith("failing: The last 2 calls failed")
        assert (await server.click(image_id, 5, 5)).status_code == 200, "the default one is well"
        backend.fail_decode = None
        await server.until(lambda: not server.app_state.models.loaded[SECOND].failing())
        assert (await client.get("/health/ready")).json() == {"status": "ok", "checks": {"model": "ok", "disk": "ok"}}


@pytest.mark.slow
async def test_what_a_model_takes_is_measured_when_it_is_loaded_and_counts_against_the_budget(
    start: Start, make_image: Callable[..., bytes], tmp_path: Path
) -> None:
    """From the manifest of its files, in which each load writes it down."""
    weights = own_sam(tmp_path)
    chosen: dict[str, Any] = {"models": ("own-sam",), "models_dir": weights.folder, "engine": "onnx"}

    def noted() -> InstalledModel:
        found = ModelStore(weights.folder).noted("own-sam")
        assert found is not None
        return found

    files = sum(file.bytes for file in noted().files.values())
    async with start(**chosen) as server:
        assert (await models_of(server))["own-sam"]["memory_bytes"] == files, "before it was ever loaded"
        assert (await server.client.post("/v1/images?model=own-sam", content=make_image())).status_code == 200
        told = (await models_of(server))["own-sam"]["memory_bytes"]
    assert noted().memory_bytes == told > 0
    weights.note_memory("own-sam", 10**12)
    checked = Verdict("openvino", "bf16", 0.5, 0.1, 45, 0.96, 0.99, source="check")
    weights.note_verdicts("own-sam", this_machine(), [checked, Verdict("onnx-cuda", "fp16", failed="no GPU")])
    async with start(**chosen, models_bytes=10**11, encode_deadline_s=1) as server:
        assert (await models_of(server))["own-sam"]["memory_bytes"] == 10**12
        refused = await server.client.post("/v1/images?model=own-sam", content=make_image())
        assert (refused.status_code, refused.json()["type"].rsplit(":", 1)[-1]) == (507, "model-too-large")
        assert "Retry-After" not in refused.headers, "the operator alone can help"
        assert "own-sam takes 1000000000000 bytes, and models_bytes leaves" in refused.json()["detail"]
        assert not (await models_of(server))["own-sam"]["loaded"]
        await server.send_image(make_image())
    async with start(**chosen, models_bytes=10**12 + 10**11) as server:
        assert (await server.client.post("/v1/images?model=own-sam", content=make_image())).status_code == 200
        about = (await models_of(server))["own-sam"]
        assert (about["precision"], about["verdicts"]) == ("fp32", [asdict(checked)])
        again = about["memory_bytes"]
    assert noted().memory_bytes == again < 10**12


@pytest.mark.slow
async def test_an_unloaded_model_gives_its_memory_back(
    start: Start, make_image: Callable[..., bytes], tmp_path: Path
) -> None:
    """At once, not when the interpreter looks for garbage, and to the system; and takes as much when it comes back."""
    weights = own_sam(tmp_path)
    chosen: dict[str, Any] = {"models": ("own-sam",), "models_dir": weights.folder, "engine": "onnx"}
    gc.collect()  # what other tests left would be given back while the model loads, and count against it
    give_back_free_memory()
    async with start(**chosen, admin_key="the-admin-key") as server:
        taken = []
        for _ in range(2):
            assert (await server.client.post("/v1/images?model=own-sam", content=make_image())).status_code == 200
            await server.until(lambda: not server.app_state.models.loaded["own-sam"].is_in_use)
            taken.append((await models_of(server))["own-sam"]["memory_bytes"])
            before = resident_bytes()
            unloaded = await server.client.post("/v1/models/own-sam/unload", headers=ADMIN)
            assert unloaded.status_code == 200
            assert resident_bytes() < before - taken[-1] / 2
        assert taken[1] > taken[0] / 3, "a quarter, while the first one's memory was still there to be loaded into"


async def test_x_anylabeling_is_told_of_all_models_the_default_first(start: Start) -> None:
    async with start(models=("classical",), adapters=("x-anylabeling",)) as server:
        told = (await server.client.get("/x-anylabeling/v1/models")).json()["data"]
        assert list(told) == ["toy", "classical"]
        assert told["classical"]["display_name"] == "Labeling Ground (classical)"


async def test_figures_are_those_of_all_models_and_say_of_each_what_was_its_own(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    """Also of one that was unloaded; only the default one was counted before."""
    async with start(models=(SECOND,), admin_key="the-admin-key") as server:
        image_id = await server.send_image(make_image())
        for _ in range(2):
            body = {"points": [{"x": 9, "y": 9}], "model": SECOND}
            assert (await server.client.post(f"/v1/images/{image_id}/masks", json=body)).status_code == 200
        await server.until(lambda: not server.app_state.models.loaded[SECOND].is_in_use)
        assert (await server.client.post("/v1/models/second/unload", headers=ADMIN)).status_code == 200
        found = (await server.client.get("/v1/cache")).json()
        assert (found["kinds"]["mask"]["misses"], found["kinds"]["mask"]["hits"]) == (1, 1)
        assert [found["models"][model]["hits"] for model in ("toy", "second")] == [0, 1]
        assert found["lookups"] == sum(each["lookups"] for each in found["models"].values())
        metrics = (await server.client.get("/metrics")).text
        assert 'labeling_ground_lookups_total{kind="mask",model="second",outcome="hit"} 1.0' in metrics


async def test_what_a_models_queues_did_is_told_when_it_is_unloaded_and_goes_on_when_it_is_loaded_anew(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    """A counter that falls reads as a restart; and the answer says that these are since the server started."""

    async def busy(server: Running) -> tuple[float, float | None]:
        """The encoder's seconds in the metrics, and in the figures where the model is loaded."""
        counted = server.app_state.metrics.figures().sum("queue_busy_seconds", model="second", queue="encoder")
        queues = (await server.client.get("/v1/cache")).json()["models"]["second"]["queues"]
        return counted, queues["encoder"]["classes"]["interactive"]["busy_seconds"] if queues else None

    async with start(models=(SECOND,), admin_key="the-admin-key") as server:
        posted = await server.client.post(f"/v1/images?model={SECOND}", content=make_image())
        assert posted.status_code == 200, posted.text
        await server.until(lambda: not server.app_state.models.loaded[SECOND].is_in_use)
        before = await busy(server)
        assert before[0] == pytest.approx(before[1], abs=1e-5)
        assert before[0] > 0
        assert (await server.client.post(f"/v1/models/{SECOND}/unload", headers=ADMIN)).status_code == 200
        assert await busy(server) == (before[0], None)
        assert (await server.client.post(f"/v1/models/{SECOND}/load", headers=ADMIN)).status_code == 200
        assert await busy(server) == before


async def test_what_waits_and_is_under_way_is_told_of_every_loaded_model(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    """Only the default one's queues and flights were."""

    async def told(server: Running) -> tuple[dict[str, Any], str]:
        found = await server.client.get("/v1/cache")
        return found.json(), (await server.client.get("/metrics")).text

    async with start(models=(SECOND,), admin_key="the-admin-key") as server:
        client = server.client
        assert (await client.post(f"/v1/models/{SECOND}/load", headers=ADMIN)).status_code == 200
        backend = server.app_state.models.loaded[SECOND].predictor.backend
        assert isinstance(backend, ToyBackend)
        backend.encode_may_go_on.clear()
        asks = [asyncio.create_task(client.post(f"/v1/images?model={SECOND}", content=make_image())) for _ in range(9)]
        slots = server.app_state.models.loaded[SECOND].predictor.encode_queue.slots
        await server.until(lambda: len(server.app_state.models.loaded[SECOND].predictor.flights) == 9)
        await server.until(lambda: server.app_state.models.loaded[SECOND].predictor.encode_queue.waiting == 9 - slots)
        found, metrics = await told(server)
        encoder = found["models"]["second"]["queues"]["encoder"]
        assert (encoder["running"], encoder["waiting"]) == (slots, 9 - slots)
        assert encoder["classes"]["interactive"]["waiting"] == 9 - slots
        assert (found["models"]["second"]["flights"], found["models"]["toy"]["flights"], found["flights"]) == (9, 0, 9)
        assert (found["queues"]["encoder"]["running"], found["queues"]["encoder"]["waiting"]) == (0, 0), "the default's"
        assert found["models"]["toy"]["queues"] == {half: found["queues"][half] for half in ("encoder", "decoder")}
        assert f'waiting{{class="interactive",model="second",queue="encoder"}} {9 - slots}.0' in metrics
        assert 'labeling_ground_waiting{class="interactive",model="toy",queue="encoder"} 0.0' in metrics
        assert 'labeling_ground_flights{model="second"} 9.0' in metrics
        backend.encode_may_go_on.set()
        assert [(await ask).status_code for ask in asks] == [200] * 9
        await server.until(lambda: not server.app_state.models.loaded[SECOND].is_in_use)
        assert (await client.post("/v1/models/second/unload", headers=ADMIN)).status_code == 200
        found, metrics = await told(server)
        assert (found["models"]["second"]["queues"], found["models"]["second"]["flights"]) == ({}, 0)
        assert found["models"]["second"]["misses"] == 9
        assert 'waiting{class="interactive",model="second"' not in metrics


# --- sessions ------------------------------------------------------------------------------------------------------


async def ask(server: Running, verb: str, query: str = "", **body: Any) -> dict[str, Any]:
    answer = await server.client.post(f"/api/sam/{verb}{query}", json={"session_id": "s", **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("way", ["body", "query"])
async def test_a_session_remembers_the_model_that_was_named_for_it(
    start: Start, make_image: Callable[..., bytes], way: str
) -> None:
    image = base64.b64encode(make_image(64, 48)).decode()

    def name(model: str) -> dict[str, Any]:
        return {"model": model} if way == "body" else {"query": f"?model={model}"}

    async with start(models=(SECOND,)) as server:
        assert (await ask(server, "image", image=image, **name(SECOND)))["model"] == "second"
        assert (await ask(server, "click", points=[9, 9]))["model"] == "second"
        assert (await ask(server, "rect", startX=1, startY=1, endX=30, endY=30))["model"] == "second"
        assert (await ask(server, "undo"))["model"] == "second"
        assert (await ask(server, "click", points=[9, 9], **name("toy")))["model"] == "toy"
        await ask(server, "finish_click")
        assert (await ask(server, "click", points=[9, 9]))["model"] == "toy", "until another one is named"
        assert (await ask(server, "rect", startX=1, startY=1, endX=30, endY=30, **name("second")))["model"] == "second"
        await ask(server, "finish_click", **name("toy"))
        assert (await ask(server, "click", points=[9, 9]))["model"] == "toy"
        assert server.app_state.models.loaded[SECOND].users == 0


async def test_another_model_predicts_a_sessions_object_anew_from_its_clicks(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    """And is not given a mask of the first model's to refine."""
    image = base64.b64encode(make_image(64, 48)).decode()
    async with start(models=(SECOND,)) as server:
        opened = await ask(server, "image", image=image)
        await ask(server, "click", points=[9, 9])
        found = await ask(server, "click", points=[20, 20], model=SECOND)
        assert len(found["points"]) == 2
        prompt = {"points": [{"x": 9, "y": 9}, {"x": 20, "y": 20}], "model": "second"}
        alone = (await server.client.post(f"/v1/images/{opened['image_id']}/masks", json=prompt)).json()
        assert (alone["prediction_id"], alone["outcome"]) == (found["prediction_id"], "hit")


async def test_a_session_loads_its_model_again_where_that_was_unloaded(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    image = base64.b64encode(make_image(64, 48)).decode()
    async with start(models=(SECOND,), admin_key="the-admin-key") as server:
        await ask(server, "image", image=image, model=SECOND)
        await ask(server, "click", points=[9, 9])
        await server.until(lambda: not server.app_state.models.loaded[SECOND].is_in_use)
        assert (await server.client.post("/v1/models/second/unload", headers=ADMIN)).status_code == 200
        assert (await models_of(server))["second"]["loaded"] is False
        found = await ask(server, "click", points=[20, 20])
        assert (found["model"], len(found["points"])) == ("second", 2)


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("image", {"image": "aGVsbG8="}),
        ("click", {"points": [9, 9]}),
        ("rect", {"startX": 1, "startY": 1, "endX": 9, "endY": 9}),
        ("undo", {}),
        ("finish_click", {}),
    ],
)
async def test_a_session_that_names_a_model_that_is_not_served_is_told_those_that_are(
    start: Start, make_image: Callable[..., bytes], verb: str, body: dict[str, Any]
) -> None:
    async with start(models=(SECOND,)) as server:
        await ask(server, "image", image=base64.b64encode(make_image(64, 48)).decode())
        await ask(server, "click", points=[20, 20])
        answer = await server.client.post(f"/api/sam/{verb}", json={"session_id": "s", "model": "third", **body})
        assert answer.status_code == 404
        assert answer.json()["type"].endswith("unknown-model")
        assert "'third'" in answer.json()["detail"]
        assert f"toy, {SECOND}" in answer.json()["detail"]
        found = await ask(server, "click", points=[9, 9])
        assert (found["model"], len(found["points"])) == ("toy", 2), "nothing was changed"


async def test_the_model_of_a_session_outlives_its_server(start: Start, make_image: Callable[..., bytes]) -> None:
    async with start(models=(SECOND,)) as server:
        await ask(server, "image", image=base64.b64encode(make_image(64, 48)).decode(), model=SECOND)
    async with start(models=(SECOND,)) as server:
        assert (await ask(server, "click", points=[9, 9]))["model"] == "second"
