"""Masks for prompts: the same one is never computed twice, and it comes in the form that was asked for."""

import asyncio
import base64
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skimage
from PIL import Image as Pillow
from pycocotools import mask as coco
from tests.api.conftest import from_rle

from labeling_ground.codec.mask import to_png, to_rle
from labeling_ground.sam.geometry import longest_side
from labeling_ground.sam.prompts import low_res_logits
from labeling_ground.types import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from tests.api.conftest import Running, Start

# pycocotools decodes through a class that numpy 2 finds old-fashioned.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


def from_png(text: str) -> "NDArray[np.bool_]":
    picture = Pillow.open(io.BytesIO(base64.b64decode(text)))
    assert picture.mode == "1"
    return np.asarray(picture)


def from_polygons(rings: list[list[list[float]]], height: int, width: int) -> "NDArray[np.bool_]":
    rle = coco.merge(
        coco.frPyObjects([[number for point in ring for number in point] for ring in rings], height, width)
    )
    return np.asarray(coco.decode(rle)).astype(np.bool_)


async def test_answers_that_are_written_once_are_those_that_are_written_anew(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """In every form, alone and among others, in a session too; with and without memory for written answers."""
    file = make_image(64, 48)
    alone = [{"points": [{"x": 30, "y": 20}], "format": form} for form in ("rle", "png", "polygons")]
    among = [{"prompts": [{"points": [{"x": 30, "y": 20}]}, {"box": [3, 4, 30, 40]}], "format": "rle"}]
    found: list[list[dict[str, Any]]] = []
    for answers_bytes in (1 << 20, 0):
        async with start(answers_bytes=answers_bytes) as server:
            image_id = await server.send_image(file)
            opening = {"image": base64.b64encode(file).decode(), "session_id": "s"}
            await server.client.post("/api/sam/image", json=opening)
            path = f"/v1/images/{image_id}/masks"
            bodies = (*alone, *alone, *among, *among)
            answers = [(await server.client.post(path, json=body)).json() for body in bodies]
            for _ in range(3):
                click = {"points": [30, 20], "labels": [1], "session_id": "s"}
                answers.append((await server.client.post("/api/sam/click", json=click)).json())
                await server.client.post("/api/sam/finish_click", json={"session_id": "s"})
            first = "hit" if found else "miss"  # the second server finds them on disk
            outcomes = [answer["outcome"] for answer in answers]
            assert outcomes == [first, *["hit"] * 5, first, "hit", *["hit"] * 3]
            for answer in answers:
                for part in (answer, *answer.get("predictions", ())):
                    for changing in ("outcome", "seconds", "timing"):
                        part.pop(changing, None)
            assert answers[:3] == answers[3:6]
            assert answers[6] == answers[7]
            assert answers[8] == answers[9] == answers[10]
            assert answers[6]["predictions"][0]["masks"] == answers[0]["masks"]
            found.append(answers)
    assert found[0] == found[1]


async def test_a_written_answer_does_not_outlive_what_it_was_written_of(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image(64, 48)
    image_id = await server.send_image(file)
    for _ in range(2):
        before = (await server.click(image_id, 30, 20)).json()
    await server.client.delete(f"/v1/images/{image_id}")
    assert (await server.click(image_id, 30, 20)).status_code == 404
    await server.send_image(file)
    after = (await server.click(image_id, 30, 20)).json()
    assert (before["outcome"], after["outcome"]) == ("hit", "miss")
    assert after["masks"] == before["masks"]


async def test_the_second_ask_is_a_hit_with_the_same_answer(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """Image in, mask out, and the second ask costs the model nothing."""
    image_id = await server.send_image(make_image(64, 48))
    first = (await server.click(image_id, 30, 20)).json()
    second = (await server.click(image_id, 30, 20)).json()
    assert (first["outcome"], second["outcome"]) == ("miss", "hit")
    assert server.backend.decodes == 1
    for changing in ("outcome", "seconds", "timing"):
        del first[changing], second[changing]
    assert first == second
    assert len(first["masks"]) == 3
    assert first["scores"] == [mask["score"] for mask in first["masks"]] == sorted(first["scores"], reverse=True)
    assert from_rle(first["masks"][0]["rle"])[20, 30]


async def test_all_forms_say_the_same_mask(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """COCO's own decoder, a 1-bit PNG and polygons agree, and area and bbox are those of the mask."""
    image_id = await server.send_image(make_image(64, 48))
    forms = {
        form: (await server.click(image_id, 30, 20, format=form)).json()["masks"] for form in ("rle", "png", "polygons")
    }
    for rle, png, polygons in zip(forms["rle"], forms["png"], forms["polygons"], strict=True):
        mask = from_rle(rle["rle"])
        assert mask.shape == (48, 64)
        assert np.array_equal(mask, from_png(png["png"]))
        drawn = from_polygons(polygons["polygons"], 48, 64)
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.8
        assert rle["area"] == png["area"] == polygons["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        left, top, width, height = rle["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
        assert {"rle", "png", "polygons"} & rle.keys() == {"rle"}
    assert server.backend.decodes == 1


async def test_the_order_of_points_and_corners_does_not_matter(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """A prompt that means the same is the same prompt."""
    image_id = await server.send_image(make_image())
    points = [{"x": 30, "y": 20, "label": 1}, {"x": 3.5, "y": 2, "label": 0}, {"x": 33, "y": 21}]
    address = f"/v1/images/{image_id}/masks"
    assert (await server.client.post(address, json={"points": points, "box": [2, 2, 60, 40]})).status_code == 200
    random.shuffle(points)
    again = await server.client.post(address, json={"points": points, "box": [60.0, 40, 2, 2.0]})
    assert again.json()["outcome"] == "hit"


async def test_many_prompts_are_answered_in_their_order(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """One answer a prompt; the whole is as dear as its dearest."""
    image_id = await server.send_image(make_image())
    await server.click(image_id, 50, 40)
    prompts = [{"points": [{"x": 10, "y": 10}]}, {"points": [{"x": 50, "y": 40}]}, {"box": [20, 20, 30, 30]}]
    answer = (await server.client.post(f"/v1/images/{image_id}/masks", json={"prompts": prompts})).json()
    assert [one["outcome"] for one in answer["predictions"]] == ["miss", "hit", "miss"]
    assert answer["outcome"] == "miss"
    found = [from_rle(one["masks"][0]["rle"]) for one in answer["predictions"]]
    assert [bool(mask[y, x]) for mask, (x, y) in zip(found, [(10, 10), (50, 40), (25, 25)], strict=True)] == [True] * 3
    assert "masks" not in answer
    single = (await server.client.post(f"/v1/images/{image_id}/masks", json={"prompts": prompts[:1]})).json()
    assert (single["outcome"], len(single["predictions"])) == ("hit", 1)


async def test_one_mask_is_given_where_one_is_wanted(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """``multimask: false`` is another question than ``true``, with one answer."""
    image_id = await server.send_image(make_image())
    await server.click(image_id, 9, 9)
    single = (await server.click(image_id, 9, 9, multimask=False)).json()
    assert (single["outcome"], len(single["masks"])) == ("miss", 1)


async def test_fifty_identical_asks_at_once_are_one_computation(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """The one that computes is the only ``miss``."""
    image_id = await server.send_image(make_image())
    server.backend.decode_may_go_on.clear()
    asks = [asyncio.create_task(server.click(image_id, 9, 9)) for _ in range(50)]
    await server.until_asked(50)
    server.backend.decode_may_go_on.set()
    outcomes = [(await ask).json()["outcome"] for ask in asks]
    assert outcomes.count("miss") == 1
    assert outcomes.count("joined") == 49
    assert server.backend.decodes == 1


async def test_a_click_carries_little(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """Less than a kilobyte travels to the server for a click on a known image, headers included."""
    image_id = await server.send_image(make_image())
    request = (await server.click(image_id, 123.4375, 456.015625 - 440)).request
    head = len(str(request.url)) + sum(len(name) + len(value) + 4 for name, value in request.headers.raw)
    assert head + len(request.content) < 1024


async def test_a_mask_can_be_refined_by_reference_and_by_value(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """Naming an earlier prediction means its logits: sending those by value is the same prompt, hence a hit."""
    image_id = await server.send_image(make_image())
    first = (await server.click(image_id, 9, 9)).json()
    reference = {"prediction_id": first["prediction_id"], "index": 2}
    refined = await server.click(image_id, 20, 20, mask_input=reference)
    assert (refined.status_code, refined.json()["outcome"]) == (200, "miss")
    assert refined.json()["prediction_id"] != (await server.click(image_id, 20, 20)).json()["prediction_id"]
    for kind in ("<f2", "<f4"):
        value = base64.b64encode(np.full((256, 256), 3.0, kind).tobytes()).decode()
        by_value = (await server.click(image_id, 20, 20, mask_input=value)).json()
        assert (by_value["outcome"], by_value["prediction_id"]) == ("hit", refined.json()["prediction_id"])
    only = await server.client.post(f"/v1/images/{image_id}/masks", json={"mask_input": reference})
    assert only.status_code == 200
    unknown = await server.click(image_id, 20, 20, mask_input={"prediction_id": "0" * 32})
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:labeling-ground:problem:unknown-prediction")


async def test_any_mask_in_the_images_pixels_can_be_refined(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """As RLE, as PNG, and as the logits that it comes to, it is one prompt; another mask is another one."""
    image_id = await server.send_image(make_image(64, 48))
    mask = np.zeros((48, 64), np.bool_)
    mask[8:40, 16:48] = True
    rle, png = to_rle(mask), base64.b64encode(to_png(mask)).decode()
    first = await server.click(image_id, 20, 20, mask_input={"rle": rle})
    assert (first.status_code, first.json()["outcome"]) == (200, "miss")
    logits = low_res_logits(mask, longest_side(48, 64)).astype("<f4")
    for same in ({"png": png}, base64.b64encode(logits.tobytes()).decode()):
        again = (await server.click(image_id, 20, 20, mask_input=same)).json()
        assert (again["outcome"], again["prediction_id"]) == ("hit", first.json()["prediction_id"])
    assert (await server.click(image_id, 20, 20, mask_input={"rle": to_rle(~mask)})).json()["outcome"] == "miss"
    alone = await server.client.post(f"/v1/images/{image_id}/masks", json={"mask_input": {"png": png}})
    assert (alone.status_code, alone.json()["outcome"]) == (200, "miss")


@pytest.mark.parametrize(
    ("mask_input", "says"),
    [
        ({"rle": {"size": [64, 48], "counts": "PP3"}}, "48 × 64 pixels, and the image 64 × 48"),
        ({"rle": {"size": [24, 32], "counts": "Ph0"}}, "32 × 24 pixels, and the image 64 × 48"),
        ({"rle": {"size": [48, 64], "counts": "Ph0"}}, "do not add up to its size"),
        ({"rle": {"size": [0, 64], "counts": "0"}}, "two positive whole numbers"),
        ({"rle": {"size": [48], "counts": "0"}}, "mask_input.rle.size"),
        ({"png": "AAAA"}, "not a PNG file"),
        ({"png": "b'AAAA'"}, "mask_input.png is what Python shows of bytes"),
        ({"png": None}, "as rle or as png"),
        ({"png": "AAAA", "rle": {"size": [48, 64], "counts": "0"}}, "not both"),
        ({"index": 0}, "mask_input.prediction_id"),
        (7, "mask_input: Input should be a valid string"),
    ],
    ids=["turned", "half", "runs", "none", "one-side", "no-png", "python", "neither", "both", "no-id", "number"],
)
async def test_a_mask_that_cannot_be_refined_is_refused_and_said_why(
    server: "Running", make_image: "Callable[..., bytes]", mask_input: object, says: str
) -> None:
    image_id = await server.send_image(make_image(64, 48))
    for _ in range(2):  # also where its logits are in the cache by now
        refused = await server.click(image_id, 20, 20, mask_input=mask_input)
        assert (refused.status_code, says in refused.json()["detail"]) == (422, True), refused.text


async def test_a_mask_larger_than_any_image_here_is_refused(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    image_id = await server.send_image(make_image(64, 48))
    refused = await server.click(image_id, 20, 20, mask_input={"rle": {"size": [90000, 90000], "counts": "0"}})
    assert (refused.status_code, "images of at most" in refused.json()["detail"]) == (413, True)


async def test_a_box_over_the_edge_is_cut_off(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """What lies outside the image is not an error as long as a part is inside."""
    image_id = await server.send_image(make_image(64, 48))
    answer = await server.client.post(f"/v1/images/{image_id}/masks", json={"box": [-100, -5, 10, 1e6]})
    assert answer.status_code == 200
    assert answer.json()["masks"][0]["bbox"] == [0, 0, 10, 48]


async def test_a_decoder_that_fails_is_503_and_is_asked_again(
    server: "Running", make_image: "Callable[..., bytes]", backend_failure: Exception
) -> None:
    """A failure is never stored."""
    image_id = await server.send_image(make_image())
    server.backend.fail_decode = backend_failure
    failed = await server.click(image_id, 9, 9)
    assert (failed.status_code, failed.json()["type"]) == (503, "urn:labeling-ground:problem:backend-failed")
    assert int(failed.headers["retry-after"]) >= 1
    server.backend.fail_decode = None
    assert (await server.click(image_id, 9, 9)).json()["outcome"] == "miss"


async def test_timings_are_in_the_body_and_in_the_header(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """A miss says look-up, decode (and encode, when it had to), a hit only its look-up."""
    image_id = await server.send_image(make_image())
    miss = await server.click(image_id, 9, 9)
    assert miss.json()["timing"].keys() == {"lookup", "decode"}
    assert [part.split(";")[0] for part in miss.headers["server-timing"].split(", ")] == ["lookup", "decode", "total"]
    hit = await server.click(image_id, 9, 9)
    assert hit.json()["timing"].keys() == {"lookup"}
    await server.client.delete("/v1/cache?model=toy")
    again = await server.click(image_id, 9, 9)
    assert again.json()["timing"].keys() == {"lookup", "encode", "decode"}
    assert again.json()["outcome"] == Outcome.RECOMPUTED


async def test_the_weight_free_engine_finds_the_cup(start: "Start") -> None:
    """End to end on a photograph: a box and a click give a mask inside the box, and the answer says it is no SAM."""
    photo = Path(skimage.__file__).parent / "data" / "coffee.png"
    async with start(real_engine=True) as server:
        image_id = await server.send_image(photo.read_bytes())
        answer = (
            await server.client.post(
                f"/v1/images/{image_id}/masks",
                json={"points": [{"x": 300, "y": 200}], "box": [160, 60, 440, 350], "format": "png"},
            )
        ).json()
        mask = from_png(answer["masks"][0]["png"])
        assert mask.shape == (400, 600)
        assert 0.2 < mask[60:350, 160:440].mean() <= 1
        assert mask[60:350, 160:440].sum() > 0.9 * mask.sum()
        assert answer["model"] == "classical"
        assert "SAM" in answer["note"] or "Segment Anything" in answer["note"]
        again = (await server.click(image_id, 300, 200)).json()
        assert again["outcome"] == "miss"
        assert (await server.click(image_id, 300, 200)).json()["outcome"] == "hit"
