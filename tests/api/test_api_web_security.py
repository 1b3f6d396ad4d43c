"""Which names the server answers to, and what other web sites' pages may do with it."""

import base64
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import ValidationError

from labeling_ground.api.app import create_app
from labeling_ground.api.schemas.common import EXAMPLE_ID, EXAMPLE_IMAGE
from labeling_ground.engine_server.app import create_engine_app
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

KEY = {"X-API-Key": "one"}
HERE = {"Host": "label.example:8000"}
"""As on plain http to another machine, where browsers send no Sec-Fetch headers."""
FORM = "application/x-www-form-urlencoded"
FILE = base64.b64decode(EXAMPLE_IMAGE)
CLICK = {"points": [{"x": 32, "y": 24}]}
MASKS = f"/v1/images/{EXAMPLE_ID}/masks"


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


# --- the name that a request is for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("localhost.", 200),
        ("lab.localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("192.168.1.20:8000", 200),
        ("[::1]:8000", 200),
        ("gpubox", 200),
        ("GPUbox.:8000", 200),
        ("a.b.lab.example", 200),
        ("evil.example", 421),
        ("lab.example", 421),
        ("evillab.example", 421),
        ("gpubox.evil.example", 421),
        ("localhost.evil.example", 421),
        ("evillocalhost", 421),
        ("127.0.0.1.evil.example", 421),
        ("[evil.example]:80", 421),
        ("", 421),
        ("a b", 421),
        ("\u00fc", 421),
    ],
)
async def test_only_names_that_were_given_are_answered(start: "Start", host: str, status: int) -> None:
    """A page whose name was made to lead here (DNS rebinding) sends that name; an address cannot be made to."""
    async with start(allowed_hosts=("gpubox", "*.lab.example")) as server:
        for method, path in (("GET", "/v1/cache"), ("GET", "/"), ("GET", "/metrics"), ("DELETE", "/v1/cache")):
            answer = await server.client.request(method, path, headers=[(b"Host", host.encode("latin-1"))])
            assert answer.status_code == status, (path, answer.text)
            if status == 421:
                assert answer.json()["type"] == "urn:labeling-ground:problem:unknown-host"
                assert "LABELING_GROUND_ALLOWED_HOSTS" in answer.json()["detail"]


async def test_the_name_to_listen_on_is_one(start: "Start") -> None:
    async with start(host="GPUbox", allowed_hosts=()) as server:
        assert (await server.client.get("/v1/cache", headers={"Host": "gpubox:8000"})).status_code == 200
        assert (await server.client.get("/v1/cache", headers={"Host": "server"})).status_code == 421


async def test_with_keys_any_name_will_do_until_names_are_given(start: "Start") -> None:
    """A server behind a proxy goes on working: what a foreign page cannot send is the key."""
    host = {"Host": "label.example", **KEY}
    async with start(api_keys=("one",), allowed_hosts=()) as server:
        assert (await server.client.get("/v1/cache", headers=host)).status_code == 200
    async with start(api_keys=("one",), allowed_hosts=("other.example",)) as server:
        assert (await server.client.get("/v1/cache", headers=host)).status_code == 421
    async with start(admin_key="root", allowed_hosts=()) as server:
        assert (await server.client.get("/v1/cache", headers=host)).status_code == 421


@pytest.mark.parametrize("name", ["https://label.example", "label.example:8000", "a/b", "a b", "*.", "a*b", "[::1]"])
def test_a_host_name_that_is_none_stops_the_start(name: str) -> None:
    with pytest.raises(ValidationError, match="without scheme and port"):
        Settings(allowed_hosts=(name,))


# --- whose page sends it --------------------------------------------------------------------------------------------

