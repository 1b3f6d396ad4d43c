"""Bad input: the right status, a stable type, and a sentence that says what to do. Never a 5xx, never a hang."""

import base64
import io
import json
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image as Pillow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

URN = "urn:labeling-ground:problem:"


def check(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body: dict[str, Any] = answer.json()
    assert (body["type"], body["status"]) == (URN + name, status), body
    assert len(body["detail"]) > 15
    assert len(answer.content) < 10_000
    assert body["title"]
    return body


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG header of any size with little behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


POINT = {"points": [{"x": 5, "y": 5}]}


@pytest.mark.parametrize(
    ("body", "status", "name"),
    [
        (b"", 400, "malformed-body"),
        (b"{", 400, "malformed-body"),
        (b"\xff\xfe\x00", 400, "malformed-body"),
        (b'{"points": [{"x": "\xff", "y": 1}]}', 400, "malformed-body"),
        (b'{"points": [{"x": 1, "y": 1}]} trailing', 400, "malformed-body"),
        (b"[" * 100_000, 400, "malformed-body"),
        (b'{"points":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "malformed-body"),
        (b'{"model": "\\ud800", "points": [{"x": 1, "y": 1}]}', 400, "malformed-body"),
        (b"null", 422, "invalid-request"),
        (b"[]", 422, "invalid-request"),
        (b"{}", 422, "invalid-request"),
        (b'{"points": [{"x": NaN, "y": 1}]}', 422, "invalid-request"),
        (b'{"points": [{"x": Infinity, "y": 1}]}', 422, "invalid-request"),
        (b'{"points": [{"x": 1' + b"0" * 400 + b', "y": 1}]}', 422, "invalid-request"),
        (b'{"points": [{"x": 1e999, "y": 1}]}', 422, "invalid-request"),
        ({"points": [{"x": "1", "y": 1}]}, 422, "invalid-request"),
        ({"points": [{"x": True, "y": 1}]}, 422, "invalid-request"),
        ({"points": [{"x": 1}]}, 422, "invalid-request"),
        ({"points": [[1, 2]]}, 422, "invalid-request"),
        ({"points": {"x": 1, "y": 2}}, 422, "invalid-request"),
        ({"points": [{"x": 1, "y": 1, "label": 7}]}, 422, "invalid-request"),
        ({"points": [{"x": 1, "y": 1, "label": 1.5}]}, 422, "invalid-request"),
        ({**POINT, "labels": [1]}, 422, "invalid-request"),
        ({**POINT, "format": "gif"}, 422, "invalid-request"),
        ({**POINT, "multimask": "yes"}, 422, "invalid-request"),
        ({**POINT, "prompts": [POINT]}, 422, "invalid-request"),
        ({"prompts": []}, 422, "invalid-request"),
        ({"prompts": [{}]}, 422, "invalid-request"),
        ({"prompts": [{**POINT, "format": "png"}]}, 422, "invalid-request"),
        ({"box": [1, 2, 3]}, 422, "invalid-request"),
        ({"mask_input": {"prediction_id": "../../etc"}}, 422, "invalid-request"),
        ({"mask_input": {"prediction_id": "0" * 32, "index": -1}}, 422, "invalid-request"),
        ({"points": [{"x": 1, "y": 1, "label": 0}]}, 422, "bad-prompt"),
        ({"points": [{"x": -0.5, "y": 1}]}, 422, "bad-prompt"),
        ({"points": [{"x": 64.5, "y": 1}]}, 422, "bad-prompt"),
        ({"points": [{"x": 1, "y": 49}]}, 422, "bad-prompt"),
        ({"points": [{"x": 1e300, "y": 1}]}, 422, "bad-prompt"),
        ({"box": [5, 5, 5, 9]}, 422, "bad-prompt"),
        ({"box": [64, 0, 90, 9]}, 422, "bad-prompt"),
        ({"box": [-9, -9, 0, 0]}, 422, "bad-prompt"),
        ({"mask_input": "???"}, 422, "bad-prompt"),
        ({"mask_input": "AAAA"}, 422, "bad-prompt"),
        ({"mask_input": base64.b64encode(b"\x00\x7e" * 65536).decode()}, 422, "bad-prompt"),
        ({"points": [{"x": 1, "y": 1}] * 257}, 413, "too-large"),
        ({"prompts": [POINT] * 65}, 413, "too-large"),
        (b" " * (1 << 20) + b"{}", 413, "too-large"),
        ({**POINT, "model": "sam-vit-h"}, 404, "unknown-model"),
    ],
)
async def test_a_prompt_that_makes_no_sense_is_refused(
    server: "Running", make_image: "Callable[..., bytes]", body: bytes | dict[str, Any], status: int, name: str
) -> None:
    """Each with its own status and type, and the model is never asked."""
    image_id = await server.send_image(make_image(64, 48))
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    check(await server.client.post(f"/v1/images/{image_id}/masks", content=content), status, name)
    assert server.backend.decodes == 0


async def test_the_edge_itself_is_outside(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """A point may be anywhere from 0 up to, but without, the width and the height; also when it shares a cache key."""
    image_id = await server.send_image(make_image(64, 48))
    assert (await server.click(image_id, 63.999, 47.999)).status_code == 200
    check(await server.click(image_id, 64, 5), 422, "bad-prompt")
    check(await server.click(image_id, 5, 48), 422, "bad-prompt")


@pytest.mark.parametrize(
    ("verb", "body", "status", "name"),
    [
        ("image", b"", 400, "malformed-body"),
        ("image", b"\x89PNG", 400, "malformed-body"),
        ("image", {"session_id": "s"}, 422, "invalid-request"),
        ("image", {"session_id": "s", "image": ""}, 422, "invalid-request"),
        ("image", {"session_id": "s", "image": "not base64!"}, 422, "invalid-request"),
        ("image", {"session_id": "s", "image": "data:image/png;base64"}, 422, "invalid-request"),
        ("image", {"session_id": "s", "image": "AAAAA"}, 422, "invalid-request"),
        ("image", {"session_id": "s", "image": "ﾊﾊﾊﾊ"}, 422, "invalid-request"),
        ("image", {"session_id": "s", "image": "AAAA"}, 415, "unsupported-image"),
        ("image", {"session_id": "", "image": "AAAA"}, 422, "invalid-request"),
        ("image", {"session_id": "s" * 513, "image": "AAAA"}, 422, "invalid-request"),
        ("image", {"session_id": 7, "image": "AAAA"}, 422, "invalid-request"),
        ("image", b'{"session_id": "\\udc00", "image": "AAAA"}', 400, "malformed-body"),
        ("click", {"session_id": "s"}, 422, "invalid-request"),
        ("click", {"session_id": "s", "points": []}, 422, "invalid-request"),
        ("click", {"session_id": "s", "points": [1]}, 422, "invalid-request"),
        ("click", {"session_id": "s", "points": [1, 2, 3]}, 422, "invalid-request"),
        ("click", {"session_id": "s", "points": [[1, 2], [3]]}, 422, "invalid-request"),
        ("click", {"session_id": "s", "points": [1, [2, 3]]}, 422, "invalid-request"),
        ("click", {"session_id": "s", "points": ["a", "b"]}, 422, "invalid-request"),
        ("click", {"session_id": "s", "points": [1, 2], "labels": []}, 422, "invalid-request"),
        ("click", {"session_id": "s", "points": [1, 2], "labels": [1, 1]}, 422, "invalid-request"),
        ("click", b'{"session_id": "s", "points": [NaN, 1]}', 422, "invalid-request"),
        ("click", b'{"session_id": "s", "points": [1, 1], "labels": [1' + b"0" * 5000 + b"]}", 400, "malformed-body"),
        ("click", {"session_id": "s", "points": [1, 2], "labels": [7]}, 422, "bad-prompt"),
        ("click", {"session_id": "s", "points": [1, 2], "labels": [0]}, 422, "bad-prompt"),
        ("click", {"session_id": "s", "points": [64, 2]}, 422, "bad-prompt"),
        ("click", {"session_id": "s", "points": [1e308, 2]}, 422, "bad-prompt"),
        ("click", {"session_id": "s", "points": [1, 2] * 257}, 413, "too-large"),
        ("rect", {"session_id": "s", "startX": 1, "startY": 1, "endX": 9}, 422, "invalid-request"),
        ("rect", {"session_id": "s", "startX": 1, "startY": 1, "endX": 1, "endY": 9}, 422, "bad-prompt"),
        ("rect", {"session_id": "s", "startX": 70, "startY": 1, "endX": 80, "endY": 9}, 422, "bad-prompt"),
        ("rect", {"session_id": "s", "startX": 1e30, "startY": 1, "endX": 80, "endY": 9}, 422, "bad-prompt"),
        ("undo", {}, 422, "invalid-request"),
        ("finish_click", [], 422, "invalid-request"),
    ],
)
async def test_a_session_request_that_makes_no_sense_is_refused(
    server: "Running", make_image: "Callable[..., bytes]", verb: str, body: Any, status: int, name: str
) -> None:
    """And the session is what it was before."""
    image = base64.b64encode(make_image(64, 48)).decode()
    assert (await server.client.post("/api/sam/image", json={"session_id": "s", "image": image})).status_code == 200
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    check(await server.client.post(f"/api/sam/{verb}", content=content), status, name)
    after = await server.client.post("/api/sam/click", json={"session_id": "s", "points": [5, 5]})
    assert after.json()["points"] == [{"x": 5, "y": 5, "label": 1}]


def _saved(format: str, mode: str = "RGB") -> bytes:  # noqa: A002
    file = io.BytesIO()
    Pillow.effect_noise((60, 40), 90).convert(mode).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "status", "name"),
    [
        (b"", 400, "malformed-body"),
        (b"not an image", 415, "unsupported-image"),
        (b"{}", 415, "unsupported-image"),
        (_saved("JPEG2000", "RGB"), 415, "unsupported-image"),
        (_saved("TIFF", "F"), 415, "unsupported-image"),
        (_saved("JPEG")[:-200], 400, "damaged-image"),
        (_saved("JPEG")[:20], 400, "damaged-image"),
        (_saved("PNG")[:-30], 400, "damaged-image"),
        (png_that_claims(10, 10), 400, "damaged-image"),
        (png_that_claims(50_000, 50_000), 413, "too-large"),
        (png_that_claims(2**31 - 1, 2**31 - 1), 413, "too-large"),
        (png_that_claims(0, 10), 400, "damaged-image"),
    ],
)
async def test_a_file_that_is_no_good_image_is_refused(server: "Running", file: bytes, status: int, name: str) -> None:
    """In every way in: raw, form, prefetch (as far as its header shows) and session."""
    check(await server.client.post("/v1/images", content=file), status, name)
    check(await server.client.post("/v1/images", files={"file": file}), status, name)
    session = await server.client.post(
        "/api/sam/image", json={"session_id": "s", "image": base64.b64encode(file).decode()}
    )
    if file:
        check(session, status, name)
        queued = await server.client.post("/v1/images?wait=false", content=file)
        assert queued.status_code in (202, status)
    assert server.backend.encodes == 0


async def test_a_file_that_is_too_large_is_refused_however_it_is_sent(start: "Start") -> None:
    """By its declared length, by counting when none is declared, within a form, and in base64."""

    async def pieces() -> "AsyncIterator[bytes]":
        for _ in range(100):
            yield bytes(5_000)

    async with start(max_image_bytes=20_000) as server:
        check(await server.client.post("/v1/images", content=bytes(200_000)), 413, "too-large")
        check(await server.client.post("/v1/images", content=bytes(20_001)), 413, "too-large")
        check(await server.client.post("/v1/images", content=pieces()), 413, "too-large")
        check(await server.client.post("/v1/images", files={"file": bytes(20_001)}), 413, "too-large")
        text = base64.b64encode(bytes(20_001)).decode()
        check(await server.client.post("/api/sam/image", json={"session_id": "s", "image": text}), 413, "too-large")
        check(await server.client.post("/v1/images", content=bytes(20_000)), 415, "unsupported-image")


async def test_the_largest_file_fits_in_base64_with_line_breaks(start: "Start") -> None:
    """What a limit allows is allowed in every form, ``\\r\\n`` after each 76 characters included."""
    async with start(max_image_bytes=6_000_000) as server:
        image = base64.encodebytes(bytes(6_000_000)).decode().replace("\n", "\r\n")
        answer = await server.client.post("/api/sam/image", json={"session_id": "s", "image": image})
        check(answer, 415, "unsupported-image")


async def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """The sentence says how large it is and how large it may be."""
    async with start(max_image_pixels=1000) as server:
        body = check(await server.client.post("/v1/images", content=make_image(64, 48)), 413, "too-large")
        assert "64" in body["detail"]
        assert "1,000" in body["detail"]
    async with start(max_image_side=60) as server:
        body = check(await server.client.post("/v1/images", content=make_image(64, 48)), 413, "too-large")
        assert "a side of at most 60 is accepted" in body["detail"]
        assert server.backend.encodes == 0


# Starlette leaves the file of a form that was cut off to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_forms_that_are_none_are_refused(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """No boundary, nothing in it, no file in it, two files, or cut off."""
    file = make_image()

    async def post(content: bytes, boundary: str = "; boundary=b") -> httpx.Response:
        headers = {"Content-Type": f"multipart/form-data{boundary}"}
        return await server.client.post("/v1/images", content=content, headers=headers)

    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for answer in (
        await post(head + file + b"\r\n--b--\r\n", boundary=""),
        await post(b""),
        await post(b"--b--\r\n"),
        await post(b"nonsense"),
        await post(head + file),
        await post(b"--b\r\nContent-Disposition: form-data\r\n\r\n" + file + b"\r\n--b--\r\n"),
        await post(head + b"\r\n--b--\r\n"),
        await server.client.post("/v1/images", data={"file": "x"}, files={"": b""}),
        await server.client.post("/v1/images", files=[("a", file), ("b", file)]),
        await server.client.post("/v1/images", data={"field": "x" * (1 << 20) + "x"}, files={"a": file}),
        await server.client.post("/v1/images", data={str(number): "x" for number in range(17)}, files={"a": file}),
    ):
        assert check(answer, 400, "malformed-body")["detail"].find("file") > 0, "it says what to send"


@pytest.mark.parametrize("encoding", ["gzip", "br", "x-unknown", "gzip, deflate"])
async def test_compressed_bodies_are_refused_by_name(server: "Running", encoding: str) -> None:
    """415 that says so, instead of «this is no image»; nothing is ever unpacked."""
    packed = zlib.compress(json.dumps(POINT).encode())
    for path in ("/v1/images", f"/v1/images/{'0' * 64}/masks", "/api/sam/click"):
        answer = await server.client.post(path, content=packed, headers={"Content-Encoding": encoding})
        check(answer, 415, "unsupported-encoding")
        assert answer.headers["accept-encoding"] == "identity"
    plain = await server.client.post("/v1/images", content=b"x", headers={"Content-Encoding": "identity"})
    check(plain, 415, "unsupported-image")


@pytest.mark.parametrize(
    "image_id",
    ["short", "G" * 64, "0" * 63, "0" * 65, "0" * 63 + "g", "0" * 64 + "%0A", "%00" * 64, "０" * 64, "9" * 5000],
)
async def test_an_image_id_of_the_wrong_form_is_told_what_an_id_is(server: "Running", image_id: str) -> None:
    """422 with a sentence on how an id is made, on every route that takes one."""
    for answer in (
        await server.client.get(f"/v1/images/{image_id}"),
        await server.client.get(f"/v1/images/{image_id}/embedding"),
        await server.client.delete(f"/v1/images/{image_id}"),
        await server.client.post(f"/v1/images/{image_id}/masks", json=POINT),
    ):
        assert "SHA-256" in check(answer, 422, "invalid-request")["detail"]


@pytest.mark.parametrize(
    "path", ["/nope", "/v1", "/v1/images/", "/v1//images", "/api/sam/everything", "/%00", "/\ufffd"]
)
async def test_a_wrong_path_is_a_problem_too(server: "Running", path: str) -> None:
    """404 that points to the documentation."""
    assert "/docs" in check(await server.client.get(path), 404, "not-found")["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/images", {"POST"}),
        ("PUT", f"/v1/images/{'0' * 64}", {"GET", "HEAD", "DELETE"}),
        ("POST", "/v1/cache", {"GET", "HEAD", "DELETE"}),
        ("OPTIONS", "/v1/cache", {"GET", "HEAD", "DELETE"}),
        ("GET", "/api/sam/click", {"POST"}),
        ("DELETE", "/health/live", {"GET", "HEAD"}),
        ("BREW", "/v1/models", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    server: "Running", method: str, path: str, allowed: set[str]
) -> None:
    """405 whose ``Allow`` names every method of the path, also where two routes share it."""
    answer = await server.client.request(method, path)
    check(answer, 405, "method-not-allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


async def test_bad_queries_are_refused(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """A purge whose pattern could mean more than it says is the one that matters."""
    for model in ("*", "a/b", "", "x" * 65, "TOY", "a%0A"):
        check(await server.client.delete(f"/v1/cache?model={model}"), 422, "invalid-request")
    check(await server.client.post("/v1/images?wait=maybe", content=make_image()), 422, "invalid-request")


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompts": [' + b",".join([b"{}"] * 340_000) + b"]}",
        b'{"points": [' + b",".join([b"1"] * 500_000) + b"]}",
        b"{" + b",".join(b'"%x": 1' % number for number in range(85_000)) + b"}",
        b'{"points": [{"x": 1, "y": 1, "' + b"n" * 1_000_000 + b'": 1}]}',
    ],
    ids=["empty prompts", "numbers", "fields", "a long name"],
)
async def test_a_body_with_a_hundred_thousand_mistakes_is_refused_quickly(server: "Running", content: bytes) -> None:
    """And shortly: the answer neither lists them all nor repeats what was sent."""
    started = time.process_time()
    check(await server.client.post(f"/v1/images/{'0' * 64}/masks", content=content), 422, "invalid-request")
    assert time.process_time() - started < 2.0


