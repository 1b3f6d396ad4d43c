"""Embeddings at hand between clicks."""

import threading

from labeling_ground.inference.lru import Lru


def test_what_is_held_is_made_once_and_the_least_recently_used_makes_room() -> None:
    held: Lru[str] = Lru(30)
    made: list[str] = []

    def get(digest: str, size: int = 10) -> str:
        def make() -> tuple[str, int]:
            made.append(digest)
            return f"value of {digest}", size

        return held.get(digest, make)

    assert [get(name) for name in "abcaba"] == [f"value of {name}" for name in "abcaba"]
    assert made == ["a", "b", "c"]
    get("d")  # c was used longest ago
    assert (len(held), held.bytes) == (3, 30)
    get("a"), get("b")
    assert made == ["a", "b", "c", "d"]
    get("c")
    assert made[-1] == "c"
    assert held.bytes == 30


def test_without_a_digest_and_beyond_the_budget_nothing_is_held() -> None:
    held: Lru[str] = Lru(30)
    assert held.get("", lambda: ("unknown", 10)) == "unknown"
    assert held.get("large", lambda: ("large", 31)) == "large"
    assert (len(held), held.bytes) == (0, 0)


def test_many_threads_keep_to_the_budget() -> None:
    held: Lru[str] = Lru(100)

    def work(offset: int) -> None:
        for i in range(300):
            digest = str((i * 7 + offset) % 23)
            assert held.get(digest, lambda digest=digest: (digest, 10)) == digest  # type: ignore[misc]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held.bytes == 10 * len(held) == 100
