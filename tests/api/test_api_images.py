"""Images go in once, and are known by their digest."""

import asyncio
import base64
import errno
import hashlib
import io
import tempfile
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from PIL import Image as Pillow

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


async def test_a_raw_body_is_answered_with_the_id_that_the_client_can_compute(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """The id is the SHA-256 of the file, and the answer says size, model, outcome and seconds."""
    file = make_image(64, 48)
    answer = (await server.client.post("/v1/images", content=file)).json()
    assert hashlib.sha256(file).hexdigest() == answer["image_id"]
    assert (answer["width"], answer["height"]) == (64, 48)
    assert answer["outcome"] == "miss"
    assert answer["model"] == "toy"
    assert str(server.backend.version) == answer["model_version"]
    assert server.backend.note == answer["note"]
    assert answer["seconds"] > 0


def turned_webp() -> bytes:
    """420 × 300 as stored and as browsers draw it; 300 × 420 by its EXIF orientation. Red at its stored upper left."""
    picture = Pillow.new("RGB", (420, 300), "blue")
    picture.paste("red", (0, 0, 210, 150))
    orientation = Pillow.Exif()
    orientation[274] = 6
    out = io.BytesIO()
    picture.save(out, "WEBP", lossless=True, exif=orientation)
    return out.getvalue()


async def test_what_a_page_draws_is_what_is_segmented(server: "Running") -> None:
    """Every answer gives the size of the decoded image, and the preview is that image."""
    file = turned_webp()
    sent = (await server.client.post("/v1/images", content=file)).json()
    path = f"/v1/images/{sent['image_id']}"
    again = (await server.client.post("/v1/images", content=file)).json()
    state = (await server.client.get(path)).json()
    for answer in (sent, again, state):
        assert (answer["width"], answer["height"], answer["use_preview"]) == (300, 420, True)
    masks = (await server.click(sent["image_id"], 250, 400)).json()
    assert (masks["width"], masks["height"]) == (300, 420)
    for form in ("png", "jpeg"):
        answer = await server.client.get(f"{path}/preview?format={form}")
        assert answer.headers["content-type"] == f"image/{form}"
        drawn = np.asarray(Pillow.open(io.BytesIO(answer.content))).astype(int)
        assert drawn.shape == (420, 300, 3)
        assert np.abs(drawn[20, 280] - (255, 0, 0)).max() < (1 if form == "png" else 6), "turned to the upper right"
        assert np.abs(drawn[20, 20] - (0, 0, 255)).max() < (1 if form == "png" else 6)


async def test_a_preview_needs_the_file_and_not_the_model(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """It is there while the image waits for its encode; without the file the answer says to send it."""
    server.backend.encode_may_go_on.clear()
    file = make_image(64, 48)
    image_id = hashlib.sha256(file).hexdigest()
    unknown = await server.client.get(f"/v1/images/{image_id}/preview")
    assert (unknown.status_code, unknown.json()["image_id"]) == (404, image_id)
    await server.client.post("/v1/images?wait=false", content=file)
    shown = await server.client.get(f"/v1/images/{image_id}/preview")
    server.backend.encode_may_go_on.set()
    np.testing.assert_array_equal(
        np.asarray(Pillow.open(io.BytesIO(shown.content))), np.asarray(Pillow.open(io.BytesIO(file)).convert("RGB"))
    )
    assert not (await server.client.get(f"/v1/images/{image_id}")).json()["use_preview"]


def dark_tiff() -> bytes:
    """Data of 12 bits in a file of 16."""
    values = np.linspace(0, 4095, 64 * 48).astype(np.uint16).reshape(48, 64)
    out = io.BytesIO()
    Pillow.fromarray(values).save(out, "TIFF")
    return out.getvalue()


async def test_a_stretched_image_is_another_image_of_the_same_file(server: "Running") -> None:
    """It has an id of its own, which says how it is read; file, upload and purge are shared."""
    file = dark_tiff()
    digest = hashlib.sha256(file).hexdigest()
    plain = (await server.client.post("/v1/images", content=file)).json()
    assert plain["image_id"] == digest
    assert "stretch=0.5,99.5" in plain["note"]
    again = (await server.client.post("/v1/images", content=file)).json()
    state = (await server.client.get(f"/v1/images/{digest}")).json()
    assert (again["outcome"], again["note"], state["note"]) == ("hit", plain["note"], plain["note"])
    stretched_id = f"{digest}~stretch-1-99"
    # Nobody has sent it with a stretch: the file is there.
    masks = (await server.click(stretched_id, 5, 5)).json()
    assert (masks["image_id"], server.backend.encodes) == (stretched_id, 2)
    stretched = (await server.client.post("/v1/images?stretch=1.00,99", content=file)).json()
    assert (stretched["image_id"], stretched["outcome"]) == (stretched_id, "hit")
    assert (stretched["use_preview"], stretched["note"]) == (True, server.backend.note)
    brightest = []
    for image_id in (digest, stretched_id):
        shown = await server.client.get(f"/v1/images/{image_id}/preview")
        brightest.append(int(np.asarray(Pillow.open(io.BytesIO(shown.content))).max()))
    assert brightest == [15, 255]
    await server.client.delete(f"/v1/images/{stretched_id}")
    for image_id in (digest, stretched_id):
        assert (await server.client.get(f"/v1/images/{image_id}")).status_code == 404


async def test_a_session_can_stretch(server: "Running") -> None:
    body = {"image": base64.b64encode(dark_tiff()).decode(), "session_id": "s", "stretch": "0.5,99.5"}
    opened = (await server.client.post("/api/sam/image", json=body)).json()
    assert opened["image_id"].endswith("~stretch-0.5-99.5")
    click = (await server.client.post("/api/sam/click", json={"points": [5, 5], "session_id": "s"})).json()
    assert (click["image_id"], server.backend.encodes) == (opened["image_id"], 1)


@pytest.mark.parametrize(("stretch", "status"), [("99,1", 400), ("5,5", 400), ("1,101", 400), ("1", 422), ("a,b", 422)])
async def test_percentiles_that_are_none_are_refused(
    server: "Running", make_image: "Callable[..., bytes]", stretch: str, status: int
) -> None:
    answer = await server.client.post(f"/v1/images?stretch={stretch}", content=make_image())
    assert (answer.status_code, "as in stretch=0.5,99.5" in answer.json()["detail"]) == (status, True)
    assert server.backend.encodes == 0


async def test_a_form_means_the_same_as_a_raw_body(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """A multipart upload of the same file is a hit, whatever the field and the file are called."""
    file = make_image()
    image_id = await server.send_image(file)
    answer = await server.client.post("/v1/images", files={"photo": ("näme.png", file)}, data={"comment": "x"})
    assert answer.status_code == 200
    assert (image_id, "hit") == (answer.json()["image_id"], answer.json()["outcome"])


async def test_a_form_for_which_the_disk_has_no_room_is_asked_to_come_again(
    server: "Running", make_image: "Callable[..., bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large forms go through a temporary file. The raw body does not."""

    def no_room(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", no_room)
    file = make_image(1200, 600, "BMP")
    answer = await server.client.post("/v1/images", files={"photo": ("a.bmp", file)})
    assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
    assert "raw body" in answer.json()["detail"]
    assert (await server.client.post("/v1/images", content=file)).status_code == 200


async def test_a_prefetch_is_taken_on_and_the_click_joins_it(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """With ``wait=false`` the answer is 202 at once; a click meanwhile waits for that encode and starts none."""
    server.backend.encode_may_go_on.clear()
    file = make_image()
    image_id = hashlib.sha256(file).hexdigest()
    queued = await server.client.post("/v1/images?wait=false", content=file)
    assert (202, True, image_id) == (queued.status_code, queued.json()["queued"], queued.json()["image_id"])
    state = (await server.client.get(f"/v1/images/{image_id}")).json()
    assert (state["known"], state["encoded"], state["width"], state["height"]) == (True, False, 64, 48)
    assert state["encoding"]
    click = asyncio.create_task(server.click(image_id, 30, 20))
    await server.until_asked(2)
    server.backend.encode_may_go_on.set()
    assert (await click).status_code == 200
    assert server.backend.encodes == 1
    again = await server.client.post("/v1/images?wait=false", content=file)
    assert (again.status_code, again.json()["queued"]) == (202, False)


async def test_an_upload_is_skipped_when_the_id_is_known(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """``GET`` by a computed id says 404 before, and known and encoded after; then masks need no upload."""
    file = make_image(40, 30)
    image_id = hashlib.sha256(file).hexdigest()
    assert (await server.client.get(f"/v1/images/{image_id}")).status_code == 404
    await server.send_image(file)
    state = (await server.client.get(f"/v1/images/{image_id}")).json()
    assert (state["known"], state["encoded"], state["width"], state["height"]) == (True, True, 40, 30)
    assert not state["encoding"]
    assert (await server.click(image_id, 5, 5)).status_code == 200


async def test_ten_clients_with_the_same_new_image_cost_one_encode(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """One is the miss, the nine others joined it."""
    file = make_image()
    server.backend.encode_may_go_on.clear()
    posts = [asyncio.create_task(server.client.post("/v1/images", content=file)) for _ in range(10)]
    await server.until_asked(10)
    server.backend.encode_may_go_on.set()
    outcomes = sorted([(await post).json()["outcome"] for post in posts])
    assert outcomes == ["joined"] * 9 + ["miss"]
    assert server.backend.encodes == 1
    assert (await server.client.post("/v1/images", content=file)).json()["outcome"] == "hit"


async def test_the_embedding_is_a_safetensors_file(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """The package of that name reads it, metadata too, and the answer says where it came from."""
    image_id = await server.send_image(make_image(64, 48))
    answer = await server.client.get(f"/v1/images/{image_id}/embedding")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-outcome"] == "hit"
    tensors = safetensors.numpy.load(answer.content)
    assert list(tensors) == ["toy"]
    assert np.float16 == tensors["toy"].dtype
    length = int.from_bytes(answer.content[:8], "little")
    metadata = httpx.Response(200, content=answer.content[8 : 8 + length]).json()["__metadata__"]
    assert {"width": "64", "height": "48", "image_id": image_id} == {
        name: metadata[name] for name in ("width", "height", "image_id")
    }
    assert str(server.backend.version) == metadata["model_version"]


async def test_a_forgotten_image_is_unknown_and_the_answer_says_send_it_again(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """``DELETE`` takes file, embedding and masks; what comes after is 404 with the remedy, until it is sent again."""
    file = make_image()
    image_id = await server.send_image(file)
    await server.click(image_id, 9, 9)
    await server.app_state.predictor.store.drain()
    gone = await server.client.delete(f"/v1/images/{image_id}")
    assert gone.json()["deleted"] >= 3
    for answer in (
        await server.client.get(f"/v1/images/{image_id}"),
        await server.client.get(f"/v1/images/{image_id}/embedding"),
        await server.click(image_id, 9, 9),
    ):
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:labeling-ground:problem:unknown-image"
        assert image_id == answer.json()["image_id"]
        assert "again" in answer.json()["detail"]
    await server.send_image(file)
    assert (await server.click(image_id, 9, 9)).json()["outcome"] == "miss"
    assert (await server.client.delete(f"/v1/images/{'0' * 64}")).json() == {"deleted": 0}


async def test_an_evicted_embedding_is_computed_again_from_the_kept_file(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """Purging a model's entries leaves the file: the next click is ``recomputed``, and asks for no upload."""
    image_id = await server.send_image(make_image())
    await server.click(image_id, 9, 9)
    await server.app_state.predictor.store.drain()
    assert (await server.client.delete("/v1/cache?model=toy")).json()["deleted"] > 0
    state = (await server.client.get(f"/v1/images/{image_id}")).json()
    assert (state["encoded"], state["encoding"]) == (False, False)
    server.backend.encode_may_go_on.clear()
    click = asyncio.create_task(server.click(image_id, 9, 9))
    await server.until(lambda: server.backend.encodes == 2)
    state = (await server.client.get(f"/v1/images/{image_id}")).json()
    assert (state["encoded"], state["encoding"]) == (False, True)
    server.backend.encode_may_go_on.set()
    assert (await click).json()["outcome"] == "recomputed"
    assert server.backend.encodes == 2


async def test_purging_everything_forgets_every_image(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """``DELETE /v1/cache`` leaves nothing behind in any tier."""
    ids = [await server.send_image(make_image()) for _ in range(3)]
    await server.app_state.predictor.store.drain()
    assert (await server.client.delete("/v1/cache")).json()["deleted"] >= 6
    assert [(await server.client.get(f"/v1/images/{one}")).status_code for one in ids] == [404] * 3
    assert [tier["entries"] for tier in (await server.client.get("/v1/cache")).json()["tiers"]] == [0, 0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP", "AVIF", "GIF", "BMP", "TIFF"])
async def test_all_formats_are_read(
    server: "Running",
    make_image: "Callable[..., bytes]",
    format: str,  # noqa: A002
) -> None:
    """Content decides: no content type, or that of another format, changes nothing."""
    file = make_image(33, 21, format)
    answer = await server.client.post("/v1/images", content=file, headers={"Content-Type": "image/gif"})
    assert (answer.json()["width"], answer.json()["height"]) == (33, 21)


async def test_points_are_pixels_of_the_upright_image(server: "Running") -> None:
    """A photo that EXIF turns by a quarter has its sides swapped, and a click far right of the stored width counts."""
    exif = Pillow.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Pillow.new("RGB", (20, 60)).save(file, "JPEG", exif=exif)
    answer = await server.client.post("/v1/images", content=file.getvalue())
    assert (answer.json()["width"], answer.json()["height"]) == (60, 20)
    assert (await server.click(answer.json()["image_id"], 55, 10)).status_code == 200


async def test_an_unknown_model_is_named_with_what_is_served(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """404, and the sentence lists the models there are, wherever a model can be named."""
    image_id = await server.send_image(make_image())
    for answer in (
        await server.client.post("/v1/images?model=sam-vit-h", content=make_image()),
        await server.client.get(f"/v1/images/{image_id}?model=sam-vit-h"),
        await server.client.get(f"/v1/images/{image_id}/embedding?model=sam-vit-h"),
        await server.click(image_id, 1, 1, model="sam-vit-h"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:labeling-ground:problem:unknown-model")
        assert "toy" in answer.json()["detail"]
    assert (await server.click(image_id, 1, 1, model="toy")).status_code == 200
    served = (await server.client.get("/v1/models")).json()["models"]
    assert [(model["id"], model["default"]) for model in served] == [("toy", True)]


async def test_a_failed_encode_is_503_and_leaves_nothing_behind(
    start: "Start", make_image: "Callable[..., bytes]", backend_failure: Exception
) -> None:
    """A failure is not remembered: when the model is back, the same image is encoded."""
    file = make_image()
    async with start() as server:
        server.backend.fail_encode = backend_failure
        failed = await server.client.post("/v1/images", content=file)
        assert (failed.status_code, failed.headers["retry-after"]) == (503, "1")
        assert failed.json()["type"] == "urn:labeling-ground:problem:backend-failed"
        server.backend.fail_encode = None
        assert (await server.client.post("/v1/images", content=file)).json()["outcome"] == "miss"
