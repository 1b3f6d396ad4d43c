"""The choice of an engine and a precision: what counts as installed, what speaks against a precision, what is kept."""

import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from tests.inference import disc_engine
from tests.inference.disc_engine import ENCODES, ENGINES

from labeling_ground.errors import BadSettings
from labeling_ground.inference import auto
from labeling_ground.inference.agreement import overlaps, this_machine
from labeling_ground.inference.auto import Model, best_of, choose, remembered
from labeling_ground.inference.choose import check_module, choose_backend
from labeling_ground.inference.graphs import NOTES, Precision
from labeling_ground.inference.sam import SamBackend
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.settings import Settings
from labeling_ground.verdict import Verdict
from labeling_ground.wiring import build_backend, models

HERE = disc_engine.__name__


def model(engines: Mapping[str, str] = ENGINES, **options: Any) -> Model:
    return Model("m", Path("e"), Path("d"), engines=engines, options={"openvino": options})


@pytest.mark.parametrize("failure", ["RuntimeError('no home directory')", "OSError('no library')", "KeyError('HOME')"])
def test_an_engine_whose_import_fails_for_any_reason_is_one_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    name = f"broken_engine_{abs(hash(failure))}"
    (tmp_path / f"{name}.py").write_text(f"raise {failure}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadSettings, match=r"No engine can serve.*broken: its library cannot be imported: .*no-such: "):
        choose(model({"broken": f"{name}:create", "no-such": "no_such_engine:create"}))
    with pytest.raises(BadSettings, match=f"cannot be served: {failure.partition('(')[0]}: "):
        choose_backend(f"{name}:create", encode_threads=1, decode_threads=1)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        pytest.param("raise SystemExit(2)", "cannot be served: SystemExit: 2", id="it ends the process"),
        pytest.param("next(iter([]))", "cannot be served: StopIteration", id="it runs out of something"),
        pytest.param('Toy(ModelVersion("My/Net", "0" * 64))', "made the model 'My/Net'", id="an id that no key takes"),
        pytest.param('Toy(ModelVersion("net", "run-2026-11-30-epoch-7"))', "is 16 hex digits or more", id="no digest"),
        pytest.param('Toy(ModelVersion("net", "0" * 15))', "is 16 hex digits or more", id="half a digest"),
    ],
)
def test_a_factory_that_makes_no_model_that_can_be_served_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, why: str
) -> None:
    """Keys have the first 16 digits of a version: of two trainings that are told apart later, one is the other's."""
    name = f"own_factory_{abs(hash(made))}"
    (tmp_path / f"{name}.py").write_text(
        "from labeling_ground.testing.toy_backend import ToyBackend as Toy\n"
        "from labeling_ground.types import ModelVersion\n\n\n"
        f"def create(**_):\n    return {made}\n".replace("return raise", "raise")
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadSettings, match=why):
        choose_backend(f"{name}:create", encode_threads=1, decode_threads=1)


