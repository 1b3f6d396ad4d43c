"""SAM 2 and EfficientSAM through the engines and the whole server; ready-made files of others."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image as Pillow
from tests.doubles import encoded, on
from tests.needs import needs
from tests.sam.parity import MASK, photo
from tests.sam.ready_made import efficient_sam, efficient_sam_modules, osam_sam2, renamed
from tests.sam.references import TOLERANCE
from tests.sam.references_sam2 import exported_sam2

from labeling_ground.api.app import create_app
from labeling_ground.codec.records import open_embedding, seal_embedding
from labeling_ground.errors import BadPrompt, BadSettings
from labeling_ground.inference.sam import SamBackend
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.family import Family
from labeling_ground.settings import Settings
from labeling_ground.types import Box, Image, Mask, Point, Prompt
from labeling_ground.wiring import build_backend, build_parts

pytestmark = pytest.mark.anyio

HEIGHT, WIDTH = 211, 307
CLICK, BOX = Point(100, 50, 1), Box(20, 30, 250, 200)
PROMPTS = (
    Prompt((CLICK,)),
    Prompt((CLICK,), multimask=False),
    Prompt((CLICK, Point(3, 200, 0)), multimask=False),
    Prompt((), BOX),
    Prompt((CLICK,), BOX, MASK),
)
ROLES = {"encoder": Role.ENCODER, "decoder": Role.DECODER, "decoder-fast": Role.FAST_DECODER}


def image() -> Image:
    return Image("0" * 64, photo(HEIGHT, WIDTH))


def installed(folder: Path, files: Path, name: str, family: str) -> Path:
    """A model store with one model of the user's own."""
    store = ModelStore(folder / "models")
    for file in sorted(files.glob("*.onnx")):
        store.add(file, name=name, role=ROLES[file.stem], family=family)
    return folder / "models"


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def paths(folder: Path) -> dict[str, Any]:
    found = {"encoder_path": folder / "encoder.onnx", "decoder_path": folder / "decoder.onnx"}
    fast = folder / "decoder-fast.onnx"
    return {**found, **({"fast_decoder_path": fast} if fast.is_file() else {}), "model": "m"}


def onnx_backend(folder: Path) -> SamBackend:
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    return create(1, 2, **paths(folder))


def alike(ours: Mask, theirs: Mask, tolerance: float = TOLERANCE) -> None:
    assert np.abs(ours.logits - theirs.logits).max() < tolerance
    assert ours.score == pytest.approx(theirs.score, abs=tolerance)
    assert (ours.pixels == theirs.pixels).mean() > 0.999


# -- SAM 2 -----------------------------------------------------------------------------------------------------------


async def test_half_precision_in_the_cache_does_no_harm() -> None:
    backend = onnx_backend(exported_sam2()[0])
    [embedding] = await backend.encode([image()])
    assert {name: x.shape for name, x in embedding.tensors.items()} == Family.SAM2.embedding_shapes
    kept = open_embedding(seal_embedding("k", embedding, cost=1.0, created=0.0, precision="fp16"), "k")
    assert {x.dtype.name for x in kept.tensors.values()} == {"float16"}
    assert kept.nbytes == 8 << 20
    exact, cached = await backend.decode(on(embedding, PROMPTS)), await backend.decode(on(kept, PROMPTS))
    for a, b in zip(exact, cached, strict=True):
        assert np.abs(a.masks[0].logits - b.masks[0].logits).max() < 5e-3
    await backend.aclose()


async def test_openvino_gives_the_same_masks() -> None:
    needs("openvino")
    from labeling_ground.inference.openvino import create

    onnx, openvino = onnx_backend(exported_sam2()[0]), create(1, 2, **paths(exported_sam2()[0]))
    assert openvino.info.version == onnx.info.version
    mine, other = await encoded(onnx, image()), await encoded(openvino, image())
    assert max(np.abs(mine.tensors[name] - other.tensors[name]).max() for name in mine.tensors) < TOLERANCE
    several = [*PROMPTS, Prompt(tuple(Point(7 * i, 5 * i, i % 2) for i in range(30)))]
    for a, b in zip(await onnx.decode(on(mine, several)), await openvino.decode(on(mine, several)), strict=True):
        for one, two in zip(a.masks, b.masks, strict=True):
            alike(one, two)
    await onnx.aclose()
    await openvino.aclose()


