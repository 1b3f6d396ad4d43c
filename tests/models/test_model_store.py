"""The model store keeps what was verified, under its digest, and knows whose it is."""

import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.models.weights_server import artifact_of, bytes_of, catalogue_of, model_of

from labeling_ground.errors import BadInput, PullFailed, UnknownModel
from labeling_ground.models import disk
from labeling_ground.models.catalogue import Format, Role
from labeling_ground.models.manifests import StoredFile
from labeling_ground.models.store import ModelStore, is_here

ENCODER, DECODER, CHECKPOINT, MINE = (bytes_of(seed, 50_000 + seed) for seed in range(4))
MODEL = model_of(
    artifact_of(Role.ENCODER, "https://host.invalid/enc.onnx", ENCODER, precision="int8"),
    artifact_of(Role.DECODER, "https://host.invalid/dec.onnx", DECODER),
    artifact_of(Role.CHECKPOINT, "https://host.invalid/tiny.pt", CHECKPOINT),
)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", catalogue_of(MODEL))


def brought(tmp_path: Path, content: bytes, name: str = "brought.bin") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def blobs(store: ModelStore) -> set[str]:
    return {path.name for path in (store.folder / "blobs").iterdir()}


def test_a_file_is_known_by_its_digest_whatever_its_name(store: ModelStore, tmp_path: Path) -> None:
    assert store.add(brought(tmp_path, ENCODER, "renamed (1).bin")) == "tiny-sam"
    found = store.installed()["tiny-sam"]
    assert found.files[Role.ENCODER] == StoredFile(
        Role.ENCODER,
        hashlib.sha256(ENCODER).hexdigest(),
        len(ENCODER),
        "enc.onnx",
        "by hand",
        precision="int8",
        io="official",
    )
    assert (found.own, found.family, found.formats) == (False, "sam", ())
    assert store.path_of("tiny-sam", Role.ENCODER).read_bytes() == ENCODER
    store.add(brought(tmp_path, DECODER))
    found = store.installed()["tiny-sam"]
    assert found.formats == (Format.ONNX,)
    assert is_here(found, MODEL)
    assert not is_here(found, MODEL, Format.PYTORCH)
    assert list((store.folder / "partial").iterdir()) == []


