"""What worker processes ask each other."""

import asyncio
import os
import pickle
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from labeling_ground.errors import BadSettings
from labeling_ground.peers import Peers

pytestmark = pytest.mark.anyio


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[list[Peers]]:
    """Three workers, each of which answers with its own number and what it was asked."""
    found = [Peers(tmp_path / "workers", number, 3) for number in range(3)]

    def answering(number: int) -> Callable[..., object]:
        async def answer(word: str) -> tuple[int, str]:
            if word == f"not {number}":
                raise BadSettings(f"{number} does not want to")
            return number, word

        return answer

    for peers in found:
        await peers.open({"name": answering(peers.number)})  # type: ignore[dict-item]
    yield found
    for peers in found:
        await peers.aclose()


async def test_each_other_one_answers_and_a_large_answer_comes_whole(three: list[Peers]) -> None:
    large = "word" * 500_000
    assert await three[1].ask("name", large) == {0: (0, large), 2: (2, large)}


async def test_one_that_is_not_there_is_left_out(three: list[Peers]) -> None:
    await three[2].aclose()
    assert await three[0].ask("name", "a") == {1: (1, "a")}
    (three[0].folder / "worker-2.sock").touch()  # as one that was killed leaves it: nobody listens
    assert await three[0].ask("name", "a") == {1: (1, "a")}


async def test_one_that_hangs_is_left_out_when_its_time_is_up(three: list[Peers]) -> None:
    let_go = asyncio.Event()

    async def hang(_: str) -> None:
        await let_go.wait()

    three[2]._answers = {"name": hang}
    three[0].answer_s = 0.2
    assert await three[0].ask("name", "a") == {1: (1, "a")}
    let_go.set()


async def test_what_one_of_them_raises_is_raised_here(three: list[Peers]) -> None:
    with pytest.raises(BadSettings, match="2 does not want to"):
        await three[0].ask("name", "not 2")


async def test_a_successor_takes_the_place_of_one_that_was_killed_and_finds_what_it_noted(
    three: list[Peers],
) -> None:
    assert three[0].past is None
    three[0].note({"counted": 3})
    three[0].note({"counted": 4})
    successor = Peers(three[0].folder, 0, 3)
    await successor.open({"name": three[1]._answers["name"]})
    assert successor.past == {"counted": 4}
    assert await three[2].ask("name", "b") == {0: (1, "b"), 1: (1, "b")}
    await successor.aclose()


async def test_that_a_worker_was_ready_once_is_known_to_all(three: list[Peers]) -> None:
    three[0].note_start()
    assert [three[2].has_started(number) for number in range(3)] == [True, False, False]


async def test_what_is_shared_is_known_to_a_worker_that_is_started_when_all_others_were_killed(
    three: list[Peers],
) -> None:
    three[0].share({"policy": "lru"})
    three[1].share({"policy": "gds"})
    late = Peers(three[0].folder, 2, 3)
    assert late.shared == {"policy": "gds"}
    shutil.rmtree(three[0].folder)
    assert late.shared == {"policy": "gds"}, "what it has read it knows"
    await three[1].stay()
    assert Peers(three[0].folder, 0, 3).shared == {"policy": "gds"}, "cleared, and made anew"
    assert Peers(three[0].folder / "of another server", 0, 3).shared is None


async def test_a_cleaner_that_comes_at_any_moment_leaves_nothing_that_no_worker_can_start_from(
    three: list[Peers], monkeypatch: pytest.MonkeyPatch
) -> None:
    touched, shared = os.utime, three[0].folder / "for-all.noted"
    three[0].share({"policy": "lru"})

    def cleaned(path: Path, times: None = None) -> None:
        shared.unlink(missing_ok=True)
        touched(path, times)

    monkeypatch.setattr(os, "utime", cleaned)
    await three[0].stay()
    assert Peers(three[0].folder, 1, 3).shared == {"policy": "lru"}


async def test_a_folder_that_was_cleared_is_made_anew_and_ends_nobody(three: list[Peers]) -> None:
    folder = three[0].folder
    three[2].note_start()
    shutil.rmtree(folder)
    three[0].folder.write_text("a file in its place")
    three[0].note({"counted": 3})  # there is no room for it
    three[0].folder.unlink()
    assert await three[0].ask("name", "a") == {}
    for peers in three:
        await peers.stay()
    assert await three[0].ask("name", "a") == {1: (1, "a"), 2: (2, "a")}
    assert three[0].has_started(2)
    shutil.rmtree(folder)
    successor = Peers(folder, 1, 3)
    await successor.open({"name": three[1]._answers["name"]})
    assert await successor.ask("name", "b") == {}
    await successor.aclose()


async def test_a_folder_that_cannot_be_made_is_an_error_of_the_background(three: list[Peers]) -> None:
    shutil.rmtree(three[0].folder)
    three[0].folder.write_text("a file in its place")
    with pytest.raises(OSError):
        await three[0].stay()
    three[0].folder.unlink()


async def test_a_folder_that_others_can_write_to_is_not_believed(three: list[Peers]) -> None:
    folder, asked = three[0].folder, []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append("a question")
        writer.close()

    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o777)  # as another user's, who found the name free
    (folder / "worker-0.noted").write_bytes(pickle.dumps("a trap"))
    async with await asyncio.start_unix_server(serve, folder / "worker-1.sock"):
        assert await three[0].ask("name", "a") == {}
    assert not asked
    three[0].note({"counted": 3})
    three[0].note_start()
    assert not three[0].has_started(0)
    with pytest.raises(PermissionError, match="nobody else"):
        await three[0].stay()
    successor = Peers(folder, 0, 3)
    with pytest.raises(PermissionError, match="nobody else"):
        await successor.open({})
    assert successor.past is None
