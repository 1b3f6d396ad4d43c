"""S3-FIFO, which is only compared with: its queues, by table."""

from hypothesis import given
from tests.policy_driver import STEPS, PolicyDriver

from labeling_ground.simulate.s3fifo import SmallMainGhost


def s3fifo(*keys: str) -> tuple[SmallMainGhost, PolicyDriver]:
    policy = SmallMainGhost()
    driver = PolicyDriver(policy)
    for key in keys:
        driver.insert(key)
    return policy, driver


def test_s3fifo_lets_what_was_used_once_go_first() -> None:
    """A scan goes through the small queue; what was used twice goes on to the main queue."""
    _, driver = s3fifo("a", "b", "c", "d")
    for key in ("b", "b", "c"):
        driver.hit(key)
    assert driver.evict() == "a"
    assert driver.evict() == "c"
    driver.insert("e")
    assert driver.drain() == ["d", "e", "b"]


def test_s3fifo_knows_who_comes_back() -> None:
    """What went a short while ago enters the main queue, and there it outlives what is new."""
    _, driver = s3fifo("a", "b", "c")
    assert driver.evict() == "a"
    driver.insert("a")
    driver.insert("d")
    assert driver.drain() == ["b", "c", "d", "a"]


def test_s3fifo_gives_a_lap_for_each_use() -> None:
    policy, driver = s3fifo("a", "b")
    for key in ("a", "b"):
        driver.evict()
        driver.insert(key)  # both are in the main queue now
    assert len(policy) == 2
    for _ in range(9):
        driver.hit("a")
    driver.hit("b")
    assert driver.drain() == ["b", "a"]


@given(steps=STEPS)
def test_s3fifo_counts_its_bytes(steps: list[tuple[object, ...]]) -> None:
    """Whatever happens, each queue knows what it holds, and every item comes out once."""
    policy, driver = s3fifo()
    for verb, *rest in steps:
        match verb, rest:
            case "insert", [str(key), int(size), float(cost)]:
                driver.insert(key, size, cost)
            case "hit", [str(key)]:
                driver.hit(key)
            case "remove", [str(key)]:
                driver.remove(key)
            case "evict", []:
                driver.evict()
        held = sum(items[0].size for items in driver.items.values())
        assert policy._small_bytes + policy._main_bytes == held
        assert sum(policy._ghost.values()) == policy._ghost_bytes
        assert len(policy) == len(driver.items)
    driver.drain()
