"""A real Triton as encoder and decoder, serving what ``models archive --for triton`` writes.

The Triton that can be installed as a package comes without its ONNX backend: the repository is served as it was written
but for the name of the backend, and a few lines in Triton's Python backend compute each ``model.onnx``.
"""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.doubles import on, until
from tests.inference.engines import PROMPTS, disc_files, files, image
from tests.inference.toy_engine import LONG_S
from tests.needs import needs
from tests.ports import free_port

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.graphs import version_of
from labeling_ground.models import triton
from labeling_ground.models.archive import version_files
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.preprocess import version_number
from labeling_ground.settings import Settings
from labeling_ground.types import ModelVersion
from labeling_ground.wiring.models import build_remote

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

DRIVERS = Path(__file__).parent / "drivers"
NAMES = {Role.ENCODER: "sam_encode", Role.DECODER: "sam_decode"}
PATHS = {Role.ENCODER: "encoder_path", Role.DECODER: "decoder_path", Role.FAST_DECODER: "fast_decoder_path"}


def archived(folder: Path, graphs: Mapping[str, Any], repository: Path) -> ModelVersion:
    """Write both halves of a model into a repository; its version."""
    store = ModelStore(folder)
    for role, path in PATHS.items():
        store.add(graphs[path], name="sam-small", role=role, family="sam")
    version = version_of("sam-small", version_files(store, "sam-small"), "fp32")
    for half, name in NAMES.items():
        staged = triton.archive(store, "sam-small", half, version, folder / "staged" / name)
        target = repository / name
        for number in (path for path in staged.iterdir() if path.is_dir()):
            (number / "model.py").write_bytes((DRIVERS / "triton_model.py").read_bytes())
            target.mkdir(parents=True, exist_ok=True)
            number.replace(target / number.name)
        config = (staged / "config.pbtxt").read_text()
        assert 'backend: "onnxruntime"' in config
        (target / "config.pbtxt").write_text(config.replace('backend: "onnxruntime"', 'backend: "python"'))
    return version


@contextlib.contextmanager
def serving(python: Path, repository: Path, work: Path) -> Iterator[str]:
    """Triton over a repository that it looks at again each second; its address."""
    port = free_port()
    command = [str(word) for word in (python, DRIVERS / "triton_server.py", repository, work, port)]
    with (work / "triton.log").open("wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        try:
            started.wait(LONG_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


async def test_masks_are_those_of_the_same_graphs_here_and_a_new_model_is_never_taken_for_the_old(
    tool: Callable[[str], Path], tmp_path: Path
) -> None:
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    python, repository = tool("triton"), tmp_path / "repository"
    version = archived(tmp_path / "first", files(), repository)
    with serving(python, repository, tmp_path) as url:
        halves = {"encoder_url": url, "decoder_url": url, "encoder_protocol": "oip", "decoder_protocol": "oip"}
        names = {"encoder_name": NAMES[Role.ENCODER], "decoder_name": NAMES[Role.DECODER]}
        settings = Settings(engine_wait_s=5 * LONG_S, decode_deadline_s=LONG_S, **halves, **names)  # type: ignore[arg-type]
        there, _ = await asyncio.to_thread(build_remote, settings)
        here = create(1, 2, **files())
        assert there.info.version == version
        embedding, expected = (await there.encode([image()]))[0], (await here.encode([image()]))[0]
        assert abs(embedding.tensors["image_embeddings"] - expected.tensors["image_embeddings"]).max() < 1e-4
        masks, wanted = await there.decode(on(embedding, PROMPTS)), await here.decode(on(expected, PROMPTS))
        for made, other in zip(masks, wanted, strict=True):
            assert len(made.masks) == len(other.masks)
            for a, b in zip(made.masks, other.masks, strict=True):
                assert abs(a.logits - b.logits).max() < 1e-3
                assert abs(a.score - b.score) < 1e-4

        other_version = archived(tmp_path / "second", disc_files(), repository)
        assert other_version != version
        await until(lambda: _serves(url, other_version), most_s=2 * LONG_S)
        with contextlib.suppress(BackendFailed):  # it had found out by itself
            await there.decode(on(embedding, PROMPTS[:1]))
            assert there.info.version == other_version
        await until(lambda: there.info.version == other_version)
        discs, here_discs = await there.decode(on(embedding, PROMPTS[:1])), create(1, 2, **disc_files())
        [[wanted_disc], [disc]] = await here_discs.decode(on(expected, PROMPTS[:1])), discs
        assert abs(disc.masks[0].logits - wanted_disc.masks[0].logits).max() < 1e-3
        for backend in (there, here, here_discs):
            await backend.aclose()


def _serves(url: str, version: ModelVersion) -> bool:
    number = str(version_number(version))
    return all(
        httpx.get(f"{url}/v2/models/{name}/versions/{number}/ready", timeout=LONG_S).status_code == 200
        for name in NAMES.values()
    )