FOREIGN: dict[str, dict[str, str]] = {
    "another site's script": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    "another port's script": {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
    "a sandboxed frame": {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    "a script over plain http": HERE | {"Origin": "http://evil.example"},
    "another port over plain http": HERE | {"Origin": "http://label.example:3000"},
    "a sandboxed frame over plain http": HERE | {"Origin": "null"},
    "an image": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    "an object": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "object"},
    "an embed": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "embed"},
    "a frame": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
}
OURS: dict[str, dict[str, str]] = {
    "curl": {},
    "our page": {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8000"},
    "our page behind a proxy": {"Sec-Fetch-Site": "same-origin", "Origin": "https://label.example"},
    "the address bar": {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    "our page over plain http": HERE | {"Origin": "http://label.example:8000"},
    "our page behind a proxy that names the port": {"Host": "label.example:80", "Origin": "http://label.example"},
    "our page behind a proxy that rewrites Host": {
        "Host": "127.0.0.1:8000",
        "X-Forwarded-Host": "label.lan",
        "Origin": "http://label.lan",
    },
}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
ASKS: list[tuple[str, str, Any]] = [
    ("GET", "/v1/cache", None),
    ("GET", "/", None),
    ("GET", "/health/ready", None),
    ("GET", f"/v1/images/{EXAMPLE_ID}", None),
    ("GET", f"/v1/images/{'0' * 64}", None),
    ("POST", MASKS, CLICK),
    ("POST", "/api/sam/undo", {"session_id": "s"}),
    ("DELETE", "/v1/cache", None),
    ("OPTIONS", "/v1/cache", None),
]


@pytest.mark.parametrize("who", FOREIGN)
@pytest.mark.parametrize("keys", [(), ("one",)])
async def test_pages_of_other_origins_are_refused(start: "Start", who: str, keys: tuple[str, ...]) -> None:
    """The same 403 for all that they ask, so that neither load nor error tells which image is known here."""
    async with start(allowed_hosts=("label.example", "server"), api_keys=keys) as server:
        image_id = await server.send_image(FILE, **KEY)
        for method, path, body in ASKS:
            answer = await server.client.request(method, path, json=body, headers=FOREIGN[who] | KEY)
            assert problem(answer) == (403, "cross-site"), (method, path)
        assert (await server.client.get(f"/v1/images/{image_id}", headers=KEY)).status_code == 200


@pytest.mark.parametrize("who", OURS)
async def test_our_own_pages_and_programs_are_answered(start: "Start", who: str) -> None:
    async with start(allowed_hosts=("label.example", "server")) as server:
        await server.send_image(FILE)
        for method, path, body in (("GET", "/v1/cache", None), ("POST", MASKS, CLICK), ("DELETE", "/v1/cache", None)):
            answer = await server.client.request(method, path, json=body, headers=OURS[who])
            assert answer.status_code == 200, answer.text


async def test_a_link_on_another_site_leads_to_a_page_and_does_nothing(server: "Running") -> None:
    for path in ("/", "/cache", "/docs"):
        assert (await server.client.get(path, headers=LINK)).status_code == 200
    for method, path in (("POST", "/api/sam/undo"), ("POST", MASKS), ("DELETE", "/v1/cache")):
        answer = await server.client.request(method, path, headers=LINK | {"Origin": "https://evil.example"})
        assert problem(answer) == (403, "cross-site")


@pytest.mark.parametrize("given", ["https://Label.Example/", "https://label.example:443", "https://label.example"])
async def test_an_allowed_origin_may_do_what_others_may_not(start: "Start", given: str) -> None:
    """However the operator writes it: browsers write neither a closing slash nor the usual port."""
    page = {"Sec-Fetch-Site": "cross-site", "Origin": "https://label.example"}
    async with start(cors_origins=(given,)) as server:
        await server.send_image(FILE)
        for method, path, body in (("GET", "/v1/cache", None), ("POST", MASKS, CLICK)):
            answer = await server.client.request(method, path, json=body, headers=page)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page["Origin"])
            other = await server.client.request(method, path, json=body, headers=FOREIGN["another site's script"])
            assert problem(other) == (403, "cross-site")
        wrong = await server.client.get("/v1/cache", headers=page | {"Host": "evil.example"})
        assert (problem(wrong), wrong.headers["access-control-allow-origin"]) == ((421, "unknown-host"), page["Origin"])


@pytest.mark.parametrize(
    "origin", ["label.example", "https://label.example/app", "https://*.example", "null", "https://"]
)
def test_an_origin_that_is_none_stops_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no web origin"):
        Settings(cors_origins=(origin,))


@pytest.mark.parametrize(("keys", "said"), [((), "purge its cache"), (("one",), "with a key")])
async def test_every_origin_is_let_in_where_the_operator_says_so_and_is_told_what_that_means(
    make_settings: "Callable[..., Settings]", caplog: pytest.LogCaptureFixture, keys: tuple[str, ...], said: str
) -> None:
    app = create_app(build_parts(make_settings(cors_origins=("*",), api_keys=keys)))
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "LABELING_GROUND_CORS_ORIGINS" in warning
    assert said in warning
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        script = await client.get("/v1/models", headers=FOREIGN["another site's script"] | KEY)
        assert (script.status_code, script.headers["access-control-allow-origin"]) == (200, "*")
        assert problem(await client.get("/v1/models", headers=FOREIGN["an object"] | KEY)) == (403, "cross-site")


# --- what the body says that it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "image", "json_"),
    [
        (None, 200, 200),
        (FORM, 200, 200),
        ("application/octet-stream", 200, 415),
        ("image/png", 200, 415),
        ("IMAGE/PNG; x=y", 200, 415),
        ("application/json", 400, 200),  # JSON would name an image by its address
        ("Application/JSON; charset=utf-8", 400, 200),
        ("application/geo+json", 415, 200),
        ("text/plain", 415, 415),
        ("text/plain;charset=UTF-8", 415, 415),
        ("application/xml", 415, 415),
        ("nonsense", 415, 415),
    ],
)
async def test_a_body_must_be_what_the_route_reads(server: "Running", kind: str | None, image: int, json_: int) -> None:
    """curl's own type passes, as in the README's examples."""
    headers = {} if kind is None else {"Content-Type": kind}
    await server.send_image(FILE)
    sent = {"session_id": "s", "image": EXAMPLE_IMAGE}
    for status, path, body in (
        (image, "/v1/images", FILE),
        (json_, MASKS, json.dumps(CLICK).encode()),
        (json_, f"/v1/images/{EXAMPLE_ID}/everything", b'{"points_per_side": 1}'),
        (json_, "/api/sam/image", json.dumps(sent).encode()),
    ):
        answer = await server.client.post(path, content=body, headers=headers)
        assert answer.status_code == status, (path, answer.text)
        if status == 415:
            assert problem(answer) == (415, "unsupported-media-type")
            assert kind is not None
            assert kind.partition(";")[0].lower() in answer.json()["detail"]


