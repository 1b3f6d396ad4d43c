"""``models archive``: two archives of one model, of the version that the server here would give it."""

import json
import zipfile
from pathlib import Path

from click.testing import CliRunner
from tests.models.filled_store import filled, stored
from tests.needs import needs_program

from labeling_ground.cli import cli
from labeling_ground.inference.graphs import version_of
from labeling_ground.models.archive import version_files
from labeling_ground.sam.preprocess import version_number


def test_both_archives_bear_the_version_of_the_files(runner: CliRunner, tmp_path: Path) -> None:
    needs_program("torch-model-archiver")
    store, out = filled(tmp_path), tmp_path / "out"
    words = ["models", "archive", "my-sam", "--out", str(out), "--models-dir", str(store.folder), "--batch", "2"]
    result = runner.invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    version = version_of("my-sam", version_files(store, "my-sam"), "fp32")
    assert result.stderr.count(str(version)) == 2
    for half in ("encode", "decode"):
        with zipfile.ZipFile(out / f"sam_vit_h_{half}.mar") as found:
            assert json.loads(found.read("model.json"))["digest"] == version.digest
            assert b"batchSize: 2\n" in found.read("model-config.yaml")


def test_two_archives_cannot_have_one_name(runner: CliRunner, tmp_path: Path) -> None:
    words = ["models", "archive", "my-sam", "--out", str(tmp_path), "--encode-name", "sam", "--decode-name", "sam"]
    result = runner.invoke(cli, words)
    assert result.exit_code == 2
    assert "must differ" in result.stderr


def test_what_triton_serves_bears_the_same_version(runner: CliRunner, tmp_path: Path) -> None:
    store, out = stored(tmp_path), tmp_path / "out"
    words = ["models", "archive", "my-sam", "--for", "triton", "--out", str(out), "--models-dir", str(store.folder)]
    result = runner.invoke(cli, words)
    assert result.exit_code == 0, result.output
    version = version_of("my-sam", version_files(store, "my-sam"), "fp32")
    assert result.stderr.count(f"my-sam@{version.digest}") == 2
    for half in ("encode", "decode"):
        assert (out / f"sam_vit_h_{half}" / str(version_number(version)) / "model.onnx").is_file()
    result = runner.invoke(cli, [*words, "--batch", "2"])
    assert result.exit_code == 2
    assert "--batch and --batch-delay-ms are for TorchServe" in result.stderr
