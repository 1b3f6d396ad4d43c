"""A pull ends with the right bytes or with a sentence, whatever the server does."""

import hashlib
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.models.weights_server import (
    LONG_S,
    Answer,
    WeightsServer,
    artifact_of,
    bytes_of,
    catalogue_of,
    model_of,
    wait_until,
)
from tests.ports import free_port

from labeling_ground.errors import BadSettings, PullFailed, UnknownModel
from labeling_ground.models.catalogue import CatalogueModel, Format, Role
from labeling_ground.models.client import Redirects, proxy_for, retry_after, validator
from labeling_ground.models.download import PullState, PullStep, RetryPolicy
from labeling_ground.models.manifests import InstalledModel
from labeling_ground.models.pull import mirror_address, pull
from labeling_ground.models.store import ModelStore

ROOT = Path(__file__).parent.parent.parent
CONTENT = bytes_of(1, 300_000)
OTHER = bytes_of(2, 300_000)
FILE = "/weights/tiny.pt"
GOOD_BYTES = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def model(server: WeightsServer) -> CatalogueModel:
    server.files[FILE] = CONTENT
    return model_of(artifact_of(Role.CHECKPOINT, server.url + FILE, CONTENT))


@pytest.fixture
def store(tmp_path: Path, model: CatalogueModel) -> ModelStore:
    return ModelStore(tmp_path / "models", catalogue_of(model))


def quick(model: CatalogueModel, store: ModelStore, **other: Any) -> InstalledModel:
    given: dict[str, Any] = {"timeout_s": LONG_S, "sleep": lambda _s: None}
    named = {name: other.pop(name) for name in ("as_format", "mirror", "progress") if name in other}
    return pull(model, store, retries=RetryPolicy(**(given | other)), **named)