def test_the_original_stays_and_is_not_what_is_served(store: ModelStore, tmp_path: Path) -> None:
    original = brought(tmp_path, ENCODER)
    store.add(original)
    original.write_bytes(b"changed later")
    assert store.path_of("tiny-sam", Role.ENCODER).read_bytes() == ENCODER


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (MINE, r"none of the catalogue's files: .*--as NAME --role"),
        (ENCODER[:-1], "none of the catalogue's files: it is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"", "is empty"),
    ],
)
def test_an_unknown_file_is_refused_and_leaves_nothing(
    store: ModelStore, tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        store.add(brought(tmp_path, content))
    assert store.installed() == {}
    assert not any(path.is_file() for path in store.folder.rglob("*"))


def test_what_is_no_file_is_refused(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no file"):
        store.add(tmp_path)
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        store.add(tmp_path / "nothing")


def test_a_model_of_ones_own_has_its_digest_for_identity(store: ModelStore, tmp_path: Path) -> None:
    mine = brought(tmp_path, MINE, "mine.onnx")
    assert store.add(mine, name="my-sam", role=Role.DECODER, family="sam") == "my-sam"
    store.add(brought(tmp_path, ENCODER), name="my-sam", role=Role.ENCODER)
    found = store.installed()["my-sam"]
    assert (found.own, found.family, found.formats) == (True, "sam", (Format.ONNX,))
    assert found.files[Role.DECODER].sha256 == hashlib.sha256(MINE).hexdigest()
    assert "tiny-sam" not in store.installed()


@pytest.mark.parametrize(
    ("name", "role", "words"),
    [
        ("tiny-sam", Role.ENCODER, "a name of ours"),
        ("classical", Role.ENCODER, "a name of ours"),
        ("../escape", Role.ENCODER, "cannot be a model's name"),
        ("My SAM", Role.ENCODER, "cannot be a model's name"),
        ("my-sam", None, "--role"),
    ],
)
def test_a_name_or_role_that_cannot_be_is_said(
    store: ModelStore, tmp_path: Path, name: str, role: Role | None, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        store.add(brought(tmp_path, MINE), name=name, role=role)


def test_the_halves_of_ones_own_model_are_of_one_family(store: ModelStore, tmp_path: Path) -> None:
    store.add(brought(tmp_path, MINE), name="my-sam", role=Role.DECODER, family="sam")
    with pytest.raises(BadInput, match="is of the family sam"):
        store.add(brought(tmp_path, ENCODER), name="my-sam", role=Role.ENCODER, family="sam2")
    store.add(brought(tmp_path, DECODER), name="my-sam", role=Role.DECODER, family="sam2")
    assert store.installed()["my-sam"].family == "sam2"


def test_a_replaced_file_goes_unless_another_model_uses_it(store: ModelStore, tmp_path: Path) -> None:
    store.add(brought(tmp_path, MINE), name="my-sam", role=Role.DECODER)
    store.add(brought(tmp_path, MINE), name="shared", role=Role.DECODER)
    store.add(brought(tmp_path, DECODER), name="my-sam", role=Role.DECODER)
    assert blobs(store) == {f"sha256-{hashlib.sha256(content).hexdigest()}" for content in (MINE, DECODER)}
    store.add(brought(tmp_path, DECODER), name="shared", role=Role.DECODER)
    assert blobs(store) == {f"sha256-{hashlib.sha256(DECODER).hexdigest()}"}
    assert store.remove("my-sam") == 0
    assert store.remove("shared") == len(DECODER)
    assert blobs(store) == set()


def test_remove_takes_the_manifest_the_files_and_what_an_interrupted_pull_left(
    store: ModelStore, tmp_path: Path
) -> None:
    store.add(brought(tmp_path, ENCODER))
    part = store.part(MODEL.artifacts[2].sha256)
    part.write_bytes(b"half")
    part.with_suffix(".json").write_text("{}")
    assert store.remove("tiny-sam") == len(ENCODER) + 4
    assert [path for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    for name in ("tiny-sam", "never", "../manifests"):
        with pytest.raises(UnknownModel, match="Nothing of a model"):
            store.remove(name)


def test_what_is_not_here_says_how_to_get_it(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="labeling-ground models pull tiny-sam\\."):
        store.path_of("tiny-sam", Role.ENCODER)
    with pytest.raises(UnknownModel, match="models pull tiny-sam --format pytorch"):
        store.path_of("tiny-sam", Role.CHECKPOINT)
    with pytest.raises(UnknownModel, match="Did you mean tiny-sam"):
        store.path_of("tinysam", Role.ENCODER)
    store.add(brought(tmp_path, MINE), name="my-sam", role=Role.DECODER)
    with pytest.raises(UnknownModel, match="models add FILE --as my-sam"):
        store.path_of("my-sam", Role.ENCODER)


def test_a_model_without_ready_made_files_says_how_to_make_them(tmp_path: Path) -> None:
    alone = model_of(artifact_of(Role.CHECKPOINT, "https://host.invalid/tiny.pt", CHECKPOINT))
    store = ModelStore(tmp_path / "models", catalogue_of(alone))
    for _ in range(2):
        with pytest.raises(
            UnknownModel, match=r"no ready-made encoder .* pull tiny-sam, then .* export tiny-sam; or serve"
        ):
            store.path_of("tiny-sam", Role.ENCODER)
        assert store.add(brought(tmp_path, CHECKPOINT)) == "tiny-sam"
    assert store.path_of("tiny-sam", Role.CHECKPOINT).read_bytes() == CHECKPOINT


def test_a_file_that_is_gone_or_cut_short_does_not_count(store: ModelStore, tmp_path: Path) -> None:
    for content in (ENCODER, DECODER):
        store.add(brought(tmp_path, content))
    store.path_of("tiny-sam", Role.DECODER).write_bytes(DECODER[:-1])
    assert set(store.installed()["tiny-sam"].files) == {Role.ENCODER}
    store.add(brought(tmp_path, DECODER))  # which repairs it
    assert store.installed()["tiny-sam"].formats == (Format.ONNX,)
    store.path_of("tiny-sam", Role.DECODER).unlink()
    store.path_of("tiny-sam", Role.ENCODER).unlink()
    assert store.installed() == {}


def test_content_that_rotted_is_found_by_reading(store: ModelStore, tmp_path: Path) -> None:
    for content in (ENCODER, DECODER):
        store.add(brought(tmp_path, content))
    assert store.damaged("tiny-sam") == ()
    assert store.damaged("never") == ()
    store.path_of("tiny-sam", Role.DECODER).write_bytes(bytes(len(DECODER)))
    assert store.damaged("tiny-sam") == (Role.DECODER,)


@pytest.mark.parametrize("change", ["{", '{"layout": 2, "files": []}', '{"layout": 1}', "[]", "path"])
def test_a_manifest_that_cannot_be_used_is_no_model_and_a_log_line(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    store.add(brought(tmp_path, ENCODER))
    manifest = store.folder / "manifests" / "tiny-sam.json"
    if change == "path":  # a digest that is a path must not be followed
        change = json.dumps(json.loads(manifest.read_text()) | {"files": [{"role": "encoder", "sha256": "../../x"}]})
    manifest.write_text(change)
    with caplog.at_level(logging.WARNING):
        assert store.installed() == {}
    assert "cannot be used" in caplog.text
    store.add(brought(tmp_path, ENCODER))
    assert "tiny-sam" in store.installed()


def test_a_full_disk_is_said_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=12_000_000))
    with pytest.raises(PullFailed, match=r"2\.0 GB are needed and 12 MB are free"):
        disk.check_room(tmp_path, 2_000_000_000)
    disk.check_room(tmp_path / "not" / "there" / "yet", 1)
    said = str(disk.disk_trouble(tmp_path, OSError(28, "No space left on device")))
    assert said.startswith("The disk is full:")


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    told: list[bool] = []
    with (
        disk.locked(tmp_path / "lock"),
        pytest.raises(TimeoutError),
        disk.locked(tmp_path / "lock", wait_s=0.2, waiting=lambda: told.append(True)),
    ):
        raise AssertionError("unreachable")
    assert told == [True]
    with disk.locked(tmp_path / "lock", wait_s=0):
        pass
