"""What clients get that decode by themselves: the model's decoder, and what the labeling page runs it with."""

import base64
import hashlib
import io
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from labeling_ground.cli import cli
from labeling_ground.errors import PullFailed
from labeling_ground.inference.graphs import version_from
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.family import Family
from labeling_ground.types import ModelVersion
from labeling_ground.web import browser_runtime

if TYPE_CHECKING:
    from tests.api.conftest import Start, ToyBackend

pytestmark = pytest.mark.anyio

NAME = "my-sam"
PATH = f"/v1/models/{NAME}/decoder"
CONTENT = {Role.ENCODER: b"encoder", Role.DECODER: b"decoder", Role.FAST_DECODER: b"fast decoder"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def install(tmp_path: Path) -> Any:
    """Put a model's files into a store; gives the store's folder and the version that they make."""

    def installed(*roles: Role, family: str | None = "sam", precision: str = "fp32") -> tuple[Path, ModelVersion]:
        store = ModelStore(tmp_path / "models")
        for role in roles:
            file = tmp_path / role.value
            file.write_bytes(CONTENT[role])
            store.add(file, name=NAME, role=role, family=family)
        return store.folder, version_from(NAME, [digest(CONTENT[role]) for role in roles], precision)

    return installed


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of the names and digests that are wanted, and nothing in them that could run."""
    files = {name: name.encode() * 1000 for name in browser_runtime.FILES}
    pinned = {
        name: browser_runtime.File(digest(content), browser_runtime.FILES[name].media_type)
        for name, content in files.items()
    }
    monkeypatch.setattr(browser_runtime, "FILES", pinned)
    home = tmp_path / "browser" / browser_runtime.VERSION
    home.mkdir(parents=True)
    for name, content in files.items():
        (home / name).write_bytes(content)
    return home.parent


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
async def test_the_decoder_is_given_with_its_digest(
    start: "Start", make_backend: type["ToyBackend"], install: Any, precision: str
) -> None:
    """The one for few tokens where there are two; what a client has is not sent again."""
    folder, version = install(*CONTENT, precision=precision)
    async with start(backend=make_backend(version), models_dir=folder) as server:
        wanted = digest(CONTENT[Role.FAST_DECODER])
        [model] = (await server.client.get("/v1/models")).json()["models"]
        assert model["decoder"] == {"family": "sam", "sha256": wanted, "bytes": len(CONTENT[Role.FAST_DECODER])}
        answer = await server.client.get(PATH)
        assert (answer.status_code, answer.content) == (200, CONTENT[Role.FAST_DECODER])
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["etag"] == f'"{wanted}"'
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["x-model-version"] == str(version) == model["version"]
        named = await server.client.get(PATH, params={"sha256": wanted})
        assert (named.content, named.headers["cache-control"]) == (
            answer.content,
            "private, max-age=31536000, immutable",
        )
        again = await server.client.get(PATH, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
        head = await server.client.head(PATH)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])
        assert head.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("family", list(Family))
async def test_without_a_second_decoder_the_only_one_is_given_with_its_family(
    start: "Start", make_backend: type["ToyBackend"], install: Any, family: Family
) -> None:
    folder, version = install(Role.ENCODER, Role.DECODER, family=family.value)
    async with start(backend=make_backend(version), models_dir=folder) as server:
        assert (await server.client.get(PATH)).content == CONTENT[Role.DECODER]
        [model] = (await server.client.get("/v1/models")).json()["models"]
        assert model["decoder"]["family"] == family


async def test_a_decoder_that_cannot_be_had_is_a_404_that_says_why(
    start: "Start", make_backend: type["ToyBackend"], install: Any
) -> None:
    """No file, no family, files of another version, another model, another digest."""
    folder, version = install(*CONTENT, family=None)
    other = ModelVersion(NAME, "0" * 64)
    wanted = digest(CONTENT[Role.FAST_DECODER])
    cases: list[tuple[ModelVersion, str, str, str]] = [
        (ModelVersion("classical", "0" * 64), "/v1/models/classical/decoder", "not-found", "no file of this server"),
        (version, PATH, "not-found", "family"),
        (other, PATH, "not-found", "not those of the version"),
        (version, "/v1/models/sam-vit-h/decoder", "unknown-model", "not served here"),
    ]
    for served, path, name, says in cases:
        async with start(backend=make_backend(served), models_dir=folder) as server:
            answer = await server.client.get(path)
            assert answer.status_code == 404
            assert answer.json()["type"].endswith(name)
            assert says in answer.json()["detail"]
            [model] = (await server.client.get("/v1/models")).json()["models"]
            assert "decoder" not in model
    folder, version = install(*CONTENT, family="sam")
    async with start(backend=make_backend(version), models_dir=folder) as server:
        assert (await server.client.get(PATH, params={"sha256": wanted})).status_code == 200
        answer = await server.client.get(PATH, params={"sha256": "0" * 64})
        assert (answer.status_code, "another decoder" in answer.json()["detail"]) == (404, True)
        assert (await server.client.get(PATH, params={"sha256": "../x"})).status_code == 422


async def test_an_operator_can_keep_the_decoder(start: "Start", make_backend: type["ToyBackend"], install: Any) -> None:
    folder, version = install(*CONTENT)
    async with start(backend=make_backend(version), models_dir=folder, share_decoder=False) as server:
        answer = await server.client.get(PATH)
        assert (answer.status_code, "to itself" in answer.json()["detail"]) == (404, True)
        assert "decoder" not in (await server.client.get("/v1/models")).json()["models"][0]


async def test_keys_guard_the_decoder_as_everything_else(
    start: "Start", make_backend: type["ToyBackend"], install: Any
) -> None:
    folder, version = install(*CONTENT)
    async with start(backend=make_backend(version), models_dir=folder, api_keys="one") as server:
        for path in (PATH, "/v1/models/classical/decoder"):
            for ask in (server.client.get, server.client.head):
                assert (await ask(path)).status_code == 401
                assert (await ask(path, headers={"X-API-Key": "two"})).status_code == 401
        assert (await server.client.get(PATH, headers={"X-API-Key": "one"})).status_code == 200


async def test_without_the_runtime_nothing_may_run_webassembly(start: "Start", tmp_path: Path) -> None:
    async with start(browser_runtime_dir=tmp_path) as server:
        told = await server.client.get("/web/decoder.json")
        assert (told.json(), told.headers["cache-control"]) == ({}, "no-cache")
        missing = await server.client.get(f"/web/runtime/{browser_runtime.VERSION}/{browser_runtime.MODULE}")
        assert (missing.status_code, "browser-decoder" in missing.json()["detail"]) == (404, True)
        for path in ("/", "/web/decode/worker.js"):
            headers = (await server.client.get(path)).headers
            assert "unsafe" not in headers["content-security-policy"]
            assert "cross-origin-opener-policy" not in headers


async def test_the_runtime_is_sent_for_ever_and_only_its_worker_may_run_it(start: "Start", runtime: Path) -> None:
    """The page itself keeps its policy; it is isolated where a browser takes it for safe."""
    async with start(browser_runtime_dir=runtime) as server:
        told = (await server.client.get("/web/decoder.json")).json()["runtime"]
        assert told["version"] == browser_runtime.VERSION
        folder = told["module"].rpartition("/")[0]
        for name, kind in (
            (browser_runtime.MODULE, "text/javascript; charset=utf-8"),
            (browser_runtime.WASM, "application/wasm"),
        ):
            answer = await server.client.get(f"/{folder}/{name}")
            assert answer.content == name.encode() * 1000
            assert answer.headers["content-type"] == kind
            assert "immutable" in answer.headers["cache-control"]
            head = await server.client.head(f"/{folder}/{name}")
            assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))
            assert "'wasm-unsafe-eval'" in answer.headers["content-security-policy"]
        for path in (f"/{folder}/package.json", f"/web/runtime/0.0.1/{browser_runtime.MODULE}"):
            assert (await server.client.get(path)).status_code == 404
        worker = (await server.client.get("/web/decode/worker.js")).headers
        assert "script-src 'self' 'wasm-unsafe-eval';" in worker["content-security-policy"]
        assert worker["cross-origin-embedder-policy"] == "require-corp"
        assert worker["cache-control"] == "no-cache"
        for host, isolated in (("localhost:8000", True), ("127.0.0.1", True), ("server", False)):
            page = (await server.client.get("/", headers={"Host": host})).headers
            assert "unsafe" not in page["content-security-policy"]
            assert ("cross-origin-opener-policy" in page) is isolated
            assert ("cross-origin-embedder-policy" in page) is isolated


async def test_a_runtime_that_was_changed_is_not_served(
    start: "Start", runtime: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever runs in the page is what was pinned."""
    with (runtime / browser_runtime.VERSION / browser_runtime.MODULE).open("ab") as file:
        file.write(b"//")
    assert browser_runtime.find(runtime) is None
    assert "is not served" in caplog.text
    async with start(browser_runtime_dir=runtime) as server:
        assert (await server.client.get("/web/decoder.json")).json() == {}


def archive_of(runtime: Path) -> bytes:
    """As npm packs it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in browser_runtime.FILES:
            archive.add(runtime / browser_runtime.VERSION / name, f"package/dist/{name}")
        archive.add(__file__, "package/dist/other.js")
    return packed.getvalue()


def test_the_archive_is_checked_before_anything_is_kept(runtime: Path, tmp_path: Path) -> None:
    archive, target = archive_of(runtime), tmp_path / "target"
    with pytest.raises(PullFailed, match="not that of onnxruntime-web"):
        browser_runtime.unpack(archive, target)
    assert not target.exists()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    home = browser_runtime.unpack(archive, target, integrity=integrity)
    assert browser_runtime.find(target) == home
    assert sorted(file.name for file in home.iterdir()) == sorted(browser_runtime.FILES)


def test_the_command_takes_an_archive_and_leaves_alone_what_is_there(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is neither npm nor a network."""
    archive, target = tmp_path / "some.tgz", tmp_path / "target"
    archive.write_bytes(archive_of(runtime))
    monkeypatch.setenv("LABELING_GROUND_BROWSER_RUNTIME_DIR", str(target))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    refused = CliRunner().invoke(cli, ["browser-decoder"])
    assert isinstance(refused.exception, PullFailed)
    assert "npm pack onnxruntime-web@" in str(refused.exception)
    wrong = CliRunner().invoke(cli, ["browser-decoder", str(archive)])
    assert isinstance(wrong.exception, PullFailed)
    shutil.copytree(runtime, target)
    done = CliRunner().invoke(cli, ["browser-decoder"])
    assert (done.exit_code, "already" in done.output) == (0, True)
