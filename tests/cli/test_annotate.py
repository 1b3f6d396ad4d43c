"""``annotate``: both ways in, against ``/v1``, interrupted, and what is refused."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from pycocotools import mask as coco
from tests.api.conftest import GatedConcepts, StartReal, make_backend, make_image, make_settings, start_real
from tests.cli.photos import SLOW_ENGINE, photo
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file
from tests.ports import free_port

from labeling_ground.cli import cli
from labeling_ground.errors import LabelingGroundError
from labeling_ground_client import Client

__all__ = ["make_backend", "make_image", "make_settings", "start_real"]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("0.png", "deep/1.png"):
        (tmp_path / "photos" / name).write_bytes(photo(len(name)))
    return tmp_path / "photos"


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    file = tmp_path / "boxes.json"
    images = [{"id": 7, "file_name": "0.png"}, {"id": 9, "file_name": "deep/1.png"}]
    found = [{"id": at, "image_id": at, "category_id": 3, "bbox": [14, 9, 27, 22]} for at in (7, 9)]
    file.write_text(json.dumps({"images": images, "annotations": found, "categories": [{"id": 3, "name": "cat"}]}))
    return file


def run(runner: CliRunner, *words: object, status: int = 0) -> dict[str, Any]:
    result = runner.invoke(cli, ["annotate", *map(str, words), "--json"])
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_everything_in_this_process_gives_masks_that_cocos_own_library_reads(
    runner: CliRunner, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "coco.json"
    found = run(runner, folder, "--everything", "--out", out)
    assert (found["photos"], found["annotated"], found["failed"]) == (2, 2, [])
    written = json.loads(out.read_bytes())
    assert {image["file_name"] for image in written["images"]} == {"0.png", "deep/1.png"}
    assert written["annotations"]
    for one in written["annotations"]:
        assert coco.area(one["segmentation"]) == one["area"]
        assert list(coco.toBbox(one["segmentation"])) == one["bbox"]
        assert one["model_version"].startswith("classical@")
    before = out.read_bytes()
    assert run(runner, folder, "--everything", "--out", out)["there"] == 2
    assert out.read_bytes() == before


def test_boxes_against_a_server_are_its_masks_and_are_asked_once(
    runner: CliRunner, folder: Path, boxes: Path, tmp_path: Path, start_real: StartReal
) -> None:
    out = tmp_path / "coco.json"
    with start_real() as server:
        words = (folder, "--boxes", boxes, "--out", out, "--server", server.url)
        assert run(runner, *words)["annotated"] == 2
        assert server.backend.encodes == 2
        written = json.loads(out.read_bytes())
        names = {image["id"]: image["file_name"] for image in written["images"]}
        with Client(server.url) as client:
            for one in written["annotations"]:
                answer = client.open(folder / names[one["image_id"]]).predict(box=(14, 9, 41, 31), multimask=False)
                assert answer.outcome == "hit"
                assert answer.candidates[0].encoded["rle"] == one["segmentation"]
                assert one["category_id"] == 3
        assert run(runner, *words)["there"] == 2
        assert server.backend.encodes == 2


def test_phrases_against_a_server_are_categories_and_are_asked_once(
    runner: CliRunner, tmp_path: Path, start_real: StartReal
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "coco.json"
    folder.mkdir()
    (folder / "squares.png").write_bytes(squares_file())
    toy: Any = GatedConcepts()
    with start_real(backend=toy) as server:
        words = (folder, "--text", "Red", "--text", "blue", "--score-threshold", "0.1", "--out", out)
        assert run(runner, *words, "--server", server.url)["annotated"] == 1
        written = json.loads(out.read_bytes())
        assert written["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
        boxes = {
            at: {tuple(one["bbox"]) for one in written["annotations"] if one["category_id"] == at} for at in (1, 2)
        }
        assert boxes == {
            at: {(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in each}
            for at, each in ((1, RED_BOXES), (2, BLUE_BOXES))
        }
        for one in written["annotations"]:
            assert coco.area(one["segmentation"]) == one["area"]
            assert one["model_version"].startswith("toy-concepts@")
        asked = len(toy.asked)
        assert run(runner, *words, "--server", server.url)["there"] == 1
        assert len(toy.asked) == asked
        other = runner.invoke(
            cli, ["annotate", str(folder), "--text", "red", "--out", str(out), "--server", server.url]
        )
        assert (other.exit_code, "other boxes, phrases" in other.output) == (2, True)


def test_a_phrase_that_cannot_be_found_ends_it_at_once_with_the_servers_sentence(
    runner: CliRunner, folder: Path, tmp_path: Path
) -> None:
    """In this process, by the model that finds no concepts."""
    words = ["annotate", str(folder), "--text", "cat", "--out", str(tmp_path / "coco.json")]
    result = runner.invoke(cli, words)
    assert "--text: The model classical takes no text" in str(result.exception)
    for wrong in (["--text", " "], ["--text", "a", "--text", "A"], ["--text", "a", "--everything"]):
        result = runner.invoke(cli, [*words[:2], *wrong, *words[4:]])
        assert (result.exit_code, "say either" in result.output or "--text" in result.output) == (2, True)


def test_a_photo_that_fails_is_named_and_the_next_run_tries_it_again(
    runner: CliRunner, folder: Path, boxes: Path, tmp_path: Path
) -> None:
    (folder / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    words = (folder, "--boxes", boxes, "--out", tmp_path / "coco.json")
    found = run(runner, *words, status=1)
    assert [one["file"] for one in found["failed"]] == ["0.png"]
    assert found["failed"][0]["problem"]
    (folder / "0.png").write_bytes(photo(5))
    again = run(runner, *words)
    assert (again["there"], again["annotated"]) == (1, 1)


def test_it_asks_as_a_job_so_that_people_go_first(
    runner: CliRunner, folder: Path, boxes: Path, tmp_path: Path, start_real: StartReal
) -> None:
    with start_real() as server, Client(server.url) as client:

        def busy() -> dict[str, float]:
            found = httpx.get(f"{server.url}/v1/cache").json()["queues"]
            return {
                label: sum(found[half]["classes"][label]["busy_seconds"] for half in ("encoder", "decoder"))
                for label in ("interactive", "job")
            }

        before = busy()
        run(runner, folder, "--boxes", boxes, "--out", tmp_path / "coco.json", "--server", server.url)
        after = busy()
        assert (after["interactive"], before["job"]) == (before["interactive"], 0)
        assert after["job"] > 0
        client.open(photo(77)).click(9, 9)
        assert busy()["interactive"] > after["interactive"]


def test_a_photo_that_changed_under_its_name_is_annotated_anew_and_the_others_are_not(
    runner: CliRunner, folder: Path, boxes: Path, tmp_path: Path, start_real: StartReal
) -> None:
    out = tmp_path / "coco.json"
    with start_real() as server:
        words = (folder, "--boxes", boxes, "--out", out, "--server", server.url)
        run(runner, *words)
        (folder / "0.png").write_bytes(photo(123, (80, 60)))
        found = run(runner, *words)
        assert (found["there"], found["annotated"], found["changed"]) == (1, 1, ["0.png"])
        assert server.backend.encodes == 3
        assert run(runner, *words)["changed"] == []
    written = json.loads(out.read_bytes())
    images = {image["file_name"]: image for image in written["images"]}
    assert {name: image["sha256"] for name, image in images.items()} == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("0.png", "deep/1.png")
    }
    assert (images["0.png"]["width"], images["0.png"]["height"]) == (80, 60)
    assert sorted(one["image_id"] for one in written["annotations"]) == sorted(one["id"] for one in images.values())
    assert len({one["id"] for one in written["annotations"]}) == 2


@pytest.mark.parametrize("wrong", ["key", "model", "address"])
def test_what_every_photo_would_meet_ends_it_at_once(
    runner: CliRunner, folder: Path, tmp_path: Path, start_real: StartReal, wrong: str
) -> None:
    for index in range(2, 30):
        (folder / f"{index}.png").write_bytes(photo(index))
    out = tmp_path / "coco.json"
    words = ["annotate", str(folder), "--everything", "--out", str(out), "--json", "--at-once", "1"]
    with start_real(api_keys=("a-key-of-ann",)) as server:
        asked = {"key": "a-key-of-nobody", "model": "a-key-of-ann", "address": "a-key-of-ann"}[wrong]
        url = f"http://127.0.0.1:{free_port()}" if wrong == "address" else server.url
        more = ["--model", "sam-9"] if wrong == "model" else []
        result = runner.invoke(cli, [*words, "--server", url, "--api-key", asked, *more])
        counted = server.app_state.metrics.registry.get_sample_value
        routes = [
            counted(
                "labeling_ground_requests_total",
                {"route": "/v1/images/{image_id}", "status": status, "outcome": "none"},
            )
            for status in ("401", "404")
        ]
    assert isinstance(result.exception, LabelingGroundError)
    says = {"key": "API key", "model": "'sam-9' is not served here", "address": "cannot be reached"}[wrong]
    assert says in str(result.exception)
    assert routes == {"key": [1, None], "model": [None, 1], "address": [None, None]}[wrong]


def test_interrupted_and_started_again_it_goes_on(tmp_path: Path) -> None:
    folder, out = tmp_path / "many", tmp_path / "coco.json"
    folder.mkdir()
    names = [f"{index:02}.png" for index in range(12)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(photo(index))
    images = [{"id": index, "file_name": name} for index, name in enumerate(names)]
    found = [{"id": at, "image_id": at, "category_id": 1, "bbox": [14, 9, 27, 22]} for at in range(12)]
    boxes = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    (tmp_path / "slow_engine.py").write_text(SLOW_ENGINE)
    environment = os.environ | {
        "LABELING_GROUND_CACHE_DIR": str(tmp_path / "cache"),
        "LABELING_GROUND_MODEL": "slow_engine:create",
        "PYTHONPATH": str(tmp_path),
    }
    words = ["annotate", str(folder), "--boxes", str(tmp_path / "boxes.json"), "--out", str(out), "--json"]
    command = [sys.executable, "-m", "labeling_ground", *words]
    process = subprocess.Popen(
        command, env=environment | {"SLOW_S": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while process.poll() is None and not list((tmp_path / "cache").rglob("*.bin")):
        time.sleep(0.005)  # until the first embedding is on disk
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr.decode()
    first = json.loads(stdout)
    assert len(json.loads(out.read_bytes())["images"]) == first["annotated"] < 12
    second = json.loads(subprocess.run(command, env=environment, capture_output=True, timeout=300, check=True).stdout)
    assert (second["there"], second["annotated"]) == (first["annotated"], 12 - first["annotated"])


STUCK_ENGINE = '''
"""The weight-free engine, whose encoder takes a thread for ten minutes."""
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from labeling_ground.inference.classical import create as classical

def create(**chosen):
    backend, threads = classical(**chosen), ThreadPoolExecutor()
    async def encode(images):
        Path("begun").touch()
        await asyncio.get_running_loop().run_in_executor(threads, time.sleep, 600)
    backend.encode = encode
    return backend
'''


@pytest.mark.parametrize(
    "words", [["warm"], ["annotate", "--everything", "--out", "coco.json"]], ids=["warm", "annotate"]
)
def test_a_second_ctrl_c_does_not_wait_for_what_is_begun(tmp_path: Path, folder: Path, words: list[str]) -> None:
    (tmp_path / "stuck_engine.py").write_text(STUCK_ENGINE)
    environment = os.environ | {
        "LABELING_GROUND_CACHE_DIR": str(tmp_path / "cache"),
        "LABELING_GROUND_MODEL": "stuck_engine:create",
        "PYTHONPATH": str(tmp_path),
    }
    command = [sys.executable, "-m", "labeling_ground", *words, str(folder)]
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        while process.poll() is None and not (tmp_path / "begun").exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert any("Ctrl-C again" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "interrupted" in stdout
    if "annotate" in words:
        assert json.loads((tmp_path / "coco.json").read_text())["images"] == []


def test_wrong_input_is_refused_before_anything_is_computed(
    runner: CliRunner, folder: Path, boxes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "coco.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "broken.json").write_text("[")
    strange = tmp_path / "strange.json"
    strange.write_text(boxes.read_text().replace("0.png", "5.png"))
    for words, sentence in (
        ((tmp_path / "empty", "--everything", "--out", out), "there is no image file"),
        ((folder, "--boxes", tmp_path / "broken.json", "--out", out), "is no COCO file"),
        ((folder, "--boxes", strange, "--out", out), "5.png: no such photo"),
        ((folder, "--everything", "--out", tmp_path / "other.json"), "was not made by this command"),
        ((folder, "--out", out), "either --everything, --boxes FILE or --text"),
        ((folder, "--everything", "--out", out, "--server", "http://h", "--cache-dir", tmp_path), "leave one out"),
        ((folder, "--everything", "--out", out, "--at-once", "0"), "--at-once"),
    ):
        result = runner.invoke(cli, ["annotate", *map(str, words)])
        assert result.exit_code == 2, result.output
        assert sentence in " ".join(result.stderr.split())
        assert not out.exists()


def test_an_output_that_cannot_be_written_is_said_before_anything_is_computed(tmp_path: Path, folder: Path) -> None:
    out, cache = tmp_path / ("x" * 250), tmp_path / "cache"  # a name, but with no room for that of the file beside it
    words = ["annotate", str(folder), "--everything", "--out", str(out), "--cache-dir", str(cache)]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert "cannot be written" in str(result.exception)
    assert not out.exists()
    assert not list(cache.rglob("*.bin"))


def test_an_output_that_is_a_link_stays_one(tmp_path: Path, folder: Path) -> None:
    link, real = tmp_path / "link.json", tmp_path / "elsewhere" / "real.json"
    real.parent.mkdir()
    link.symlink_to(real)
    words = ["annotate", str(folder), "--everything", "--out", str(link), "--cache-dir", str(tmp_path / "cache")]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert link.is_symlink()
    assert json.loads(real.read_bytes())["images"]
