"""SAM 3 from the folder that the operator brings to an answer, and what is said where it cannot be."""

import asyncio
import contextlib
import io
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner, Result
from PIL import Image as Pillow
from tests.doubles import until
from tests.inference.toy_engine import served
from tests.needs import needs
from tests.sam.parity import photo

from labeling_ground.api.app import create_app
from labeling_ground.cli import cli
from labeling_ground.errors import BadSettings, UnknownModel
from labeling_ground.inference.auto import BOTH
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.networks.sam3_files import FILES
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_backend, build_parts
from labeling_ground.wiring.models import build_endpoints, list_models

pytestmark = pytest.mark.anyio


def models(*words: object) -> Result:
    return CliRunner().invoke(cli, ["models", *map(str, words)])


def said(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(result: Result) -> str:
    """What a person reads: errors of ours are printed by the command's own ``main``."""
    assert result.exit_code != 0
    return " ".join(f"{result.output} {result.exception}".split())


def installed(folder: Path, name: str = "sam3", *more: str) -> Path:
    from tests.sam.references_sam3 import tiny

    assert models("add", tiny(), "--as", name, *more, "--models-dir", folder / "models").exit_code == 0
    return folder / "models"


def fake(folder: Path, but: Sequence[str] = ()) -> Path:
    """Files under the right names, with nothing in them that anybody reads here."""
    folder.mkdir()
    for role, name in FILES.items():
        if name not in but:
            (folder / name).write_text(role)
    return folder


# -- taking it in ----------------------------------------------------------------------------------------------------


def test_the_licence_is_said_before_the_weights_are_taken_in(tmp_path: Path) -> None:
    words = said(models("add", fake(tmp_path / "sam3"), "--as", "sam3", "--models-dir", tmp_path / "models"))
    assert words.index("SAM License: https://") < words.index(
        "sam3 is here. Serve it: labeling-ground serve --model sam3"
    )
    [here] = ModelStore(tmp_path / "models").installed().values()
    assert (here.name, here.family, here.own, [*here.formats]) == ("sam3", "sam3", False, ["transformers"])
    listed = said(models("list", "--models-dir", tmp_path / "models"))
    assert "sam3 sam3 SAM License – – 20.25 / 40.5 50 / 25 yes" in listed
    assert "sam3: its weights stand under the SAM License, which is no open-source licence" in listed


def test_one_of_ones_own_has_a_name_of_its_own_and_each_replaces_its_own_files_only(tmp_path: Path) -> None:
    folder = fake(tmp_path / "mine")
    assert models("add", folder, "--as", "ours", "--family", "sam3", "--models-dir", tmp_path).exit_code == 0
    (folder / "model.safetensors").write_text("tuned")
    assert models("add", folder, "--as", "ours", "--family", "sam3", "--models-dir", tmp_path).exit_code == 0
    [here] = ModelStore(tmp_path).installed().values()
    assert (here.own, {file.file for file in here.files.values()}) == (True, set(FILES.values()))
    assert len([*(tmp_path / "blobs").iterdir()]) == 4
    assert ModelStore(tmp_path).path_of("ours", here.files["weights"].role).read_text() == "tuned"  # type: ignore[index]


def test_what_cannot_be_taken_in_says_why(tmp_path: Path) -> None:
    whole, half = fake(tmp_path / "whole"), fake(tmp_path / "half", ["vocab.json", "merges.txt"])
    for words, reason in [
        ((half, "--as", "sam3"), "has no vocab.json, merges.txt, which come with the weights of SAM 3"),
        ((whole,), "a folder is one model: name it with --as"),
        ((whole, "--as", "mine"), "for a model of the family sam3 only: --family sam3"),
        ((whole, "--as", "mine", "--family", "sam2"), "for a model of the family sam3 only"),
        ((whole, "--as", "mobile-sam"), "for a model of the family sam3 only"),
        (
            (whole / "vocab.json", "--as", "sam3", "--role", "decoder"),
            "sam3 is taken in as a whole: labeling-ground mo",
        ),
        ((whole, "--as", "Mine", "--family", "sam3"), "'Mine' cannot be a model's name"),
    ]:
        assert reason in refused(models("add", *words, "--models-dir", tmp_path / "models"))
    assert not ModelStore(tmp_path / "models").installed()


@pytest.mark.parametrize("words", [("pull", "sam3"), ("export", "sam3"), ("pull", "sam3", "--format", "pytorch")])
def test_who_asks_for_weights_that_nobody_hands_on_is_told_the_way(tmp_path: Path, words: Sequence[str]) -> None:
    needs("onnxscript")
    told = refused(models(*words, "--models-dir", tmp_path))
    assert "sam3 cannot be pulled: its weights stand under the SAM License" in told
    assert "Get model.safetensors, config.json, vocab.json, merges.txt from https://" in told
    assert "labeling-ground models add FOLDER --as sam3." in told
    models("add", fake(tmp_path / "sam3"), "--as", "sam3", "--models-dir", tmp_path)
    with pytest.raises(UnknownModel, match=r"sam3 is served as a whole, by torch: there is no encoder of it\."):
        ModelStore(tmp_path).path_of("sam3", Role.ENCODER)


# -- serving it ------------------------------------------------------------------------------------------------------


def settings(folder: Path, **chosen: object) -> Settings:
    return Settings(models_dir=folder / "models", disk_bytes=0, **chosen)  # type: ignore[arg-type]


def test_without_its_files_the_remedy_is_named(tmp_path: Path) -> None:
    for call in (build_backend, list_models):
        with pytest.raises(UnknownModel, match="models add FOLDER --as sam3"):
            call(settings(tmp_path, model="sam3"))


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models("add", fake(tmp_path / "sam3"), "--as", "sam3", "--models-dir", tmp_path / "models")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BadSettings, match="computed by torch and transformers, which the extra 'torch' installs"):
        build_backend(settings(tmp_path, model="sam3"))


