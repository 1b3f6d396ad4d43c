"""``labeling-ground engine``: two processes with one half each, and a server that uses them."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from tests.doubles import on
from tests.inference.engines import disc_files
from tests.inference.remote_asks import PROMPTS, image, same
from tests.needs import needs
from tests.ports import free_port
from tests.running import command

from labeling_ground.cli import cli
from labeling_ground.errors import BadSettings, UnknownModel
from labeling_ground.inference.auto import Halves
from labeling_ground.inference.remote.wire import EngineRole
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_backend, build_endpoints

pytestmark = pytest.mark.anyio

ROLES = {"encoder_path": Role.ENCODER, "decoder_path": Role.DECODER, "fast_decoder_path": Role.FAST_DECODER}
NAMES = {"encoder": "sam_vit_h_encode", "decoder": "sam_vit_h_decode"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model of one's own in a store."""
    needs("onnxruntime")
    store = ModelStore(tmp_path / "models")
    for name, role in ROLES.items():
        file = disc_files().get(name)
        if file is not None:
            store.add(file, name="my-sam", role=role)
    return store.folder


@contextlib.contextmanager
def half(role: str, weights: Path, kept: Path) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """One half's address, that of its management, and its process."""
    port, management = free_port(), free_port()
    words = ["engine", "--role", role, "--model", "my-sam", "--port", str(port), "--management-port", str(management)]
    url, told = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{management}"
    chosen = {
        "models_dir": weights,
        "engine": "onnx",
        "embedding_store_dir": kept,
        "decode_workers": 2,
        "log_format": "json",
    }
    with command(*words, ready=f"{url}/ping", **chosen) as process:
        yield url, told, process


def check_surface(url: str, management: str) -> None:
    """It tells its workers, refuses what is too large, and has nothing else to see."""
    name = NAMES["decoder"]
    status = httpx.get(f"{management}/models/{name}", timeout=60).json()[0]
    assert [worker["status"] for worker in status["workers"]] == ["READY", "READY"]
    for address in (f"{url}/models/{name}", f"{url}/docs", f"{url}/openapi.json", f"{management}/predictions/{name}"):
        assert httpx.get(address, timeout=60).status_code == 404
    assert httpx.get(f"{url}/predictions/{name}", timeout=60).status_code == 405
    assert httpx.post(f"{url}/predictions/{name}", content=bytes(65 << 20), timeout=60).status_code == 413


@pytest.mark.slow
async def test_two_processes_with_a_half_each_give_the_masks_of_one_with_both(weights: Path, tmp_path: Path) -> None:
    whole, _ = build_backend(Settings(models_dir=weights, model="my-sam", engine="onnx"))
    with (
        half("encoder", weights, tmp_path / "kept") as (encoder, encoder_told, encoding),
        half("decoder", weights, tmp_path / "kept") as (decoder, decoder_told, decoding),
    ):
        check_surface(decoder, decoder_told)
        remote, why = build_backend(
            Settings(
                encoder_url=encoder,
                encoder_management_url=encoder_told,
                decoder_url=decoder,
                decoder_management_url=decoder_told,
            )
        )
        assert why == "in other processes: 1 encoder and 2 decoder workers"
        assert remote.info.version == whole.info.version
        [embedding] = await remote.encode([image()])
        same(await remote.decode(on(embedding, PROMPTS)), await whole.decode(on(embedding, PROMPTS)))
        await remote.aclose()
        for process in (encoding, decoding):
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
    await whole.aclose()


def test_halves_in_other_places_have_the_version_of_the_whole_model(weights: Path, tmp_path: Path) -> None:
    """Also where the other half's file is not there any more."""
    whole, why = build_backend(Settings(models_dir=weights, model="my-sam", engine="onnx", encode_workers=1))
    assert why.startswith("onnx")
    store = ModelStore(weights)
    for gone, halves, role in (
        (Role.DECODER, Halves(decoder=False), EngineRole.ENCODER),
        (Role.ENCODER, Halves(encoder=False), EngineRole.DECODER),
    ):
        path = store.path_of("my-sam", gone)
        away = path.rename(tmp_path / "away")
        settings = Settings(models_dir=weights, model="my-sam", engine="onnx", embedding_store_dir=tmp_path / "kept")
        [endpoint], _ = build_endpoints(settings, halves)
        assert endpoint.handler.description.role is role
        assert endpoint.handler.description.version == whole.info.version
        endpoint.close()
        away.rename(path)


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["--model", "classical"], BadSettings, "serves Segment Anything models"),
        (["--model", "mobile-sam"], UnknownModel, "models pull mobile-sam"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_with_the_remedy(
    runner: CliRunner, words: list[str], error: type[Exception], says: str
) -> None:
    result = runner.invoke(cli, ["engine", *words])
    assert isinstance(result.exception, error)
    assert says in str(result.exception)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"encoder_url": "http://127.0.0.1:1"}, "both encoder_url and decoder_url"),
        ({"encoder_url": "http://127.0.0.1:1", "decoder_url": "http://127.0.0.1:1"}, "not ready after 0 s"),
    ],
)
def test_engines_that_cannot_be_used_are_said_at_start(settings: dict[str, str], says: str) -> None:
    with pytest.raises(BadSettings, match=says):
        build_backend(Settings(engine_wait_s=0, **settings))  # type: ignore[arg-type]


def test_an_address_that_is_empty_is_none() -> None:
    assert Settings(encoder_url="", decoder_url="").encoder_url == ()
    with pytest.raises(ValueError, match="http"):
        Settings(encoder_url="gpu:8080")
