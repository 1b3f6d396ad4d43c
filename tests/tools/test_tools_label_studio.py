"""The real Label Studio, with SQLite, against the server of a test: by its REST interface, and in its page."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.api.conftest import LONG_S, GatedConcepts
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file
from tests.needs import needs, needs_program
from tests.ports import free_port
from tests.web.formats import brush

from labeling_ground.codec import mask as mask_codec

if TYPE_CHECKING:
    from tests.api.conftest import RealServer, StartReal

pytestmark = pytest.mark.slow

KEY = "a-long-key-for-ann"
EMAIL, PASSWORD = "ann@example.org", "a-long-password"
WIDTH, HEIGHT = 500, 340
CONFIG = """<View><Image name="image" value="$image" zoom="true"/>
<BrushLabels name="brush" toName="image" smart="false"><Label value="Disc"/></BrushLabels>
<KeyPointLabels name="kp" toName="image" smart="true" smartonly="true"><Label value="Disc"/></KeyPointLabels>
<RectangleLabels name="rect" toName="image" smart="true" smartonly="true"><Label value="Disc"/></RectangleLabels>
</View>"""


TEXT = """<View><Image name="image" value="$image"/>
<TextArea name="prompt" toName="image" smart="true" rows="2" maxSubmissions="1" showSubmitButton="true"/>
<BrushLabels name="brush" toName="image"><Label value="Thing"/><Label value="Red"/><Label value="Dark Blue"/>
</BrushLabels></View>"""


class LabelStudio:
    """A running one, and its only user."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=2 * LONG_S)
        self.token = ""
        """A personal access token."""

    def log_in(self) -> None:
        """Log in, and get a token: a user can have one at a time."""
        self.client.get("/user/login/")
        form = {"email": EMAIL, "password": PASSWORD, "csrfmiddlewaretoken": self.client.cookies["csrftoken"]}
        assert self.client.post("/user/login/", data=form).status_code == 302
        self.token = self.post("/api/token/")["token"]

    def close(self) -> None:
        self.client.close()

    def post(self, path: str, **more: Any) -> dict[str, Any]:
        headers = {"X-CSRFToken": self.client.cookies["csrftoken"], "Referer": self.url}
        answer = self.client.post(path, headers=headers, **more)
        assert answer.status_code in (200, 201), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def project(self, file: bytes, backend_url: str, config: str) -> tuple[int, int, int]:
        """A project with one task and our server as its backend: their ids."""
        project = self.post("/api/projects", json={"title": "discs", "label_config": config})["id"]
        self.post(f"/api/projects/{project}/import", files={"file": ("a.png", file, "image/png")})
        task = self.client.get("/api/tasks", params={"project": project}).json()["tasks"][0]["id"]
        connect = {"project": project, "url": backend_url, "title": "Labeling Ground", "is_interactive": True}
        keys = {"auth_method": "BASIC_AUTH", "basic_auth_user": "label-studio", "basic_auth_pass": KEY}
        backend = self.post("/api/ml", json=connect | keys)
        assert backend["state"] == "CO", backend
        return project, task, backend["id"]


