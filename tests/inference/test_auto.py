"""The trial of engines: what counts as installed."""

from pathlib import Path

import pytest

from labeling_ground.errors import BadSettings
from labeling_ground.inference.auto import choose
from labeling_ground.inference.choose import choose_backend


@pytest.mark.parametrize("failure", ["RuntimeError('no home directory')", "OSError('no library')", "KeyError('HOME')"])
def test_an_engine_whose_import_fails_for_any_reason_is_one_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    name = f"broken_engine_{abs(hash(failure))}"
    (tmp_path / f"{name}.py").write_text(f"raise {failure}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadSettings, match=r"No engine can serve.*broken: its library cannot be imported: .*no-such: "):
        choose(
            1,
            1,
            encoder_path=tmp_path / "encoder.onnx",
            decoder_path=tmp_path / "decoder.onnx",
            engines={"broken": f"{name}:create", "no-such": "no_such_engine:create"},
        )
    with pytest.raises(BadSettings, match=f"cannot be served: {failure.partition('(')[0]}: "):
        choose_backend(f"{name}:create", encode_threads=1, decode_threads=1)