async def test_a_server_serves_sam_2_and_answers_from_its_cache(tmp_path: Path) -> None:
    needs("onnxruntime")
    models = installed(tmp_path, exported_sam2()[0], "my-sam2", "sam2")
    settings = Settings(models_dir=models, cache_dir=tmp_path / "cache", model="my-sam2", engine="onnx")
    parts = build_parts(settings)
    app = create_app(parts)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client,
    ):
        [model] = (await client.get("/v1/models")).json()["models"]
        assert (model["id"], model["default"]) == ("my-sam2", True)
        assert model["engine"].startswith("onnx in fp32")
        assert "note" not in model
        file = png(photo(90, 130))
        sent = await client.post("/v1/images", content=file)
        assert (sent.status_code, sent.json()["outcome"], sent.json()["model"]) == (200, "miss", "my-sam2")
        image_id = sent.json()["image_id"]
        assert (await client.post("/v1/images", content=file)).json()["outcome"] == "hit"
        tensors = safetensors.numpy.load((await client.get(f"/v1/images/{image_id}/embedding")).content)
        assert {name: x.shape for name, x in tensors.items()} == Family.SAM2.embedding_shapes
        assert {x.dtype.name for x in tensors.values()} == {"float16"}
        ask = {"points": [{"x": 60, "y": 40}]}
        first, again = [await client.post(f"/v1/images/{image_id}/masks", json=ask) for _ in range(2)]
        assert (first.json()["outcome"], again.json()["outcome"]) == ("miss", "hit")
        assert first.json()["masks"] == again.json()["masks"]
        assert len(first.json()["masks"]) == 3


async def test_osams_ready_made_files_give_what_our_own_export_gives() -> None:
    """The graph pads by itself, wants the image's size in whole numbers and calls the finer features otherwise."""
    theirs, ours = onnx_backend(osam_sam2()), onnx_backend(exported_sam2()[0])
    assert theirs.engine.family is Family.SAM2
    [embedding] = await theirs.encode([image()])
    [expected] = await ours.encode([image()])
    assert all((embedding.tensors[name] == x).all() for name, x in expected.tensors.items())
    for a, b in zip(await theirs.decode(on(embedding, PROMPTS)), await ours.decode(on(expected, PROMPTS)), strict=True):
        for one, two in zip(a.masks, b.masks, strict=True):
            alike(one, two, 1e-4)
    [alone] = await theirs.decode(on(embedding, [Prompt((), None, MASK)]))
    assert len(alone.masks) == 3
    await theirs.aclose()
    await ours.aclose()


# -- EfficientSAM ----------------------------------------------------------------------------------------------------