def disk_with(free: int, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A disk of which so many bytes are free; returns the paths that are asked about."""
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr("labeling_ground.models.disk.shutil.disk_usage", usage)
    return asked


def part_of(model: CatalogueModel, store: ModelStore) -> Path:
    return store.part(model.artifacts[0].sha256)


def begun(model: CatalogueModel, store: ModelStore, content: bytes) -> None:
    part_of(model, store).parent.mkdir(parents=True)
    part_of(model, store).write_bytes(content)


def assert_installed(model: CatalogueModel, store: ModelStore) -> None:
    path = store.path_of(model.name, Role.CHECKPOINT)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOOD_BYTES
    assert list((store.folder / "partial").iterdir()) == []


def test_a_pull_downloads_verifies_and_notes_it(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    steps: list[PullStep] = []
    found = quick(model, store, progress=steps.append)
    assert_installed(model, store)
    assert store.installed() == {model.name: found}
    assert found.files[Role.CHECKPOINT].origin == server.url + FILE
    assert found.files[Role.CHECKPOINT].bytes == len(CONTENT)
    assert {step.state for step in steps} == {PullState.DOWNLOADING, PullState.DONE}
    assert max(step.done for step in steps) == steps[0].total == len(CONTENT)
    assert server.seen[0][1]["User-Agent"].startswith("labeling-ground/")


def test_what_is_here_is_not_asked_for_again(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    assert quick(model, store) == quick(model, store)
    assert len(server.seen) == 1


def test_a_cut_download_goes_on_where_it_was_cut(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.script = [Answer(cut_after=100_000), Answer(cut_after=100_000)]
    steps: list[PullStep] = []
    quick(model, store, progress=steps.append)
    assert_installed(model, store)
    assert server.ranges_asked() == [None, "bytes=100000-", "bytes=200000-"]
    assert server.seen[1][1]["If-Range"] == '"one"'
    notes = [step.note for step in steps if step.state is PullState.RETRYING]
    assert notes[0].startswith("the connection was cut at 100000 of 300000 bytes; trying again in 1 s")


def test_pauses_grow_and_a_server_may_ask_for_its_own(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.script = [Answer(500), Answer(503, headers={"Retry-After": "7"}), Answer(429), Answer(502)]
    pauses: list[float] = []
    quick(model, store, sleep=pauses.append)
    assert pauses == [1.0, 7.0, 4.0, 8.0]
    assert_installed(model, store)


def test_progress_counts_failures_anew(server: WeightsServer, tmp_path: Path) -> None:
    content = bytes_of(3, 7 << 20)
    server.files[FILE] = content
    server.default = Answer(cut_after=(1 << 20) + 5)
    model = model_of(artifact_of(Role.CHECKPOINT, server.url + FILE, content))
    quick(model, ModelStore(tmp_path / "m", catalogue_of(model)), attempts=2)
    assert len(server.seen) == 7


def test_without_progress_it_is_given_up_and_what_came_is_kept(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.script = [Answer(cut_after=120_000)]
    server.default = Answer(cut_after=0)
    with pytest.raises(PullFailed, match=r"3 attempts.*The 120000 bytes that came are kept"):
        quick(model, store, attempts=3)
    assert part_of(model, store).stat().st_size == 120_000
    assert store.installed() == {}
    server.default = Answer()
    quick(model, store)
    assert server.ranges_asked()[-1] == "bytes=120000-"
    assert_installed(model, store)


@pytest.mark.parametrize("stalls", [Answer(stall_after=50_000), Answer(stall_before_headers=True)])
def test_a_stalled_server_is_left_and_asked_again(
    server: WeightsServer, model: CatalogueModel, store: ModelStore, stalls: Answer
) -> None:
    server.script = [stalls]
    notes: list[str] = []
    quick(model, store, timeout_s=0.3, progress=lambda step: notes.append(step.note))
    assert_installed(model, store)
    assert any("stalled for 0.3 s" in note or "said nothing for 0.3 s" in note for note in notes)


def test_a_slow_server_is_waited_for(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    server.default = Answer(pause_per_chunk=0.05)  # in all three times the timeout
    for _ in range(10):
        try:
            quick(model, store, timeout_s=0.3, attempts=1)
            break
        except PullFailed:
            wait_until(lambda: server.longest_gap > 0.25)  # this machine stood still: that proves nothing
            server.longest_gap = 0.0
            part_of(model, store).unlink(missing_ok=True)
    assert_installed(model, store)


def test_wrong_bytes_never_get_the_name(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    server.default = Answer(body=OTHER)
    with pytest.raises(PullFailed, match=r"is not the file that the catalogue means: .* They were deleted\.") as said:
        quick(model, store)
    assert hashlib.sha256(OTHER).hexdigest() in str(said.value)
    assert GOOD_BYTES in str(said.value)
    assert len(server.seen) == 1
    assert list((store.folder / "partial").iterdir()) == []
    assert not store.blob(GOOD_BYTES).exists()
    assert store.installed() == {}


def test_one_flipped_bit_is_found(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    flipped = bytearray(CONTENT)
    flipped[123_456] ^= 1
    server.default = Answer(body=bytes(flipped))
    with pytest.raises(PullFailed, match="is not the file"):
        quick(model, store)


def test_a_length_that_is_too_long_does_not_keep_the_right_bytes_away(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.script = [Answer(claim_length=len(CONTENT) + 1000)]
    quick(model, store, attempts=1)
    assert_installed(model, store)


def test_a_file_that_is_shorter_at_its_host_is_another_file(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.default = Answer(claim_length=len(CONTENT) - 1000)
    with pytest.raises(PullFailed, match="its 299000 bytes have the SHA-256"):
        quick(model, store)
    assert len(server.seen) == 1


def test_a_server_without_lengths(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    server.script = [Answer(no_length=True, cut_after=1000), Answer(no_length=True)]
    quick(model, store)
    assert_installed(model, store)
    assert server.ranges_asked() == [None, "bytes=1000-"]


def test_a_server_without_ranges_starts_anew(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    server.default = Answer(ranges=False)
    server.script = [Answer(ranges=False, cut_after=200_000)]
    quick(model, store)
    assert_installed(model, store)


def test_a_server_that_sends_another_range_is_asked_for_the_whole(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.default = Answer(offset_error=7)
    server.script = [Answer(cut_after=100_000)]
    quick(model, store)
    assert_installed(model, store)
    assert server.ranges_asked() == [None, "bytes=100000-", None]


def test_a_file_that_changed_on_the_server_is_begun_anew(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.script = [Answer(body=OTHER, etag='"old"', cut_after=100_000)]
    quick(model, store)
    assert_installed(model, store)
    assert server.seen[1][1]["If-Range"] == '"old"'
    assert len(server.seen) == 2


def test_pieces_of_two_files_without_a_tag_are_found_out_by_the_digest(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.default = Answer(etag=None)
    server.script = [Answer(body=OTHER, etag=None, cut_after=100_000)]
    quick(model, store)
    assert_installed(model, store)
    assert server.ranges_asked() == [None, "bytes=100000-", None]


def test_a_mirror_goes_on_with_what_came_from_elsewhere(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.script = [Answer(cut_after=100_000)]
    with pytest.raises(PullFailed):
        quick(model, store, attempts=1)
    server.files["/mirror/tiny.pt"] = CONTENT
    found = quick(model, store, mirror=f"{server.url}/mirror/")
    assert server.seen[-1][0] == "/mirror/tiny.pt"
    assert server.seen[-1][1]["Range"] == "bytes=100000-"
    assert "If-Range" not in server.seen[-1][1]  # a tag means nothing elsewhere; the digest does
    assert found.files[Role.CHECKPOINT].origin == f"{server.url}/mirror/tiny.pt"


@pytest.mark.parametrize("left", [CONTENT + b"more", OTHER + OTHER, OTHER, CONTENT[:-1] + b"?", OTHER[:1000]])
def test_a_part_that_is_too_long_or_of_another_file_is_begun_anew(
    server: WeightsServer, model: CatalogueModel, store: ModelStore, left: bytes
) -> None:
    begun(model, store, left)
    quick(model, store, attempts=1)
    assert_installed(model, store)
    assert server.ranges_asked() == [f"bytes={len(left)}-", None]


def test_a_part_that_is_whole_needs_no_network(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    begun(model, store, CONTENT)
    steps: list[PullStep] = []
    quick(model, store, progress=steps.append)
    assert_installed(model, store)
    assert server.seen == []
    assert steps[0].state is PullState.CHECKING


def test_a_damaged_note_beside_a_part_costs_nothing(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    begun(model, store, CONTENT[:1000])
    part_of(model, store).with_suffix(".json").write_text("{")
    quick(model, store)
    assert server.ranges_asked() == ["bytes=1000-"]


def test_redirects_are_followed(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    server.files["/elsewhere"] = CONTENT
    server.script = [
        Answer(302, headers={"Location": "/hop"}),
        Answer(307, headers={"Location": f"{server.url}/elsewhere"}),
    ]
    quick(model, store)
    assert [path for path, _ in server.seen] == [FILE, "/hop", "/elsewhere"]
    assert_installed(model, store)


@pytest.mark.parametrize("target", [FILE, "/{}"])
def test_endless_redirects_end(server: WeightsServer, model: CatalogueModel, store: ModelStore, target: str) -> None:
    server.script = [Answer(302, headers={"Location": target.format(count)}) for count in range(30)]
    with pytest.raises(PullFailed, match="in circles, more than 5 times"):
        quick(model, store)
    assert len(server.seen) <= 6


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/hostname"])
def test_a_redirect_out_of_the_web_is_refused(
    server: WeightsServer, model: CatalogueModel, store: ModelStore, target: str
) -> None:
    server.script = [Answer(302, headers={"Location": target})]
    with pytest.raises(PullFailed, match="redirects"):
        quick(model, store)
    assert len(server.seen) == 1


def test_a_redirect_that_gives_up_encryption_is_refused() -> None:
    request = urllib.request.Request("https://host.invalid/a")
    with pytest.raises(PullFailed, match=r"redirects to http://host\.invalid/b, which is not encrypted"):
        Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://host.invalid/b")
    followed = Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, "https://host.invalid/b")
    assert followed is not None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(404), r"answers 404 .* Name a mirror with --mirror, or bring the file"),
        (Answer(403), "does not let us in"),
        (Answer(204), "answers 204"),
        (Answer(headers={"Content-Type": "text/html; charset=utf-8"}), "answers with a web page"),
        (Answer(headers={"Content-Encoding": "gzip"}), "compresses what must come as it is"),
        (Answer(body=bytes(10_000_000)), "10000000 bytes long.* that is not the file"),
        (Answer(endless=True), "does not end"),
    ],
)
def test_what_cannot_get_better_is_said_at_once(
    server: WeightsServer, model: CatalogueModel, store: ModelStore, answer: Answer, words: str
) -> None:
    server.default = answer
    with pytest.raises(PullFailed, match=words):
        quick(model, store)
    assert len(server.seen) == 1
    assert store.installed() == {}


def test_a_web_page_does_not_cost_what_is_here(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    begun(model, store, CONTENT[:200_000])
    server.script = [Answer(ranges=False, headers={"Content-Type": "text/html"})]
    with pytest.raises(PullFailed, match="web page"):
        quick(model, store)
    assert part_of(model, store).stat().st_size == 200_000


def test_offline_is_said_at_once_and_says_what_to_do(tmp_path: Path) -> None:
    port = free_port()
    model = model_of(artifact_of(Role.CHECKPOINT, f"http://127.0.0.1:{port}{FILE}", CONTENT))
    pauses: list[float] = []
    with pytest.raises(PullFailed) as said:
        quick(model, ModelStore(tmp_path, catalogue_of(model)), sleep=pauses.append)
    assert pauses == []
    words = str(said.value)
    assert f"127.0.0.1:{port} cannot be reached: connection refused." in words
    for remedy in ("HTTPS_PROXY", "--mirror", f"download http://127.0.0.1:{port}{FILE}", "models add tiny.pt"):
        assert remedy in words


def test_a_name_that_nobody_knows_is_offline_too(tmp_path: Path) -> None:
    model = model_of(artifact_of(Role.CHECKPOINT, f"http://nowhere.invalid{FILE}", CONTENT))
    with pytest.raises(PullFailed, match=r"nowhere\.invalid cannot be reached: its name cannot be resolved"):
        quick(model, ModelStore(tmp_path, catalogue_of(model)))


def test_a_server_that_goes_away_in_between_is_waited_for(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.script = [Answer(cut_after=100_000)]
    pauses: list[float] = []

    def go_away(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            server.close()

    with pytest.raises(PullFailed, match=r"4 attempts: connection refused.*100000 bytes that came are kept"):
        quick(model, store, sleep=go_away, attempts=4)
    assert pauses == [1.0, 2.0, 4.0]


def test_proxies_are_honoured(server: WeightsServer, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/any"] = CONTENT
    monkeypatch.setenv("http_proxy", server.url)
    address = f"http://weights.invalid{FILE}"
    model = model_of(artifact_of(Role.CHECKPOINT, address, CONTENT))
    quick(model, store)
    assert server.seen[0][0] == address
    monkeypatch.setenv("no_proxy", "weights.invalid")
    assert proxy_for(address) is None
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy")
    model = model_of(artifact_of(Role.CHECKPOINT, address, OTHER), name="other")
    with pytest.raises(PullFailed, match=r"weights\.invalid cannot be reached through the proxy 127\.0\.0\.1:9: "):
        quick(model, store)


def test_a_full_disk_is_said_before_anything_is_asked(
    server: WeightsServer, model: CatalogueModel, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = disk_with(200_000, monkeypatch)
    with pytest.raises(PullFailed, match=r"not enough room in .*models: 0\.3 MB are needed and 0\.2 MB are free"):
        quick(model, store)
    assert server.seen == []
    assert asked[0].exists()


def test_what_is_here_already_needs_no_room(
    model: CatalogueModel, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(model, store, CONTENT[:200_000])
    disk_with(150_000, monkeypatch)
    quick(model, store)
    assert_installed(model, store)


def test_the_servers_length_counts_where_ours_was_an_estimate(
    server: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[FILE] = CONTENT
    artifact = artifact_of(Role.CHECKPOINT, server.url + FILE, CONTENT, bytes=None, about_bytes=100_000)
    model = model_of(artifact)
    disk_with(150_000, monkeypatch)
    with pytest.raises(PullFailed, match="not enough room"):
        quick(model, ModelStore(tmp_path, catalogue_of(model)))


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's file size")
def test_a_disk_that_refuses_a_write_is_a_sentence(
    server: WeightsServer, model: CatalogueModel, tmp_path: Path
) -> None:
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "from tests.models.weights_server import _main\n"
        "_main(*sys.argv[1:])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments(model, tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )
    assert "PullFailed" in found.stderr
    assert "cannot be used: File too large" in found.stderr
    (part,) = (tmp_path / "partial").glob("*.part")
    assert part.read_bytes() == CONTENT[: part.stat().st_size]


def test_a_folder_that_cannot_be_written_is_a_sentence(model: CatalogueModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PullFailed, match="cannot be used"):
        quick(model, ModelStore(tmp_path / "file" / "models", catalogue_of(model)))


def test_ctrl_c_leaves_a_part_to_go_on_with(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    def interrupt(step: PullStep) -> None:
        if step.done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(model, store, progress=interrupt)
    here = part_of(model, store).stat().st_size
    assert here > 100_000
    quick(model, store)
    assert server.ranges_asked()[-1] == f"bytes={here}-" or here == len(CONTENT)
    assert_installed(model, store)


# --- pairs, formats, mirrors -----------------------------------------------------------------------------------------


def pair(server: WeightsServer) -> CatalogueModel:
    server.files |= {"/enc.onnx": CONTENT, "/dec.onnx": OTHER, FILE: bytes_of(9, 1000)}
    return model_of(
        artifact_of(Role.ENCODER, server.url + "/enc.onnx", CONTENT),
        artifact_of(Role.DECODER, server.url + "/dec.onnx", OTHER),
        artifact_of(Role.CHECKPOINT, server.url + FILE, server.files[FILE]),
    )


def test_a_pair_appears_whole_or_not_at_all(server: WeightsServer, tmp_path: Path) -> None:
    model = pair(server)
    store = ModelStore(tmp_path, catalogue_of(model))
    server.script = [Answer(), Answer(404)]
    with pytest.raises(PullFailed):
        quick(model, store)
    assert store.installed() == {}
    assert quick(model, store).formats == (Format.ONNX,)
    assert [path for path, _ in server.seen] == ["/enc.onnx", "/dec.onnx", "/dec.onnx"]
    assert store.path_of(model.name, Role.DECODER).read_bytes() == OTHER


def test_both_formats_may_be_here(server: WeightsServer, tmp_path: Path) -> None:
    model = pair(server)
    store = ModelStore(tmp_path, catalogue_of(model))
    quick(model, store, as_format=Format.PYTORCH)
    quick(model, store, as_format=Format.ONNX)
    assert store.installed()[model.name].formats == (Format.ONNX, Format.PYTORCH)


def test_a_blob_that_no_manifest_names_is_read_before_it_is_believed(server: WeightsServer, tmp_path: Path) -> None:
    model = pair(server)
    store = ModelStore(tmp_path, catalogue_of(model))
    quick(model, store)
    store.path_of(model.name, Role.DECODER).write_bytes(b"cut short")
    (tmp_path / "manifests" / f"{model.name}.json").unlink()
    quick(model, store)
    assert store.damaged(model.name) == ()
    assert [path for path, _ in server.seen] == ["/enc.onnx", "/dec.onnx", "/dec.onnx"]


def test_a_format_that_is_not_there_asks_nobody(
    server: WeightsServer, store: ModelStore, model: CatalogueModel
) -> None:
    with pytest.raises(UnknownModel, match="only as pytorch"):
        quick(model, store, as_format=Format.ONNX)
    assert server.seen == []


def test_how_a_mirror_is_arranged() -> None:
    artifact = artifact_of(Role.CHECKPOINT, "https://host.invalid/a/b%2B.pt?raw=1", CONTENT)
    assert artifact.file == "b+.pt"
    assert mirror_address(None, artifact) == artifact.url
    assert mirror_address("https://m.invalid/x", artifact) == "https://m.invalid/x/b%2B.pt"
    assert mirror_address("https://m.invalid/x/", artifact) == "https://m.invalid/x/b%2B.pt"
    assert mirror_address("http://m.invalid/sha256-{sha256}", artifact) == f"http://m.invalid/sha256-{GOOD_BYTES}"
    assert mirror_address("http://m.invalid/{file}?get", artifact) == "http://m.invalid/b%2B.pt?get"
    for wrong in ("m.invalid", "file:///mnt", "https://", "https://m.invalid/{digest}"):
        with pytest.raises(BadSettings, match="cannot be a mirror"):
            mirror_address(wrong, artifact)
    with pytest.raises(BadSettings) as refused:
        mirror_address("ftp://ann:s3cret-word@m.invalid/x?token=s3cret-word", artifact)
    assert str(refused.value).startswith("ftp://m.invalid/x cannot be a mirror")


def test_a_model_store_is_a_mirror(server: WeightsServer, model: CatalogueModel, tmp_path: Path) -> None:
    server.files[f"/blobs/sha256-{GOOD_BYTES}"] = CONTENT
    store = ModelStore(tmp_path, catalogue_of(model))
    quick(model, store, mirror=f"{server.url}/blobs/sha256-{{sha256}}")
    assert_installed(model, store)


def test_headers_that_servers_send() -> None:
    def headers(**given: str) -> http.client.HTTPMessage:
        message = http.client.HTTPMessage()
        for name, value in given.items():
            message[name.replace("_", "-")] = value
        return message

    assert validator(headers(ETag='"x"', Last_Modified="Mon")) == '"x"'
    assert validator(headers(ETag='W/"x"', Last_Modified="Mon")) == "Mon"
    assert validator(headers()) is None
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after("3") == 3.0
    assert retry_after("99999") == 60.0
    assert retry_after("Mon, 01 Jan 2001 00:00:00 GMT") == 0.001


# --- several at once, and sudden ends --------------------------------------------------------------------------------


def arguments(model: CatalogueModel, folder: Path) -> list[str]:
    artifact = model.artifacts[0]
    return [artifact.url, artifact.sha256, str(artifact.about_bytes), str(folder)]


def process(model: CatalogueModel, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.models.weights_server", *arguments(model, folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_processes_one_downloads_and_one_waits(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.default = Answer(hold_after=150_000)
    both = [process(model, store.folder) for _ in range(2)]
    said: list[list[str]] = [[], []]

    def listen(one: subprocess.Popen[str], lines: list[str]) -> None:
        assert one.stdout is not None
        lines.extend(line.strip() for line in iter(one.stdout.readline, ""))

    listeners = [threading.Thread(target=listen, args=given) for given in zip(both, said, strict=True)]
    for listener in listeners:
        listener.start()
    try:
        wait_until(lambda: any("waiting" in lines for lines in said))
    finally:
        server.go_on.set()
        for listener in listeners:
            listener.join(LONG_S)
        problems = [one.communicate(timeout=LONG_S)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], problems
    assert len(server.seen) == 1
    assert sorted("waiting" in lines for lines in said) == [False, True]
    assert [lines[-1] for lines in said] == ["done", "done"]
    assert_installed(model, store)


def test_threads_do_not_fight_either(server: WeightsServer, model: CatalogueModel, store: ModelStore) -> None:
    server.default = Answer(pause_per_chunk=0.02)
    found: list[InstalledModel] = []
    threads = [threading.Thread(target=lambda: found.append(quick(model, store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=LONG_S)
    assert len(found) == 4
    assert len(server.seen) == 1


def _killed(server: WeightsServer, model: CatalogueModel, store: ModelStore, how: int) -> int:
    server.script = [Answer(stall_after=150_000)]
    one = process(model, store.folder)
    part = part_of(model, store)
    wait_until(lambda: part.exists() and part.stat().st_size == 150_000)
    one.send_signal(how)
    _, said = one.communicate(timeout=LONG_S)
    assert one.returncode != 0, said
    return part.stat().st_size


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_after_a_sudden_end_it_goes_on_and_nobody_holds_the_lock(
    server: WeightsServer, model: CatalogueModel, store: ModelStore, how: str
) -> None:
    here = _killed(server, model, store, getattr(signal, how))
    assert store.installed() == {}
    steps: list[PullStep] = []
    quick(model, store, progress=steps.append)
    assert PullState.WAITING not in {step.state for step in steps}
    assert server.ranges_asked() == [None, f"bytes={here}-"]
    assert server.seen[1][1]["If-Range"] == '"one"'
    assert_installed(model, store)


def test_remove_does_not_pull_the_file_from_under_a_pull(
    server: WeightsServer, model: CatalogueModel, store: ModelStore
) -> None:
    server.script = [Answer(hold_after=150_000)]
    problems: list[BaseException] = []

    def one() -> None:
        try:
            quick(model, store)
        except BaseException as error:  # noqa: BLE001 -- asserted below
            problems.append(error)

    thread = threading.Thread(target=one)
    thread.start()
    wait_until(lambda: part_of(model, store).exists() and part_of(model, store).stat().st_size > 0)
    with pytest.raises(PullFailed, match="is being pulled by another process"):
        store.remove(model.name)
    server.go_on.set()
    thread.join(timeout=LONG_S)
    assert problems == []
    assert_installed(model, store)


def test_nothing_is_made_or_asked_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("looked outside")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    store = ModelStore(tmp_path / "nothing")
    assert store.installed() == {}
    assert not (tmp_path / "nothing").exists()