@pytest.mark.parametrize("broken", ["raise RuntimeError('no GPU')", "raise SystemExit(2)"])
def test_a_package_that_fails_when_it_is_imported_stops_no_server_and_its_model_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Looking for a module imports the packages above it."""
    name = f"own_package_{abs(hash(broken))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(broken)
    (tmp_path / name / "model.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    check_module(f"{name}.model:create")
    with pytest.raises(BadSettings, match=r"cannot be served: (RuntimeError: no GPU|SystemExit: 2)\."):
        choose_backend(f"{name}.model:create", encode_threads=1, decode_threads=1)


# -- the precision ---------------------------------------------------------------------------------------------------

SLOW = Verdict("onnx", "fp32", 1.0, 0.1, 18, 1.0, 1.0)
LOWER = Verdict("openvino", "bf16", 0.4, 0.04, 18, 0.97, 0.99)


@pytest.mark.parametrize(
    ("lower", "chosen"),
    [
        pytest.param(LOWER, "bf16", id="faster, and agrees"),
        pytest.param(replace(LOWER, least_iou=0.95), "bf16", id="agrees just so"),
        pytest.param(replace(LOWER, least_iou=0.949), "fp32", id="one mask does not agree, the mean would"),
        pytest.param(replace(LOWER, masks=0), "fp32", id="nothing could be compared"),
        pytest.param(replace(LOWER, encode_s=0.85, decode_s=0.085), "fp32", id="a little faster only"),
        pytest.param(replace(LOWER, failed="no bf16 here"), "fp32", id="not here"),
    ],
)
def test_a_lower_precision_is_chosen_where_it_agrees_and_is_clearly_faster(lower: Verdict, chosen: str) -> None:
    full = Verdict("openvino", "fp32", 1.2, 0.09, 18, 1.0, 1.0)
    for verdicts in ((SLOW, full, lower), (lower, full, SLOW)):
        assert best_of(verdicts, 0.95).precision == chosen


def test_auto_takes_a_lower_precision_whose_masks_agree_and_says_so_in_every_answer() -> None:
    choice = choose(model(), "auto")
    assert (choice.engine, choice.precision, choice.backend.info.precision) == ("openvino", "bf16", "bf16")
    assert [(v.engine, v.precision) for v in choice.verdicts] == [
        ("openvino", "fp32"),
        ("onnx", "fp32"),
        ("openvino", "bf16"),
    ]
    assert choice.verdicts[-1].masks == 18
    assert 0.95 < choice.verdicts[-1].least_iou < 1
    assert choice.why.startswith("openvino in bf16: an image took")
    assert choice.backend.info.note.startswith(NOTES["bf16"])
    assert "18 masks overlap with those of fp32" in choice.backend.info.note


@pytest.mark.parametrize(
    ("options", "engines", "reason"),
    [
        pytest.param({"shift": 6.0}, ENGINES, "overlaps with that of fp32 by", id="other masks"),
        pytest.param({}, {"openvino": f"{HERE}:flat"}, "all empty, or all of the image", id="flat weights"),
    ],
)
def test_auto_is_fp32_where_the_masks_do_not_agree_or_say_nothing(
    options: dict[str, float], engines: dict[str, str], reason: str
) -> None:
    choice = choose(model(engines, **options), "auto")
    assert choice.precision == "fp32"
    assert choice.backend.info.note == ""
    assert reason in choice.why


def test_one_half_alone_is_fp32_under_auto_as_the_other_half_is_chosen_elsewhere() -> None:
    for half in (Model("m", Path("e"), None, engines=ENGINES), Model("m", None, Path("d"), engines=ENGINES)):
        choice = choose(half, "auto")
        assert (choice.precision, choice.backend.info.precision) == ("fp32", "fp32")
        assert "One half alone" in choice.why


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_what_the_engines_that_lost_have_held_is_given_back(
    precision: Literal["fp32", "bf16", "auto"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever order they are tried."""
    made: list[weakref.ref[object]] = []
    left: list[int] = []

    def build(given: Model, engine: str, precision: Precision) -> SamBackend:
        backend = built(given, engine, precision)
        made.append(weakref.ref(backend.engine))
        return backend

    built = Model.build
    monkeypatch.setattr(Model, "build", build)
    monkeypatch.setattr(auto, "give_back_garbage", lambda: left.append(sum(engine() is not None for engine in made)))
    for engines in (ENGINES, dict(reversed(ENGINES.items()))):
        made.clear()
        choice = choose(model(engines), precision)
        assert choice.precision == ("fp32" if precision == "fp32" else "bf16")
    assert left == [1, 1]


def test_the_same_is_chosen_again_without_a_trial_whatever_the_times_are_now() -> None:
    first = choose(model(), "auto")
    ENCODES.clear()
    again = remembered(model(slow_s=0.0), first.verdicts)
    assert again is not None
    assert (again.engine, again.precision) == ("openvino", "bf16")
    assert again.backend.info.note == first.backend.info.note
    assert ENCODES == []


def test_what_was_found_is_not_enough_where_engines_came_or_went() -> None:
    found = choose(model({"openvino": "no.such.module:create", "onnx": f"{HERE}:full"}), "auto").verdicts
    assert remembered(model({"openvino": "no.such.module:create", "onnx": f"{HERE}:full"}), found) is not None
    assert remembered(model(), found) is None  # it can be had now
    found = choose(model(), "auto").verdicts
    assert remembered(model({"openvino": "no.such.module:create", "onnx": f"{HERE}:full"}), found) is None
    assert remembered(model({**ENGINES, "third": f"{HERE}:full"}), found) is None