def ask_efficient_sam(pixels: NDArray[np.uint8], prompt: Prompt) -> tuple[NDArray[Any], NDArray[Any]]:
    """Full-size logits and scores, the best first, as the authors' example asks for them: at the image's own size."""
    torch = needs("torch")
    encoder, decoder = efficient_sam_modules()
    rows = [(p.x, p.y, p.label) for p in prompt.points]
    if prompt.box is not None:
        rows += [(prompt.box.x0, prompt.box.y0, 2), (prompt.box.x1, prompt.box.y1, 3)]
    with torch.inference_mode():
        features = encoder(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
        coords = torch.tensor([[[row[:2] for row in rows]]], dtype=torch.float32)
        labels = torch.tensor([[[row[2] for row in rows]]], dtype=torch.float32)
        masks, scores, _ = decoder(features, coords, labels, torch.tensor(pixels.shape[:2]))
    best_first = np.argsort(-scores[0, 0].numpy(), kind="stable")
    return masks[0, 0].numpy()[best_first], scores[0, 0].numpy()[best_first]


@pytest.mark.parametrize("size", [(211, 307), (1300, 700), (1, 37)])
async def test_efficient_sams_masks_are_those_of_its_authors_example(size: tuple[int, int]) -> None:
    backend = onnx_backend(efficient_sam())
    assert backend.engine.family is Family.EFFICIENT_SAM
    pixels = photo(*size)
    height, width = size
    [embedding] = await backend.encode([Image("0" * 64, pixels)])
    clicks = tuple(Point(width * i / 7, height * i / 7, i % 2) for i in range(1, 7))
    box = Box(0, 0, width / 2, height / 2)
    asked = [
        Prompt(clicks[:1]),
        Prompt(clicks),
        Prompt((), box),
        Prompt(clicks[:4], box),
        Prompt((), box, multimask=False),
    ]
    for prompt, made in zip(asked, await backend.decode(on(embedding, asked)), strict=True):
        full, scores = ask_efficient_sam(pixels, prompt)
        assert len(made.masks) == (3 if prompt.multimask else 1)
        for i, mask in enumerate(made.masks):
            assert mask.score == pytest.approx(float(scores[i]), abs=1e-5)
            wrong = mask.pixels != (full[i] > 0)
            assert np.abs(full[i][wrong]).max(initial=0) < TOLERANCE
    await backend.aclose()


async def test_efficient_sam_refuses_in_words_what_it_cannot_read() -> None:
    backend = onnx_backend(efficient_sam())
    assert backend.info.capabilities == ("points", "box")
    [embedding] = await backend.encode([image()])
    with pytest.raises(BadPrompt, match="no mask_input"):
        await backend.decode(on(embedding, [Prompt((CLICK,), None, MASK)]))
    with pytest.raises(BadPrompt, match=r"at most 6 points.*has 7"):
        await backend.decode(on(embedding, [Prompt((CLICK,) * 5, BOX)]))
    await backend.aclose()


async def test_sessions_click_on_with_a_model_that_has_no_mask_input(tmp_path: Path) -> None:
    needs("onnxruntime")
    models = installed(tmp_path, efficient_sam(), "my-esam", "efficient-sam")
    settings = Settings(models_dir=models, cache_dir=tmp_path / "cache", model="my-esam", engine="auto")
    app = create_app(build_parts(settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client,
    ):
        picture = base64.b64encode(png(photo(90, 130))).decode()
        opened = await client.post("/api/sam/image", json={"image": picture, "session_id": "s"})
        assert (opened.status_code, opened.json()["model"]) == (200, "my-esam")
        for i in range(6):
            click = {"points": [10 + 9 * i, 20 + 5 * i], "labels": [1], "session_id": "s"}
            answer = await client.post("/api/sam/click", json=click)
            assert answer.status_code == 200, answer.text
        seventh = await client.post("/api/sam/click", json={"points": [3, 3], "labels": [0], "session_id": "s"})
        assert seventh.status_code == 422
        assert "at most 6 points" in seventh.json()["detail"]
        refined = {"points": [{"x": 1, "y": 1}], "mask_input": base64.b64encode(MASK.tobytes()).decode()}
        answer = await client.post(f"/v1/images/{opened.json()['image_id']}/masks", json=refined)
        assert answer.status_code == 422
        assert "no mask_input" in answer.json()["detail"]


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [osam_sam2, efficient_sam])
def test_openvino_leaves_others_dialects_to_onnx_runtime(files: Any) -> None:
    needs("openvino")
    from labeling_ground.inference.openvino import create

    with pytest.raises(BadSettings, match="need the engine onnx"):
        create(1, 1, **paths(files()))


@pytest.mark.parametrize(
    ("file", "names", "words"),
    [
        ("encoder", {"high_res_features_0": "fine"}, "The encoder gives no high_res_features_0"),
        ("decoder", {"high_res_features_0": "fine"}, "The decoder wants a tensor 'fine'"),
        ("decoder", {"low_res_masks": "masks"}, "The decoder gives no low_res_masks"),
    ],
)
def test_tensors_of_no_known_name_are_refused_at_start(
    tmp_path: Path, file: str, names: dict[str, str], words: str
) -> None:
    given = paths(exported_sam2()[0]) | {f"{file}_path": tmp_path / "strange.onnx"}
    del given["fast_decoder_path"]
    renamed(exported_sam2()[0] / f"{file}.onnx", tmp_path / "strange.onnx", names)
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    with pytest.raises(BadSettings, match=rf"{words}.*labeling-ground models export"):
        create(1, 1, **given)


def test_files_of_another_family_than_the_models_are_refused(tmp_path: Path) -> None:
    needs("onnxruntime")
    models = installed(tmp_path, efficient_sam(), "mine", "sam2")
    with pytest.raises(BadSettings, match="of the family sam2, but its files have the tensors of efficient-sam"):
        build_backend(Settings(models_dir=models, model="mine", engine="onnx", disk_bytes=0))
