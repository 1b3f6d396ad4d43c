"""Compose files, images' recipes and ``.env`` agree with each other and with the settings. No container needed."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docker import prove
from docker.lean import make_lean
from docker.pins_of import pins_of
from tests.needs import needs, needs_program

from labeling_ground.settings import ENV_PREFIX, Settings

yaml = needs("yaml")

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(ROOT.glob("docker-compose*.yml"))
NOT_SETTINGS = {"THREADS"}
"""Variables of the TorchServe handler, which is not configured by ``Settings``."""


def services(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    return loaded


def knobs() -> dict[str, str]:
    lines = (ROOT / ".env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_compose_file_is_of_the_format_that_1_29_and_2_read(file: Path) -> None:
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["version"] == "2.3"


def test_every_knob_is_used_and_every_knob_that_is_used_is_in_the_env_file() -> None:
    used = set()
    for file in FILES:
        used |= set(re.findall(r"\$\{(\w+)(?::\?[^}]*)?\}", file.read_text(encoding="utf-8")))
    makefile = set(re.findall(r"\$\(call knob,(\w+)\)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert set(knobs()) == used | makefile | {"COMPOSE_PROJECT_NAME"}


def test_every_knob_has_a_sentence_above_it() -> None:
    lines = (ROOT / ".env").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            assert lines[number - 1], f"{line} stands alone"


def test_the_env_file_holds_no_secret() -> None:
    assert not [name for name in knobs() if re.search("KEY|SECRET|PASSWORD|TOKEN", name)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_service_is_given_only_settings_that_exist(file: Path) -> None:
    for service in services(file).values():
        for name in service.get("environment", {}):
            if name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX) not in NOT_SETTINGS:
                assert name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields


def test_each_key_is_handed_on_from_the_shell_and_is_not_set_where_the_shell_has_none() -> None:
    given = services(ROOT / "docker-compose.yml")["proxy"]["environment"]
    ours = [f"{ENV_PREFIX}{name}" for name in ("API_KEYS", "ADMIN_KEY", "SOURCES")]
    for name in (*ours, "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        assert given[name] == f"${{{name}-}}"
    empty = Settings(api_keys="", admin_key="", sources="", label_studio_url="", label_studio_api_key="")
    assert (empty.api_keys, empty.admin_key, empty.sources) == ((), None, ())
    assert (empty.label_studio_url, empty.label_studio_api_key) == (None, None)


def test_no_service_is_given_what_only_another_kind_of_engine_reads() -> None:
    own = services(ROOT / "docker-compose.engines.yml")
    for service in own.values():
        assert {service["environment"][f"{ENV_PREFIX}{name}"] for name in NOT_SETTINGS} == {""}


def test_no_service_runs_with_more_rights_than_it_needs() -> None:
    for name, service in services(ROOT / "docker-compose.yml").items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "pids_limit", "healthcheck", "restart", "stop_grace_period"} <= set(service), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
    for recipe in (ROOT / "docker").glob("*.Dockerfile"):
        assert re.search(r"^USER (?!root)", recipe.read_text(encoding="utf-8"), re.MULTILINE), recipe.name


def test_the_proxy_has_longer_to_end_than_the_server_takes() -> None:
    proxy, usual = services(ROOT / "docker-compose.yml")["proxy"], Settings()
    takes_s = usual.drain_delay_s + usual.shutdown_grace_s + 2 * usual.shutdown_write_s
    assert float(proxy["stop_grace_period"].removesuffix("s")) > takes_s


def test_only_the_proxy_is_published_and_only_to_this_machine() -> None:
    found = services(ROOT / "docker-compose.yml")
    assert [name for name, service in found.items() if "ports" in service] == ["proxy"]
    assert found["proxy"]["ports"] == [
        "${PROXY_ADDRESS:?an empty one would be every address}:${PROXY_PORT}:8000",
    ]
    assert knobs()["PROXY_ADDRESS"] == "127.0.0.1"
    assert [name for name, service in found.items() if "front" in service["networks"]] == ["proxy"]


def test_the_pins_of_a_package_come_with_those_of_what_it_needs() -> None:
    text = (ROOT / "requirements" / "engines.txt").read_text(encoding="utf-8")
    chosen = pins_of(text, ["onnxruntime"])
    names = set(re.findall(r"^([a-z0-9-]+)==", chosen, re.MULTILINE))
    assert {"onnxruntime", "numpy", "protobuf", "flatbuffers", "packaging"} == names
    for pin in re.split(r"\n(?=[a-z])", chosen):
        assert "--hash=sha256:" in pin
        assert not pin.endswith("\\")


def test_a_package_that_is_not_pinned_is_named() -> None:
    with pytest.raises(SystemExit, match="not pinned: torch"):
        pins_of("numpy==1.0 \\\n    --hash=sha256:00\n    # via scipy", ["numpy", "torch"])


def test_images_are_built_from_pins_with_hashes_only() -> None:
    for recipe in (ROOT / "docker").glob("*.Dockerfile"):
        for line in re.findall(r"pip install[^\n&;]*", recipe.read_text(encoding="utf-8")):
            assert "--require-hashes" in line or "--no-index" in line, line


def test_cudas_libraries_are_pinned_with_hashes_too() -> None:
    chosen = pins_of((ROOT / "requirements" / "cuda.txt").read_text(encoding="utf-8"), ["onnxruntime-gpu"])
    names = set(re.findall(r"^([a-z0-9-]+)==", chosen, re.MULTILINE))
    assert {"onnxruntime-gpu", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime", "numpy"} <= names
    assert all("--hash=sha256:" in pin for pin in re.split(r"\n(?=[a-z])", chosen))
    ours = re.findall(r"^numpy==\S+", (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"^numpy==\S+", chosen, re.MULTILINE)) == set(ours)


def test_what_runs_is_made_of_files_that_are_left_and_no_layer_holds_what_was_taken_out() -> None:
    for name in ("server", "serving"):
        stages = re.findall(
            r"^FROM (\S+) AS (\S+)", (ROOT / f"docker/{name}.Dockerfile").read_text("utf-8"), re.MULTILINE
        )
        base = {stage: before for before, stage in stages}
        for shipped in ("proxy", "engine") if name == "server" else ("serving",):
            while base.get(shipped) in base:
                shipped = base[shipped]
            assert base[shipped] == "scratch"


def test_bake_builds_stages_that_there_are_from_arguments_that_they_take() -> None:
    bake = json.loads((ROOT / "docker-bake.json").read_text(encoding="utf-8"))
    for group in bake["group"].values():
        assert set(group["targets"]) <= set(bake["target"])
    for name, target in bake["target"].items():
        recipe = (ROOT / target["dockerfile"]).read_text(encoding="utf-8")
        assert "target" not in target or re.search(rf"^FROM \S+ AS {target['target']}$", recipe, re.MULTILINE), name
        assert all(re.search(rf"^ARG {argument}\b", recipe, re.MULTILINE) for argument in target.get("args", {})), name
        assert "linux/amd64" in target["platforms"], name
    assert bake["target"]["engine-cuda"]["platforms"] == ["linux/amd64"], "there are no CUDA wheels for others"


def test_what_an_image_runs_is_tried_while_it_is_built() -> None:
    """The same trial with what is installed here: a port that changed fails here first."""
    asyncio.run(prove.click())
    done = subprocess.run(
        [sys.executable, "-m", "docker.prove", "engine"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_environment_made_lean_lacks_what_compiles_and_tests_and_keeps_what_runs(tmp_path: Path) -> None:
    files = {
        "package/__init__.py": "",
        "package/data/table.csv": "1",
        "package/tests/test_it.py": "",
        "package/__pycache__/it.pyc": "",
        "package/core.pyx": "",
        "package/include/core.h": "",
        "package/__init__.pyi": "",
        "skimage/data/cat.png": "",
        "skimage/data/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    make_lean(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        "package/__init__.py",
        "package/data/table.csv",
        "package/__init__.pyi",  # lazy packages read theirs
        "skimage/data/__init__.py",
    }


def make(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_a_missing_archive_is_said_with_the_commands_that_make_it(tmp_path: Path) -> None:
    done = make("build_gpu", f"ARCHIVES={tmp_path}", PATH="/usr/bin:/bin")
    assert done.returncode != 0
    assert "sam_vit_h_encode.mar is not here" in done.stderr
    assert "docker build -t sam-builder -f ./segment_anything/Dockerfile-build ." in done.stderr


def test_an_empty_host_or_port_is_not_handed_to_the_server() -> None:
    said = make("-n", "run", "HOST=", "PORT=9000", PATH="/usr/bin:/bin").stdout
    assert re.search(r"labeling-ground serve\s+--port 9000$", said, re.MULTILINE)
    assert "serve --host 127.0.0.1 --port 8000" in make("-n", "run", PATH="/usr/bin:/bin").stdout


def test_an_unknown_kind_of_engine_is_refused() -> None:
    done = make("c_ps", "ENGINES=other", PATH="/usr/bin:/bin")
    assert done.returncode != 0
    assert "ENGINES is torchserve, own or none" in done.stderr


def test_a_library_that_cannot_be_stripped_stays_as_it_was(tmp_path: Path) -> None:
    needs_program("strip")
    library = tmp_path / "package" / "core.so"
    library.parent.mkdir()
    library.write_text("no library", encoding="utf-8")
    make_lean(tmp_path)
    assert library.read_text(encoding="utf-8") == "no library"
    assert [path.name for path in library.parent.iterdir()] == ["core.so"]
