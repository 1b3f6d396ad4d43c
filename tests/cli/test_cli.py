"""The commands: what was asked for to stdout, what is said on the way to stderr, exit codes that tell."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from tests.cli.conftest import data_of
from tests.cli.photos import SLOW_ENGINE, photo
from tests.inference.toy_engine import NAMES, ToyEngine, endpoint, served
from tests.ports import free_port

from labeling_ground.cli import cli, main
from labeling_ground.cli.running import listen
from labeling_ground.cli.serve import _greet
from labeling_ground.errors import BadSettings, UnknownModel
from labeling_ground.inference.remote.wire import EngineRole
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_parts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    (place / "deeper").mkdir(parents=True)
    for index in range(3):
        (place / f"{index}.png").write_bytes(photo(index))
    (place / "deeper" / "3.PNG").write_bytes(photo(3))
    (place / "same-as-0.png").write_bytes(photo(0))
    (place / "notes.txt").write_text("no image")
    return place


SECOND = "tests.web.second_model:make"


def commands_of(group: click.Group, *words: str) -> Iterator[tuple[str, ...]]:
    yield words
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, *words, name)
        else:
            yield (*words, name)


def test_every_command_explains_itself_and_no_list_of_commands_cuts_a_sentence_off(runner: CliRunner) -> None:
    for words in commands_of(cli):
        result = runner.invoke(cli, [*words, "--help"], terminal_width=80)
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) > 4
        _, _, listed = result.stdout.partition("Commands:")
        assert "..." not in listed, words


def test_warm_computes_each_image_once_and_a_second_run_hits_everything(runner: CliRunner, folder: Path) -> None:
    first = data_of(runner.invoke(cli, ["warm", str(folder), "--json"]))
    assert first["files"] == 5
    assert first["computed"] + first["hit"] == 5
    assert first["computed"] in (4, 5)  # the twin files may be under way at the same time, and then one joins
    assert first["failed"] == []
    [stats] = data_of(runner.invoke(cli, ["cache", "stats", "--json"]))["tiers"]
    assert stats["entries_by_kind"]["embedding"] == 4
    assert stats["entries_by_kind"]["image"] == 4
    second = data_of(runner.invoke(cli, ["warm", str(folder), "--json"]))
    assert (second["hit"], second["computed"]) == (5, 0)


@pytest.mark.parametrize("served", ["classical", f"classical,{SECOND}", f"{SECOND},classical"])
def test_warm_encodes_by_the_model_that_is_named_whichever_are_served(
    runner: CliRunner, folder: Path, monkeypatch: pytest.MonkeyPatch, served: str
) -> None:
    monkeypatch.setenv("LABELING_GROUND_MODELS", served)
    words = ["warm", str(folder), "--json", "--model"]
    assert data_of(runner.invoke(cli, [*words, SECOND]))["computed"] >= 4
    assert data_of(runner.invoke(cli, [*words, SECOND]))["hit"] == 5
    assert data_of(runner.invoke(cli, [*words, "classical"]))["computed"] >= 4, "another model's entries are no hits"
    for model in ("second", "classical"):
        assert data_of(runner.invoke(cli, ["cache", "purge", "--yes", "--model", model, "--json"])) == {"deleted": 4}


def test_warm_names_the_files_that_failed_and_goes_on(runner: CliRunner, folder: Path) -> None:
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    result = runner.invoke(cli, ["warm", str(folder)])
    assert result.exit_code == 1
    assert re.search(r"failed: .*1\.png: ", result.stderr)
    assert "1 failed" in result.stdout


def test_warm_refuses_an_empty_folder_with_a_sentence(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = runner.invoke(cli, ["warm", str(tmp_path / "empty")])
    assert result.exit_code == 2
    assert "there is no image file" in result.stderr


def test_warm_waits_for_engines_that_are_restarted(
    runner: CliRunner, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    class Restarting(ToyEngine):
        """Ends after its first image, as an engine that drains does, and is back after a while."""

        def encode(self, pixels: Any) -> Any:
            made = super().encode(pixels)
            if self.encodes == 1:
                both.drain.begin()
                threading.Thread(target=come_back).start()
            return made

    def come_back() -> None:
        refused.append(httpx.get(f"{both.url}/ping", timeout=60).status_code)
        time.sleep(1.5)
        both.drain.has_begun = False

    with served(*(endpoint(role, Restarting(), tmp_path / "kept") for role in EngineRole)) as both:
        for half in EngineRole:
            monkeypatch.setenv(f"LABELING_GROUND_{half.value.upper()}_URL", both.url)
            monkeypatch.setenv(f"LABELING_GROUND_{half.value.upper()}_NAME", NAMES[half])
        monkeypatch.setenv("LABELING_GROUND_MODEL", "auto")
        found = data_of(runner.invoke(cli, ["warm", str(folder), "--json"]))
        assert found["failed"] == []
        assert refused == [503]
        monkeypatch.setenv("LABELING_GROUND_ENGINE_WAIT_S", "0")
        both.drain.begin()
        result = runner.invoke(cli, ["warm", str(folder)])
        assert "shutting down" in str(result.exception)


def test_warm_stops_cleanly_at_ctrl_c_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(40):
        (folder / f"{index:02}.png").write_bytes(photo(index, (320, 240)))
    (tmp_path / "slow_engine.py").write_text(SLOW_ENGINE)
    environment = os.environ | {
        "LABELING_GROUND_CACHE_DIR": str(tmp_path / "cache"),
        "LABELING_GROUND_MODEL": "slow_engine:create",
        "LABELING_GROUND_ENCODE_WORKERS": "1",
        "PYTHONPATH": str(tmp_path),
    }
    command = [sys.executable, "-m", "labeling_ground", "warm", str(folder), "--json"]
    process = subprocess.Popen(
        command, env=environment | {"SLOW_S": "0.5"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stored = tmp_path / "cache"
    while process.poll() is None and not list(stored.rglob("*.bin")):
        time.sleep(0.005)  # until the first embedding is on disk
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    first = json.loads(out)
    assert first["interrupted"] is True
    assert 0 < first["computed"] < 40
    again = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=True)
    second = json.loads(again.stdout)
    assert second["hit"] == first["computed"]
    assert second["computed"] == 40 - first["computed"]


OWN_ENGINE = '''
"""An engine of an operator's own, which looks at what its threads are told."""
import os
from labeling_ground.errors import BadSettings