async def test_a_finding_says_where_and_what(server: "Running") -> None:
    """Fields are named as the caller wrote them, without the words of our validator."""
    address = f"/v1/images/{'0' * 64}/masks"
    body = check(
        await server.client.post(address, json={"points": [{"x": 1, "y": "no"}], "wat": 1}), 422, "invalid-request"
    )
    assert {finding["where"] for finding in body["errors"]} == {"points.0.y", "wat"}
    body = check(await server.client.post("/api/sam/click", json={"points": [None]}), 422, "invalid-request")
    assert {finding["where"] for finding in body["errors"]} == {"session_id", "points.0"}
    body = check(await server.client.post(address, json={"prompts": [{}]}), 422, "invalid-request")
    assert body["detail"].startswith("prompts.0: the prompt is empty")


async def test_a_bug_of_ours_is_a_problem_and_not_a_stack_trace(
    server: "Running", make_image: "Callable[..., bytes]", caplog: pytest.LogCaptureFixture
) -> None:
    """500 says nothing of the inside; the log has all of it, and the figures count it as 500."""
    image_id = await server.send_image(make_image())
    server.backend.fail_decode = ZeroDivisionError("secret words")
    answer = await server.click(image_id, 5, 5)
    check(answer, 500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]
    assert "secret words" in caplog.text
    assert 'route="/v1/images/{image_id}/masks",status="500"' in (await server.client.get("/metrics")).text


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_health_answers_head(server: "Running", path: str) -> None:
    """Load balancers ask so: the status of ``GET``, and no body."""
    answer = await server.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await server.client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        ("DELETE", "/v1/cache?image={image_id}", "it takes model, image_id"),
        ("DELETE", "/v1/images/{image_id}?model=classical", "in the body"),
        ("POST", "/v1/images?modle=other", "it takes wait, model, stretch"),
        ("POST", "/v1/images/{image_id}/masks?modle=other", "it takes model"),
        ("POST", "/v1/images/{image_id}/everything?points_per_side=2", "it takes model"),
        ("POST", "/v1/upcoming?client=annotator-7", "it takes model"),
    ],
    ids=["purge", "forget", "upload", "masks", "everything", "upcoming"],
)
async def test_a_query_parameter_that_is_not_known_does_nothing_else_in_its_place(
    server: "Running", make_image: "Callable[..., bytes]", method: str, path: str, known: str
) -> None:
    """A misspelt ``image_id`` purged everything; a misspelt ``model`` was answered by the default one."""
    file = make_image()
    image_id = (await server.client.post("/v1/images?wait=true", content=file)).json()["image_id"]
    prompt = {"points": [{"x": 20, "y": 15, "label": 1}]}
    at = path.format(image_id=image_id)
    body = check(await server.client.request(method, at, json=prompt), 422, "invalid-request")
    assert repr(at.partition("?")[2].partition("=")[0]) in body["detail"]
    assert known in body["detail"]
    assert (await server.client.get(f"/v1/images/{image_id}?_=1")).json()["encoded"] is True
