"""The scripts of ``segment_anything/Dockerfile-build``: fetching a checkpoint, and making one of random numbers."""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.models.weights_server import artifact_of, bytes_of, catalogue_of, model_of, weights_server
from tests.needs import needs

from labeling_ground.errors import PullFailed
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore

ROOT = Path(__file__).parents[2]
CHECKPOINT = bytes_of(5, 50_000)


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"builder_{name}", ROOT / "segment_anything" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """What lies in ``segment_anything/weights``."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "README.md").write_text("not weights")
    return folder


def store_of(folder: Path, url: str = "https://weights.example") -> ModelStore:
    return ModelStore(
        folder / "models", catalogue_of(model_of(artifact_of(Role.CHECKPOINT, f"{url}/a.pth", CHECKPOINT)))
    )


def name_in(store: ModelStore) -> str:
    return store.known.models[0].name


def test_a_file_that_lies_there_is_taken_and_verified(tmp_path: Path, given: Path) -> None:
    store = store_of(tmp_path)
    (given / "whatever.pt").write_bytes(CHECKPOINT)
    (given / "another.pth").write_bytes(b"of no model that is known")
    assert script("fetch").fetch(name_in(store), "official", given, store) == name_in(store)
    assert store.path_of(name_in(store), Role.CHECKPOINT).read_bytes() == CHECKPOINT


def test_a_file_of_the_right_name_must_be_the_right_file(tmp_path: Path, given: Path) -> None:
    store = store_of(tmp_path)
    (given / "a.pth").write_bytes(CHECKPOINT[:-1])
    with pytest.raises(SystemExit, match=r"a\.pth is not what its name says\. .*damaged"):
        script("fetch").fetch(name_in(store), "official", given, store)
    assert store.installed() == {}


def test_without_a_file_it_is_downloaded(tmp_path: Path, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with weights_server() as server:
        server.files = {"/a.pth": CHECKPOINT}
        store = store_of(tmp_path)
        script("fetch").fetch(name_in(store), "official", given, store, mirror=server.url)
        assert store.path_of(name_in(store), Role.CHECKPOINT).read_bytes() == CHECKPOINT
        server.files = {"/a.pth": CHECKPOINT[::-1]}
        other = store_of(tmp_path / "other")
        with pytest.raises(PullFailed):
            script("fetch").fetch(name_in(other), "official", given, other, mirror=server.url)
        assert other.installed() == {}


def test_weights_that_are_not_the_authors_get_a_name_that_says_so(tmp_path: Path, given: Path) -> None:
    store, fetch = store_of(tmp_path), script("fetch").fetch
    assert fetch(name_in(store), "random", given, store) == f"random-{name_in(store)}"
    assert store.installed() == {}
    with pytest.raises(SystemExit, match="there are 0"):
        fetch(name_in(store), "custom", given, store)
    (given / "mine.pth").write_bytes(b"of my own")
    assert fetch(name_in(store), "custom", given, store) == f"custom-{name_in(store)}"
    assert list(store.installed()) == [f"custom-{name_in(store)}"]
    with pytest.raises(SystemExit, match="official, custom or random"):
        fetch(name_in(store), "none", given, store)


def run_first_step(tmp_path: Path, given: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run fetch.py with what the stage ``weights`` of Dockerfile-build copies and installs, and with nothing else."""
    dockerfile = (ROOT / "segment_anything" / "Dockerfile-build").read_text(encoding="utf-8")
    stage = dockerfile.split("AS weights")[1].split("ARG MODEL")[0].replace("\\\n", " ")
    for line in re.findall(r"^COPY (src.*)$", stage, re.MULTILINE):
        *sources, target = line.split()
        folder = tmp_path / target.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            for path in ROOT.glob(source):
                shutil.copy(path, folder)
    for names in re.findall(r"pins_of\.py run\.txt ([a-z -]+)", stage):
        for package in names.split():
            found = importlib.metadata.distribution(package).locate_file(package)
            shutil.copytree(str(found), tmp_path / "src" / package)
    return subprocess.run(
        [sys.executable, "-S", str(ROOT / "segment_anything" / "fetch.py"), *arguments, str(tmp_path / "models")],
        env={"PYTHONPATH": str(tmp_path / "src"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_first_step_needs_nothing_but_what_it_is_given_to_refuse_a_file(tmp_path: Path, given: Path) -> None:
    (given / "sam_vit_h_4b8939.pth").write_bytes(b"half of it")
    done = run_first_step(tmp_path, given, "sam-vit-h", "official", str(given))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "sam_vit_h_4b8939.pth is not what its name says" in done.stderr
    assert hashlib.sha256(b"half of it").hexdigest() in done.stderr


def test_the_first_step_needs_nothing_but_what_it_is_given_to_store_a_file(tmp_path: Path, given: Path) -> None:
    (given / "mine.pth").write_bytes(b"of my own")
    done = run_first_step(tmp_path, given, "mobile-sam", "custom", str(given))
    assert (done.returncode, done.stdout) == (0, "custom-mobile-sam\n"), done.stderr
    assert list(ModelStore(tmp_path / "models").installed()) == ["custom-mobile-sam"]


def test_random_weights_have_the_layout_of_a_checkpoint_and_no_model_of_the_catalogue(tmp_path: Path) -> None:
    torch = needs("torch")
    needs("transformers")
    from labeling_ground.models.catalogue import catalogue
    from labeling_ground.networks.checkpoint import load

    random_weights = script("random_weights")
    with pytest.raises(SystemExit, match="mobile-sam"):
        random_weights.main("sam2.1-tiny", str(tmp_path / "no.pth"))
    random_weights.main("mobile-sam", str(tmp_path / "random.pth"))
    loaded = load(tmp_path / "random.pth")
    assert loaded.architecture == "vit_t"
    assert catalogue().identify(loaded.source_sha256) is None
    again, first = random_weights.weights_of("mobile-sam"), torch.load(tmp_path / "random.pth", weights_only=True)
    assert set(again) == set(first)
    assert all(torch.equal(again[name], first[name]) for name in first)