async def test_a_form_of_a_browser_is_no_json(server: "Running") -> None:
    """Even our own page's: a type that any page can send without being asked is for programs only."""
    await server.send_image(FILE)
    for who in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://server"}):
        for path, body in ((MASKS, json.dumps(CLICK).encode()), ("/v1/images", FILE)):
            answer = await server.client.post(path, content=body, headers=who | {"Content-Type": FORM})
            assert problem(answer) == (415, "unsupported-media-type")
        upload = await server.client.post("/v1/images", files={"file": FILE}, headers=who)
        assert upload.status_code == 200


# --- what every answer says ------------------------------------------------------------------------------------------


async def test_every_answer_says_that_nobody_may_embed_it_or_guess_its_type(start: "Start") -> None:
    """Pages, JSON, refusals, preflights and what was not modified, once each."""
    async with start(cors_origins=("https://label.example",), max_image_bytes=100_000) as server:
        tag = (await server.client.get("/")).headers["etag"]
        preflight = {"Origin": "https://label.example", "Access-Control-Request-Method": "POST"}
        asked = [
            await server.client.get("/", headers={"If-None-Match": tag}),
            await server.client.post("/v1/images", content=bytes(300_000)),
            await server.client.get("/v1/cache", headers={"Host": "evil.example"}),
            await server.client.get("/v1/cache", headers=FOREIGN["an object"]),
            await server.client.options("/v1/images", headers=preflight),
            await server.client.put("/"),
            *[
                await server.client.get(path)
                for path in ("/", "/cache", "/docs", "/redoc", "/openapi.json", "/v1/models", "/metrics", "/nope")
            ],
            await server.client.get("/web/labeling/main.js"),
            await server.client.get("/docs/static/swagger-ui.css"),
        ]
        assert [answer.status_code for answer in asked] == [304, 413, 421, 403, 200, 405, *[200] * 7, 404, 200, 200]
        for answer in asked:
            for name, value in (
                ("x-content-type-options", "nosniff"),
                ("cross-origin-resource-policy", "same-origin"),
                ("x-frame-options", "DENY"),
            ):
                assert answer.headers.get_list(name) == [value], answer.url


async def test_an_engine_server_is_not_for_pages() -> None:
    """It answers under any name, as servers know it by many; a browser's page of another origin gets nothing."""
    app = create_engine_app([], management_port=1, most_bytes=1 << 20, most_held=1 << 20, silence_s=60)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gpu:8080") as client:
        assert (await client.get("/ping")).status_code == 200
        for who in ("another site's script", "an object"):
            for ask in (client.get, client.post):
                answer = await ask("/predictions/sam_vit_h_encode", headers=FOREIGN[who])
                assert problem(answer) == (403, "cross-site")
                assert answer.headers["x-content-type-options"] == "nosniff"