async def test_it_is_served_where_it_is_the_only_model_here(tmp_path: Path) -> None:
    installed(tmp_path)
    backend, why = build_backend(settings(tmp_path, engine="onnx"))
    assert backend.info.version.model == "sam3"
    assert why.startswith("torch in fp32 on c")
    assert backend.info.capabilities == ("points", "box", "mask", "text", "exemplars")
    await backend.aclose()
    lower, _ = build_backend(settings(tmp_path, engine_precision="bf16"))
    assert lower.info.version != backend.info.version
    await lower.aclose()
    itself, _ = build_backend(settings(tmp_path, engine_precision="auto"))
    assert itself.info.version == backend.info.version
    await itself.aclose()
    [facts] = list_models(settings(tmp_path, model="sam3"))
    assert (facts.licence, facts.capabilities) == ("SAM License", backend.info.capabilities)
    assert facts.embedding_bytes == 10_616_832
    assert facts.memory_bytes > 1_000_000


@contextlib.asynccontextmanager
async def _closing(stack: contextlib.ExitStack) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.to_thread(stack.close)


@contextlib.contextmanager
def engine_server(folder: Path, name: str) -> Iterator[Settings]:
    """The model behind an engine server; settings of a server that asks it."""
    of_engine = settings(folder, model=name, engine_precision="bf16", embedding_store_dir=folder / "kept")
    endpoints, why = build_endpoints(of_engine, BOTH)
    assert why.startswith("torch in bf16 on c")
    assert {endpoint.handler.description.precision for endpoint in endpoints} == {"bf16"}
    with served(*endpoints) as both:
        told = f"http://127.0.0.1:{both.management_port}"
        urls = {"encoder_url": both.url, "decoder_url": both.url}
        manage = {"encoder_management_url": told, "decoder_management_url": told}
        yield settings(folder, models=(name, "classical"), **urls, **manage)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in an engine server"])