@pytest.fixture(scope="module")
def label_studio(tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Started once; the settings are those of ``docs/tools/label-studio.md``."""
    program = tool("label-studio").with_name("label-studio")
    folder, port = tmp_path_factory.mktemp("label-studio"), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LABEL")},
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_HOST": f"http://127.0.0.1:{port}",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
    }
    command = [str(program), "start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"]
    command += ["--username", EMAIL, "--password", PASSWORD]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + 10 * LONG_S
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                        break
                said = (folder / "log.txt").read_text(errors="replace")
                assert process.poll() is None, said[-2000:]
                assert time.monotonic() < end, said[-2000:]
                time.sleep(0.5)
            with contextlib.closing(LabelStudio(url)) as running:
                running.log_in()
                yield running
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(LONG_S)


def region(kind: str, **value: Any) -> dict[str, Any]:
    """A mark as the page sends it; percent."""
    name = {"keypointlabels": "kp", "rectanglelabels": "rect"}[kind]
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return size | {
        "id": "mark",
        "from_name": name,
        "to_name": "image",
        "type": kind,
        "origin": "manual",
        "value": {**value, kind: ["Disc"]},
    }


def painted(region: dict[str, Any]) -> NDArray[np.bool_]:
    shape = (region["original_height"], region["original_width"], 4)
    return np.asarray(brush(region["value"]["rle"]).reshape(shape)[:, :, 3] > 0)


def mask_of_v1(server: "RealServer", file: bytes, **prompt: Any) -> NDArray[np.bool_]:
    with httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=LONG_S) as client:
        image_id = client.post("/v1/images", content=file).json()["image_id"]
        answer = client.post(f"/v1/images/{image_id}/masks", json=prompt).json()
    return mask_codec.from_rle(**answer["masks"][0]["rle"])


@contextlib.contextmanager
def connected(
    label_studio: LabelStudio, start_real: "StartReal", file: bytes, config: str = CONFIG, **chosen: Any
) -> "Iterator[tuple[RealServer, int, int, int]]":
    """A server of ours, and a project, a task and a backend in Label Studio."""
    known = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.token}
    with start_real(api_keys=(KEY,), **known, **chosen) as server:
        yield server, *label_studio.project(file, f"{server.url}/label-studio", config)


@contextlib.contextmanager
def opened_task(label_studio: LabelStudio, project: int, task: int) -> Iterator[Any]:
    """The page of a task, as a person who has switched Auto-Annotation on sees it."""
    sync_api, chromium = needs("playwright.sync_api"), needs_program("chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(2e3 * LONG_S)
        page.goto(f"{label_studio.url}/user/login/")
        page.fill("input[name=email]", EMAIL)
        page.fill("input[name=password]", PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(lambda url: "login" not in url)
        page.goto(f"{label_studio.url}/projects/{project}/data?task={task}")
        page.locator(".konvajs-content canvas").first.wait_for()
        page.get_by_text("Auto-Annotation").click()
        yield page
        browser.close()


def test_smart_marks_by_rest_are_v1s_masks(
    label_studio: LabelStudio, start_real: "StartReal", make_image: Callable[..., bytes]
) -> None:
    """The picture comes from Label Studio by a personal access token; what is saved is what was predicted."""
    file = make_image(WIDTH, HEIGHT)
    with connected(label_studio, start_real, file) as (server, _, task, backend):

        def marked(*regions: dict[str, Any]) -> list[dict[str, Any]]:
            body = {"task": task, "context": {"result": list(regions)}}
            answer = label_studio.post(f"/api/ml/{backend}/interactive-annotating", json=body)
            assert not answer.get("errors"), answer
            found: list[dict[str, Any]] = answer["data"]["result"]
            return found

        on = region("keypointlabels", x=30, y=100 * 122 / HEIGHT, width=0.5) | {"is_positive": True}
        off = region("keypointlabels", x=40, y=50, width=0.5) | {"is_positive": False}
        box = region("rectanglelabels", x=60, y=50, width=20, height=40, rotation=0)
        point, less = {"x": 150, "y": 122}, {"x": 200, "y": 170, "label": 0}
        for marks, prompt in (
            ([on], {"points": [point]}),
            ([on, off], {"points": [point, less]}),
            ([box], {"box": [300, 170, 400, 306]}),
        ):
            [found] = marked(*marks)
            assert np.array_equal(painted(found), mask_of_v1(server, file, **prompt))
        assert (server.backend.encodes, server.backend.decodes) == (1, 3)
        assert marked() == [], "a click that was taken back"
        saved = label_studio.post(f"/api/tasks/{task}/annotations/", json={"result": [found]})
        assert np.array_equal(painted(saved["result"][0]), painted(found))


def test_a_smart_click_in_the_page_that_is_accepted_and_submitted_is_v1s_mask(
    label_studio: LabelStudio, start_real: "StartReal", make_image: Callable[..., bytes]
) -> None:
    """With a person's mouse: the page draws the mask, and encodes it anew for the annotation that is saved."""
    file = make_image(WIDTH, HEIGHT)
    with (
        connected(label_studio, start_real, file) as (server, project, task, _),
        opened_task(label_studio, project, task) as page,
    ):
        canvas = page.locator(".konvajs-content canvas").first
        page.get_by_text("Disc", exact=True).nth(1).click()
        page.locator(".lsf-tool_smart").first.click()
        box = canvas.bounding_box()
        assert box is not None
        with page.expect_response("**/interactive-annotating") as asked:
            page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
        assert asked.value.status == 200
        page.get_by_text("Disc", exact=True).nth(1).click()  # the page lets go of it after each mark
        page.keyboard.down("Alt")
        with page.expect_response("**/interactive-annotating") as asked:
            page.mouse.click(box["x"] + 0.1 * box["width"], box["y"] + 0.2 * box["height"])
        page.keyboard.up("Alt")
        assert asked.value.status == 200
        marks = asked.value.request.post_data_json["context"]["result"]
        assert [mark["is_positive"] for mark in marks] == [True, False]
        page.locator(".lsf-auto-accept__action_type_accept").click()
        with page.expect_response(f"**/api/tasks/{task}/annotations**") as saved:
            page.get_by_role("button", name="Submit").click()
        assert saved.value.status == 201
        found = saved.value.request.post_data_json["result"]
        kept = label_studio.client.get(f"/api/tasks/{task}/annotations/").json()[0]["result"]
        assert [each["type"] for each in kept] == ["brushlabels"]
        assert kept[0]["value"]["rle"] == found[0]["value"]["rle"]
        assert kept[0]["value"]["brushlabels"] == ["Disc"]
        points = [
            {
                "x": mark["value"]["x"] * WIDTH / 100,
                "y": mark["value"]["y"] * HEIGHT / 100,
                "label": int(mark["is_positive"]),
            }
            for mark in marks
        ]
        # where the mouse was, but for what the page's layout moved meanwhile
        assert abs(points[0]["x"] - 0.3 * WIDTH) < 0.05 * WIDTH
        assert abs(points[0]["y"] - 0.4 * HEIGHT) < 0.05 * HEIGHT
        assert np.array_equal(painted(kept[0]), mask_of_v1(server, file, points=points))
        assert (server.backend.encodes, server.backend.decodes) == (1, 2)


def test_a_text_in_the_page_finds_what_it_names_and_all_that_is_accepted_is_saved(
    label_studio: LabelStudio, start_real: "StartReal"
) -> None:
    """Each under the label that is its phrase."""
    toy = GatedConcepts()
    with (
        connected(label_studio, start_real, squares_file(), TEXT, backend=toy) as (_, project, task, _),
        contextlib.ExitStack() as opening,
    ):
        toy.asked.clear()  # what warmed the model up
        page = opening.enter_context(opened_task(label_studio, project, task))
        page.get_by_label("TextArea Input").fill("red, Dark blue")
        with page.expect_response("**/interactive-annotating") as asked:
            page.get_by_role("button", name="Add").click()
        assert asked.value.status == 200
        [region] = asked.value.request.post_data_json["context"]["result"]
        assert (region["type"], region["value"]["text"]) == ("textarea", ["red, Dark blue"])
        page.locator(".lsf-auto-accept__action_type_accept").click()
        with page.expect_response(f"**/api/tasks/{task}/annotations**") as saved:
            page.get_by_role("button", name="Submit").click()
        assert saved.value.status == 201
        kept = label_studio.client.get(f"/api/tasks/{task}/annotations/").json()[0]["result"]
        for label, boxes in (("Red", RED_BOXES[:2]), ("Dark Blue", BLUE_BOXES)):
            own = [each for each in kept if each["type"] == "brushlabels" and each["value"]["brushlabels"] == [label]]
            found = {(x, y, x + width, y + height) for x, y, width, height in map(mask_codec.bbox, map(painted, own))}
            assert (found, len(own)) == ({*boxes}, len(boxes))
    assert toy.asked.count("trunk") == 1
