"""What is read from the environment: what counts as set, what stops the start, and in which words."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ByteSize, SecretStr

from labeling_ground.errors import BadSettings
from labeling_ground.settings import ENV_PREFIX, Settings, machine, read_settings
from labeling_ground.settings.read import MAY_HOLD_SECRETS, SECRETS, TEST_PREFIX
from labeling_ground.settings.reference import example_of
from labeling_ground.wiring import build_app

KEY = "0123456789abcdef"
FLOATS = [name for name, field in Settings.model_fields.items() if "float" in str(field.annotation)]
SIZES = [name for name, field in Settings.model_fields.items() if "ByteSize" in str(field.annotation)]


@pytest.fixture(autouse=True)
def only_what_a_test_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


def refusal() -> str:
    with pytest.raises(BadSettings) as refused:
        read_settings()
    return str(refused.value)


# --- empty is not set -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", " ", "\t \r"])
def test_an_empty_variable_is_not_set_whichever_it_is(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    right = read_settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", empty)
    found = read_settings()
    assert found == right == Settings()
    assert (found.admin_key, found.api_keys, found.host) == (None, (), "127.0.0.1")
    assert found.cache_dir.is_absolute()


def test_an_empty_text_is_not_set_for_somebody_who_makes_settings_in_python_either() -> None:
    assert Settings(admin_key="", host="", cache_dir="  ") == Settings()


def test_blanks_around_a_value_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELING_GROUND_ADMIN_KEY", f"{KEY} \r")  # as a file with Windows line ends has it
    monkeypatch.setenv("LABELING_GROUND_API_KEYS", f" {KEY}1 ,, {KEY}2\n")
    monkeypatch.setenv("LABELING_GROUND_HOST", " ::1")
    found = read_settings()
    assert found.admin_key == SecretStr(KEY)
    assert [key.get_secret_value() for key in found.api_keys] == [f"{KEY}1", f"{KEY}2"]
    assert found.host == "::1"


@pytest.mark.parametrize("name", ["API_KEYS", "CORS_ORIGINS"])
def test_a_list_of_nothing_but_commas_is_refused_because_something_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"LABELING_GROUND_{name}", " , ,")
    assert f"LABELING_GROUND_{name}" in refusal()


@pytest.mark.parametrize(("name", "value"), [("API_KEYS", f"{KEY},1234567"), ("ADMIN_KEY", "s3cret!")])
def test_a_key_that_is_too_short_to_be_one_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"LABELING_GROUND_{name}", value)
    said = refusal()
    assert f"LABELING_GROUND_{name}" in said
    assert "8 characters" in said
    assert value not in said


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("LABELING_GROUND_API_KEY", "LABELING_GROUND_API_KEYS"),
        ("LABELING_GROUND_MEMROY_BYTES", "LABELING_GROUND_MEMORY_BYTES"),
        ("labeling_ground_api_key", "LABELING_GROUND_API_KEYS"),
        ("LABELLING_GROUND_API_KEYS", "LABELING_GROUND_API_KEYS"),
        ("LABELING_GROUND_THREADS", None),
        ("LABELING_GROUND_XYZ", None),
        ("LABELING_GROUND_", None),
    ],
)
def test_a_variable_that_is_no_setting_stops_the_start_with_the_nearest_right_name(
    monkeypatch: pytest.MonkeyPatch, given: str, meant: str | None
) -> None:
    monkeypatch.setenv(given, "do-not-repeat-this")
    said = refusal()
    assert said.startswith(f"{given} ")
    assert "do-not-repeat-this" not in said
    assert meant is None or said.endswith(f"did you mean {meant}?")
    assert given.endswith("THREADS") or meant or "docs/settings.md" in said
    with pytest.raises(BadSettings, match=re.escape(given)):
        build_app()


def test_every_wrong_name_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELING_GROUND_API_KEY", KEY)
    monkeypatch.setenv("LABELING_GROUND_HOTS", "0.0.0.0")
    assert refusal().count("did you mean") == 2


def test_names_of_others_pass_and_so_do_those_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"{TEST_PREFIX}STRICT", "HOST", "PORT", "TS_API_KEYS", "MEMORY_BYTES", "LABELING_GROUND"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LABELING_GROUND_THREADS", "")  # empty is not set
    monkeypatch.setenv("labeling_ground_port", "8123")
    assert read_settings().port == 8123
    assert not [name for name in Settings.model_fields if f"{ENV_PREFIX}{name.upper()}".startswith(TEST_PREFIX)]


@pytest.mark.parametrize(
    "name", ["PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"]
)
def test_what_kubernetes_makes_for_a_service_of_our_name_is_explained(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"LABELING_GROUND_{name}", "tcp://10.0.0.7:8000")
    assert "enableServiceLinks: false" in refusal()


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_example_of_every_setting_is_a_right_value(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", example_of(name))
    assert getattr(read_settings(), name) is not None


@pytest.mark.parametrize(
    ("name", "value", "example"),
    [
        ("PORT", "eighty", "8000"),
        ("PORT", "65536", "8000"),
        ("LOG_LEVEL", "loud", "info"),
        ("SHARE_DECODER", "perhaps", "True"),
        ("MEMORY_BYTES", "1,5GiB", "2GiB"),
        ("DISK_BYTES", "2GiB or so", "8GiB"),
        ("REDIS_BYTES", "-1", "4GiB"),
        ("MAX_AGE_S", "never", "86400"),
        ("ENCODER_URL", "gpu:8080", "http://gpu:8080"),
        ("ENCODER_URL", "http://gpu:99999", "http://gpu:8080"),
        ("DECODER_URL", "http://:80", "http://cpu:7080"),
        ("DECODER_URL", "http://cpu:port", "http://cpu:7080"),
        ("ENCODER_MANAGEMENT_URL", "http://gpu:8081#x", "http://gpu:8081"),
        ("ENCODER_NAME", "a/b", "sam_vit_h_encode"),
        ("DECODER_NAME", "../x", "sam_vit_h_decode"),
    ],
)
def test_a_wrong_value_is_quoted_with_an_example_of_a_right_one(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, example: str
) -> None:
    monkeypatch.setenv(f"LABELING_GROUND_{name}", value)
    said = refusal()
    assert repr(value) in said
    assert said.endswith(f"For instance: LABELING_GROUND_{name}={example}")


def test_every_wrong_value_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELING_GROUND_PORT", "x")
    monkeypatch.setenv("LABELING_GROUND_IDLE_S", "-1")
    assert refusal().count("For instance") == 2


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "Infinity", "1e300"])
@pytest.mark.parametrize("name", FLOATS)
def test_a_number_that_is_none_or_has_no_end_is_refused_everywhere(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", value)
    assert f"cannot be {value!r}" in refusal()


@pytest.mark.parametrize("value", ["9999999999EB", "1 2", "2GiB;", "0x10", "½GiB"])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_only_begins_like_one_is_refused_everywhere(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", value)
    assert f"cannot be {value!r}" in refusal()


@pytest.mark.parametrize("value", ["2GiB", "2 GiB", "2.5gb", ".5GiB", "1000", "64MiB", "1k"])
def test_a_size_in_any_usual_form_is_read(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LABELING_GROUND_DISK_BYTES", value)
    assert isinstance(read_settings().disk_bytes, ByteSize)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENCODER_URL", "ftp://ann:s3cret-word@gpu:8080"),
        ("DECODER_URL", "ann:s3cret-word@gpu:8080"),
        ("ENCODER_MANAGEMENT_URL", "gpu:8080?token=s3cret-word"),
    ],
)
def test_no_secret_is_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LABELING_GROUND_{name}", value)
    said = refusal()
    assert "s3cret-word" not in said
    assert f"LABELING_GROUND_{name}" in said


def test_what_holds_a_secret_is_known() -> None:
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret == SECRETS
    assert {name for name in Settings.model_fields if name.endswith(("_url", "_mirror"))} - SECRETS == MAY_HOLD_SECRETS


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_of_the_home_directory_is_written_with_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LABELING_GROUND_CACHE_DIR", "~/cache")
    monkeypatch.setenv("LABELING_GROUND_TRACE_FILE", "~/trace")
    found = read_settings()
    assert (found.cache_dir, found.trace_file) == (tmp_path / "cache", tmp_path / "trace")


@pytest.mark.parametrize("given", ["", " ", "relative/cache"])
def test_an_xdg_folder_that_is_none_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("XDG_DATA_HOME", given)
    found = read_settings()
    assert found.cache_dir == tmp_path / ".cache" / "labeling-ground"
    assert found.models_dir == tmp_path / ".local" / "share" / "labeling-ground" / "models"


def test_without_a_home_directory_a_folder_is_asked_for_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        if path.parts[0] == "~":
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", no_home)
    found = read_settings(models_dir="/var/lib/models")
    assert found.folder("models_dir") == Path("/var/lib/models")
    for name in ("cache_dir", "browser_runtime_dir"):
        with pytest.raises(BadSettings, match=f"no home directory.*LABELING_GROUND_{name.upper()}"):
            found.folder(name)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "9000000 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu.max": "nonsense"}, 64),
        ({}, 64),
    ],
)
def test_workers_follow_the_share_of_the_cores_that_a_container_has(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    given = Settings()
    assert (given.decode_workers, given.encode_workers) == (cores, max(1, cores // 2))


@pytest.mark.parametrize(
    ("variables", "served"),
    [
        ({}, ("auto",)),
        ({"MODEL": "mobile-sam"}, ("mobile-sam",)),
        ({"MODELS": "sam-vit-h, classical ,sam-vit-h"}, ("sam-vit-h", "classical")),
        ({"MODELS": "sam-vit-h,classical", "MODEL": "classical"}, ("classical", "sam-vit-h")),
    ],
)
def test_the_models_that_are_served_the_default_first(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], served: tuple[str, ...]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"LABELING_GROUND_{name}", value)
    assert read_settings().served_models == served