def create(**chosen):
    told = [name for name in os.environ if name.endswith("_NUM_THREADS")]
    raise BadSettings(f"told: {told}")
'''


def test_an_engine_of_ones_own_has_its_threads(tmp_path: Path) -> None:
    (tmp_path / "own_engine.py").write_text(OWN_ENGINE)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"PYTHONPATH": str(tmp_path), "LABELING_GROUND_MODEL": "own_engine:create"}
    for words in (["serve", "--port", "0"], ["doctor"]):
        command = [sys.executable, "-m", "labeling_ground", *words, "--cache-dir", str(tmp_path / "cache")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 1
        assert "told: []" in done.stdout + done.stderr


def test_purge_takes_one_image_or_everything_and_asks_first(runner: CliRunner, folder: Path) -> None:
    data_of(runner.invoke(cli, ["warm", str(folder), "--json"]))
    assert runner.invoke(cli, ["cache", "purge"], input="n\n").exit_code == 1
    assert data_of(runner.invoke(cli, ["cache", "stats", "--json"]))["tiers"][0]["entries"] == 8
    image_id = __import__("hashlib").sha256(photo(2)).hexdigest()
    purge = ["cache", "purge", "--yes", "--json"]
    assert data_of(runner.invoke(cli, [*purge, "--image", image_id.upper()])) == {"deleted": 2}
    assert data_of(runner.invoke(cli, [*purge, "--model", "classical"])) == {"deleted": 3}
    assert data_of(runner.invoke(cli, purge)) == {"deleted": 3}
    assert data_of(runner.invoke(cli, ["cache", "stats", "--json"]))["tiers"][0]["bytes"] == 0
    assert runner.invoke(cli, [*purge, "--image", "nonsense"]).exit_code == 2


def test_doctor_finds_a_working_installation_in_order(runner: CliRunner) -> None:
    found = data_of(runner.invoke(cli, ["doctor", "--json"]))
    assert found["ok"] is True
    names = {finding["name"]: finding for finding in found["findings"]}
    assert "classical" in names["engine"]["text"]
    # What was chosen stands by itself: it need not be a clause ("in other processes: …", "onnx in fp32: …").
    assert " (the setting 'model' is 'auto'; it needs no weights): a first test image took " in names["engine"]["text"]
    assert "free on its file system" in names["disk tier"]["text"]


def test_doctor_says_what_is_wrong_and_fails(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("in the way")
    result = runner.invoke(cli, ["doctor", "--cache-dir", str(tmp_path / "a-file" / "cache")])
    assert result.exit_code == 1
    assert "BAD  disk tier" in result.stdout


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ("classical,mobile-sam", "models pull mobile-sam"),
        ("classical,no_such_module:make", "no module 'no_such_module'"),
        ("classical,tests.no_such_package.model:make", "no module 'tests.no_such_package.model'"),
    ],
)
def test_one_of_several_models_that_is_not_here_is_named_by_doctor_as_by_the_server(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, models: str, says: str
) -> None:
    monkeypatch.setenv("LABELING_GROUND_MODELS", models)
    examined = runner.invoke(cli, ["doctor"])
    assert examined.exit_code == 1
    assert "BAD  models" in examined.stdout
    served = runner.invoke(cli, ["serve", "--port", "0"])
    for said in (examined.stdout, str(served.exception)):
        assert says in said
    monkeypatch.setenv("LABELING_GROUND_MODELS", f"classical,{SECOND}")
    assert f"ok   models         classical, {SECOND}" in runner.invoke(cli, ["doctor"]).stdout


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "eighty", "port"),
        ("IDLE_S", "-1", "idle_s"),
        ("POLICY", "magic", "policy"),
        ("MODEL", "sam-9000", "model"),
        ("MEMORY_BYTES", "a lot", "memory_bytes"),
    ],
)
def test_a_setting_that_cannot_work_is_named_in_one_sentence(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"LABELING_GROUND_{name}", value)
    result = runner.invoke(cli, ["serve", "--port", "0"] if name != "PORT" else ["serve"])
    assert isinstance(result.exception, BadSettings | UnknownModel)
    assert words in str(result.exception)


def test_a_key_in_an_engines_url_is_said_nowhere(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELING_GROUND_ENCODER_URL", f"http://ann:s3cret-word@127.0.0.1:{free_port()}")
    monkeypatch.setenv("LABELING_GROUND_DECODER_URL", f"http://s3cret-word@127.0.0.1:{free_port()}/s3cret-word")
    monkeypatch.setenv("LABELING_GROUND_ENGINE_WAIT_S", "0")
    result = runner.invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "The engines sam_vit_h_encode at http://127.0.0.1:" in result.output
    served = runner.invoke(cli, ["serve", "--port", "0"])
    assert isinstance(served.exception, BadSettings)
    for said in (result.output, served.output, str(served.exception)):
        assert "s3cret-word" not in said


def test_an_option_with_nothing_behind_it_is_refused_and_is_not_the_current_folder(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ["serve", "--host", ""],
        ["serve", "--memory-bytes", " "],
        ["engine", "--models-dir", ""],
        ["doctor", "--cache-dir", ""],
        ["cache", "purge", "--yes", "--cache-dir", " "],
        ["models", "list", "--models-dir", ""],
    ):
        result = runner.invoke(cli, words)
        assert result.exit_code == 2, words
        assert "is empty: leave it out" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--port", "0"],
        ["engine", "--port", "0"],
        ["doctor"],
        ["warm", "."],
        ["cache", "stats"],
        ["cache", "purge", "--yes"],
        ["cache", "synth", "--out", "trace"],
        ["cache", "simulate", "trace"],
        ["cache", "trace", "info", "trace"],
        ["models", "list"],
        ["browser-decoder"],
    ],
)
def test_every_command_stops_at_a_variable_that_is_no_setting(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABELING_GROUND_API_KEY", "a-key-of-the-annotators")
    result = runner.invoke(cli, words)
    assert isinstance(result.exception, BadSettings)
    assert str(result.exception) == "LABELING_GROUND_API_KEY is no setting: did you mean LABELING_GROUND_API_KEYS?"
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_is_a_sentence_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise BadSettings("This cannot work.")

    with pytest.raises(SystemExit) as stopped:
        main(fail)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "labeling-ground: This cannot work.\n"


def test_what_a_command_was_asked_for_can_be_searched_and_paged(runner: CliRunner, folder: Path) -> None:
    warmed = runner.invoke(cli, ["warm", str(folder)])
    assert re.search(r"\d hit, \d computed, 0 failed", warmed.stdout)
    for words, found in (
        (["doctor"], "ok   disk tier"),
        (["cache", "stats"], "8 entries"),
        (["models", "list"], "mobile-sam"),
        (["cache", "purge", "--yes"], "8 entries deleted"),
    ):
        result = runner.invoke(cli, words)
        assert found in result.stdout
        assert result.stderr == ""
        if words == ["cache", "stats"]:
            kinds = result.stdout.splitlines()[2:]
            assert [line.split()[:2] for line in kinds] == [["embedding", "4"], ["image", "4"]]
            assert len({line.index("entries") for line in kinds}) == 1


@pytest.mark.parametrize("words", [["cache", "stats"], ["cache", "purge", "--yes"], ["doctor"]], ids=" ".join)
def test_a_folder_that_is_misspelled_is_not_made(runner: CliRunner, tmp_path: Path, words: list[str]) -> None:
    wrong = tmp_path / "typo" / "cache"
    assert runner.invoke(cli, [*words, "--cache-dir", str(wrong)]).exit_code == 0
    assert not wrong.parent.exists()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "256.0.0.1", "a..b", "2001:db8::7"])
def test_a_host_that_cannot_be_had_gets_advice_about_the_host(host: str) -> None:
    with pytest.raises(BadSettings, match="--host or LABELING_GROUND_HOST") as refused:
        listen(host, 0, hint="Choose another port.")
    assert host in str(refused.value)
    assert "another port" not in str(refused.value)


def test_a_port_that_is_taken_gets_advice_about_the_port() -> None:
    with listen("localhost", 0, hint="") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSettings, match=f"port {port}.*Choose another port") as refused:
            listen("127.0.0.1", port, hint="Choose another port.")
    assert "--host" not in str(refused.value)


def test_a_host_may_stand_in_brackets_as_in_a_url() -> None:
    with listen("[::1]", 0, hint="") as listener:
        assert listener.getsockname()[0] == "::1"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_the_greeting_names_the_pages_and_promises_no_disk_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder, promised in ((tmp_path / "cache", True), (tmp_path / "file" / "cache", False)):
        settings = Settings(cache_dir=folder, log_format="text", host=host, root_path="/label")
        with listen(host, 0, hint="") as listener:
            _greet(settings, listener, build_parts(settings))
            port = listener.getsockname()[1]
        said = capsys.readouterr().err
        assert f"label at http://{host}:{port}/label/" in said
        assert "open to this machine" in said
        assert (f"disk 8.0 GiB in {folder}" in said) is promised
        assert ("no disk tier (The cache directory" in said) is not promised


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say with --api-key"),
        (["--api-key", "a-key-of-nobody"], "none of the api_keys"),
        (["--api-key", " "], "--api-key is empty"),
        (["--api-key", "a-key-of-ann "], ""),
    ],
)
def test_warm_fills_only_a_namespace_that_somebody_has(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str], says: str
) -> None:
    monkeypatch.setenv("LABELING_GROUND_API_KEYS", "a-key-of-ann,a-key-of-ben")
    result = runner.invoke(cli, ["warm", str(folder), *words])
    assert result.exit_code == (2 if says else 0)
    assert says in result.stderr
    assert "a-key-of-" not in result.output