async def test_a_server_answers_clicks_and_phrases_of_one_image_from_one_trunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    installed(tmp_path)
    from labeling_ground.inference.sam3.engine import Sam3Engine

    counted: list[str] = []

    def count(part: str) -> None:
        plain = getattr(Sam3Engine, part)

        def call(*given: Any, **more: Any) -> Any:
            counted.append(part)
            return plain(*given, **more)

        monkeypatch.setattr(Sam3Engine, part, call)

    for part in ("trunk", "embed", "text", "exemplars", "detect"):
        count(part)
    opening = contextlib.ExitStack()
    own = opening.enter_context(engine_server(tmp_path, "sam3")) if elsewhere else None
    app = create_app(build_parts(own or settings(tmp_path, models=("classical", "sam3"))))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    file = io.BytesIO()
    Pillow.fromarray(photo(90, 130)).save(file, "PNG")
    async with (
        _closing(opening),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client,
    ):
        await until(lambda: app.state.model_check == "ok")
        counted.clear()  # of the default model's trial at start
        sent = (await client.post("/v1/images", content=file.getvalue(), params={"model": "sam3"})).json()
        assert (sent["outcome"], sent["model"]) == ("miss", "sam3")
        [about] = [one for one in (await client.get("/v1/models")).json()["models"] if one["id"] == "sam3"]
        assert about["capabilities"] == ["points", "box", "mask", "text", "exemplars"]
        assert elsewhere or about["licence"] == "SAM License"
        assert about["engine"].startswith("in other processes: 1 encoder" if elsewhere else "torch in fp32")
        address = f"/v1/images/{sent['image_id']}"
        stored = (await client.get(f"{address}/embedding", params={"model": "sam3"})).content
        assert {name: x.shape for name, x in safetensors.numpy.load(stored).items()} == {
            "image_embeddings": (1, 32, 8, 8),
            "high_res_features_0": (1, 4, 32, 32),
            "high_res_features_1": (1, 8, 16, 16),
        }
        ask = {"points": [{"x": 60, "y": 40}], "model": "sam3"}
        first, again = [(await client.post(f"{address}/masks", json=ask)).json() for _ in range(2)]
        assert (first["outcome"], again["outcome"]) == ("miss", "hit")
        assert first["masks"] == again["masks"]
        assert [mask["score"] for mask in first["masks"]] == sorted((m["score"] for m in first["masks"]), reverse=True)
        assert np.isfinite([mask["score"] for mask in first["masks"]]).all()
        both = {"phrases": ["screw", "ew"], "model": "sam3", "score_threshold": 0}
        one, two = (await client.post(f"{address}/concepts", json=both)).json()["concepts"]
        assert one["found"] == two["found"] == 12
        assert one["instances"] != two["instances"]
        example = {"text": "screw", "exemplars": [{"box": [10, 10, 60, 50]}], "model": "sam3", "score_threshold": 0}
        [like] = (await client.post(f"{address}/concepts", json=example)).json()["concepts"]
        assert like["instances"] != one["instances"]
        chosen = {"prediction_id": one["prediction_id"], "index": 1}
        refined = await client.post(f"{address}/masks", json={**ask, "mask_input": chosen, "multimask": False})
        assert (refined.status_code, refined.json()["outcome"], len(refined.json()["masks"])) == (200, "miss", 1)
        assert [counted.count(part) for part in ("trunk", "embed", "text", "exemplars", "detect")] == [1, 1, 2, 1, 3]
        too_long = await client.post(f"{address}/concepts", json={"text": "q " * 31, "model": "sam3"})
        assert (too_long.status_code, "shorten it" in too_long.json()["detail"]) == (422, True)
        missing = await client.get("/v1/models/sam3/decoder")
        assert (missing.status_code, "only the server can run it" in missing.json()["detail"]) == (404, True)
