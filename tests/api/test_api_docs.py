"""The documentation: complete, and served without any other host."""

import base64
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from labeling_ground.api.routes import images, service, session
from labeling_ground.api.schemas.common import EXAMPLE_ID, EXAMPLE_IMAGE
from labeling_ground.key import image_id
from labeling_ground.settings import Settings

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


class References(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src", "spec-url") and value]

    def handle_data(self, data: str) -> None:
        self.inline += data


@pytest.fixture
async def openapi(server: "Running") -> dict[str, Any]:
    schema: dict[str, Any] = (await server.client.get("/openapi.json")).json()
    return schema


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_pages_need_no_network(server: "Running", page: str) -> None:
    """Each script and style is a file of this server, is there, and is the real thing."""
    answer = await server.client.get(page)
    assert answer.headers["content-type"].startswith("text/html")
    parser = References()
    parser.feed(answer.text)
    assert "//" not in answer.text
    assert len(parser.found) >= 2
    for reference in parser.found:
        loaded = await server.client.get(f"/{reference}")
        assert loaded.status_code == 200
        if reference.startswith("docs/static/"):
            assert len(loaded.content) > 50_000
            kind = "javascript" if reference.endswith(".js") else "css"
            assert kind in loaded.headers["content-type"]
            assert b"cdn." not in loaded.content
    scripts = [reference for reference in parser.found if reference.endswith(".js")]
    assert "openapi.json" in answer.text + (await server.client.get(f"/{scripts[-1]}")).text[:1000]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_pages_run_only_scripts_of_this_server_and_stand_in_no_frame(server: "Running", page: str) -> None:
    policy = dict(
        part.split(" ", 1) for part in (await server.client.get(page)).headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "//" not in str(policy)


@pytest.mark.parametrize("given", ["/label", "label/", "/deep/label"])
async def test_a_server_below_a_path_answers_there(start: "Start", given: str) -> None:
    """Whether the proxy cuts the path off or not; limits and counters go by the rest of it."""
    root = f"/{given.strip('/')}"
    async with start(root_path=given, max_body_bytes=1000) as server:
        for prefix in (root, ""):
            assert (await server.client.get(f"{prefix}/docs")).status_code == 200
            assert (await server.client.get(f"{prefix}/web/shared/docs.js")).status_code == 200
            schema = (await server.client.get(f"{prefix}/openapi.json")).json()
            assert schema["servers"] == [{"url": root}]
            assert "/v1/images" in schema["paths"]
            file = base64.b64decode(EXAMPLE_IMAGE) + bytes(5000)
            assert (await server.client.post(f"{prefix}/v1/images", content=file)).status_code == 200
            assert (await server.client.put(f"{prefix}/v1/images")).headers["allow"] == "POST"
        page = await server.client.get(root)
        assert (page.status_code, page.headers["location"]) == (308, f"{root}/")
        assert (await server.client.get(f"{root}/")).status_code == 200
        assert (await server.client.get(f"{root}s/docs")).status_code == 404
        metrics = (await server.client.get(f"{root}/metrics")).text
        assert 'route="/v1/images"' in metrics
        assert root not in metrics


@pytest.mark.parametrize("path", ["https://label.example/label", "/label?x", "/a b"])
def test_a_root_path_that_is_none_stops_the_start(path: str) -> None:
    with pytest.raises(ValidationError, match="is no path"):
        Settings(root_path=path)


async def test_names_of_operations_are_those_that_people_would_choose(openapi: dict[str, Any]) -> None:
    """A generated client has them as its methods: a verb and what it does it to, and no path."""
    operations = [operation for path in openapi["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z]+(_[a-z]+){1,3}", name), name
        assert not re.search(r"v1|api|_(get|post|put|delete|head)$", name), name
    assert {"upload_image", "get_image", "predict_masks", "delete_image", "list_models", "purge_cache"} <= set(names)


async def test_the_schema_has_nothing_that_generators_do_not_know(openapi: dict[str, Any]) -> None:
    """A constant that is not a string makes code that does not compile; one that is a string helps nobody."""
    assert '"const"' not in json.dumps(openapi)
    for path in openapi["paths"].values():
        for operation in path.values():
            assert len(operation["tags"]) == 1, operation["operationId"]


@pytest.mark.parametrize(
    ("name", "others"), [("X-Client-Id", {"announce_images"}), ("X-Priority", {"get_image_embedding"})]
)
async def test_who_works_and_how_urgently_are_parameters_where_they_are_read(
    openapi: dict[str, Any], name: str, others: set[str]
) -> None:
    having = {
        operation["operationId"]: parameter
        for path in openapi["paths"].values()
        for operation in path.values()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == name
    }
    assert set(having) == {"upload_image", "predict_masks", "segment_everything", "find_concepts"} | others
    assert all((one["in"], one["required"]) == ("header", of == "announce_images") for of, one in having.items())


@pytest.mark.parametrize(
    "name", ["nope.js", "..%2f__init__.py", "%2e%2e", "a" * 300 + ".js", "%00.js", "con", "a.js%00"]
)
async def test_only_the_pages_own_files_are_served(server: "Running", name: str) -> None:
    """404 for everything else, however it is spelt."""
    assert (await server.client.get(f"/docs/static/{name}")).status_code == 404


async def test_every_operation_is_described(openapi: dict[str, Any]) -> None:
    """Summary, description, tag, the errors it can answer, and an example of what to send."""
    tags = {tag["name"] for tag in openapi["tags"]}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert len(operation["description"]) > 20, where
            assert operation["tags"], where
            assert set(operation["tags"]) <= tags, where
            if path.startswith(("/v1", "/api")):
                assert {"401", "503"} & operation["responses"].keys(), where
                problems = [answer for status, answer in operation["responses"].items() if status >= "400"]
                assert all("application/problem+json" in answer["content"] for answer in problems), where
            if "requestBody" in operation:
                kinds = operation["requestBody"]["content"]
                if "application/json" in kinds:
                    assert example_of(openapi, kinds["application/json"]["schema"]), where
            for parameter in operation.get("parameters", []):
                assert parameter["description"], where


def example_of(openapi: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What the documentation page fills in."""
    model: dict[str, Any] = openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if "examples" in model:
        first: dict[str, Any] = model["examples"][0]
        return first
    return {name: field["examples"][0] for name, field in model["properties"].items() if "examples" in field}


async def test_the_examples_work_in_the_order_of_the_page(server: "Running", openapi: dict[str, Any]) -> None:
    """A newcomer who presses «Execute» everywhere sees answers and no errors."""
    file = base64.b64decode(EXAMPLE_IMAGE)
    assert image_id(file) == EXAMPLE_ID
    order = ("/api/sam/image", "/api/sam/click", "/api/sam/rect", "/api/sam/undo", "/api/sam/finish_click")
    for path in (*order, "/v1/images/{image_id}/masks"):
        operation = openapi["paths"][path]["post"]
        body = example_of(openapi, operation["requestBody"]["content"]["application/json"]["schema"])
        address = path
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                example = parameter.get("example") or parameter["schema"]["examples"][0]
                address = address.replace(f"{{{parameter['name']}}}", example)
        answer = await server.client.post(address, json=body)
        assert answer.status_code == 200, answer.text
    for example in openapi["components"]["schemas"]["MasksRequest"]["examples"]:
        answer = await server.client.post(f"/v1/images/{EXAMPLE_ID}/masks", json=example)
        assert answer.status_code == 200, answer.text


async def test_every_reference_in_the_schema_leads_somewhere(openapi: dict[str, Any]) -> None:
    """No dangling ``$ref``, no component that is there twice under two names."""
    text = json.dumps(openapi)
    names = set(openapi["components"]["schemas"])
    referred = {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]}
    assert referred <= names
    assert not [name for name in names if name.endswith(("-Input", "-Output"))]


async def test_a_key_is_shown_as_optional_where_it_is(openapi: dict[str, Any]) -> None:
    """Without keys configured, the schema says that none is needed."""
    assert {} in openapi["paths"]["/v1/models"]["get"]["security"]
    assert "security" not in openapi["paths"]["/health/live"]["get"]


async def test_readers_are_told_of_images_first(openapi: dict[str, Any]) -> None:
    assert next(iter(openapi["paths"])) == "/v1/images"


async def test_routes_that_requests_are_handed_to_at_once_are_documented_like_any_other(
    openapi: dict[str, Any],
) -> None:
    documented = {operation["operationId"] for path in openapi["paths"].values() for operation in path.values()}
    assert {handle.__name__ for handle in (*images.DIRECT, *session.DIRECT, *service.DIRECT)} <= documented