def test_what_models_check_has_found_counts_more_than_the_trial_at_load() -> None:
    checked = Verdict("openvino", "bf16", 0.1, 0.01, 99, 0.5, 0.9, source="check")
    choice = choose(model(), "auto", kept=[checked])
    assert choice.precision == "fp32"
    assert "by 50.0% only" in choice.why


def test_masks_that_are_both_empty_or_both_the_whole_image_say_nothing() -> None:
    nothing, everything = np.zeros((4, 4), np.bool_), np.ones((4, 4), np.bool_)
    half = np.arange(16).reshape(4, 4) < 8
    masks = {"click": [nothing, everything, half, nothing]}
    reference = {"click": [nothing, everything, everything, half]}
    assert overlaps(masks, reference) == {"click": [0.5, 0.0]}


# -- what is remembered ----------------------------------------------------------------------------------------------


def stored(folder: Path) -> Settings:
    store = ModelStore(folder / "models")
    for role in (Role.ENCODER, Role.DECODER):
        (folder / role).write_bytes(role.encode())
        store.add(folder / role, name="my-sam", role=role, family="sam")
    return Settings(models_dir=folder / "models", disk_bytes=0, model="my-sam", engine_precision="auto")


def test_the_choice_is_kept_with_the_model_and_goes_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ENGINES", ENGINES)
    settings = stored(tmp_path)
    backend, why = build_backend(settings)
    assert backend.info.precision == "bf16"
    assert "tried now" in why
    ENCODES.clear()
    again, why = build_backend(settings)
    assert (again.info.version, again.info.note) == (backend.info.version, backend.info.note)
    assert "found before" in why
    assert ENCODES == []
    store = ModelStore(settings.models_dir)
    noted = store.noted("my-sam")
    assert noted is not None
    assert {len(found) for found in noted.verdicts.values()} == {3}
    assert list(noted.verdicts) == [this_machine()]
    (tmp_path / "other").write_bytes(b"other weights")
    store.add(tmp_path / "other", name="my-sam", role=Role.ENCODER)
    assert "tried now" in build_backend(settings)[1]


def test_where_the_choice_cannot_be_kept_auto_is_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ENGINES", ENGINES)
    settings = stored(tmp_path)
    locks = tmp_path / "models" / "locks"
    for file in locks.iterdir():
        file.unlink()
    locks.rmdir()
    locks.write_text("no folder can be made here")
    backend, why = build_backend(settings)
    assert backend.info.precision == "fp32"
    assert "could not be kept" in why


def test_of_several_processes_that_start_at_once_one_tries_and_all_choose_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ENGINES", ENGINES)
    settings = stored(tmp_path)
    ENCODES.clear()
    found: list[str] = []
    starting = [threading.Thread(target=lambda: found.append(build_backend(settings)[1])) for _ in range(3)]
    for each in starting:
        each.start()
    for each in starting:
        each.join(60)
    assert sorted(why.rpartition("'auto', ")[2][:9] for why in found) == ["found bef", "found bef", "tried now"]
    assert len(ENCODES) == 6  # two pictures of each of three


def test_verdicts_of_another_version_are_left_out_and_the_model_is_still_here(tmp_path: Path) -> None:
    settings = stored(tmp_path)
    store = ModelStore(settings.models_dir)
    store.note_verdicts("my-sam", "a machine", [SLOW])
    path = settings.models_dir / "manifests" / "my-sam.json"
    path.write_text(path.read_text().replace('"engine": "onnx"', '"engine": "onnx", "later": 1'))
    noted = store.noted("my-sam")
    assert noted is not None
    assert (len(noted.files), noted.verdicts) == (2, {})


def test_machines_that_share_a_folder_have_verdicts_of_their_own(tmp_path: Path) -> None:
    settings = stored(tmp_path)
    store = ModelStore(settings.models_dir)
    for number in range(20):
        store.note_verdicts("my-sam", f"machine {number}", [SLOW])
    store.note_verdicts("my-sam", "machine 19", [replace(SLOW, encode_s=2.0), LOWER])
    noted = store.noted("my-sam")
    assert noted is not None
    assert list(noted.verdicts) == [f"machine {number}" for number in range(4, 20)]
    assert noted.verdicts["machine 19"] == (replace(SLOW, encode_s=2.0), LOWER)
