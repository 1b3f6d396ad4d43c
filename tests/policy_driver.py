"""What drives eviction policies in their tests, as a store would."""

from hypothesis import strategies as st

from labeling_ground.cache.policies.port import Item, Policy

KEYS = st.sampled_from([f"k{i}" for i in range(8)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), KEYS, st.integers(0, 50), st.sampled_from([0.0, 0.02, 0.4, 15.0])),
        st.tuples(st.just("hit"), KEYS),
        st.tuples(st.just("mark"), KEYS, st.booleans()),
        st.tuples(st.just("remove"), KEYS),
        st.tuples(st.just("evict")),
        st.tuples(st.just("tick"), st.integers(-2, 3)),
    ),
    max_size=120,
)


class PolicyDriver:
    """Keeps the facts up to date, as a store does, and tells the policies."""

    def __init__(self, *policies: Policy) -> None:
        self.policies = policies
        self.items: dict[str, list[Item]] = {}

    def insert(self, key: str, size: int = 10, cost: float = 1.0, now: float = 1.0) -> None:
        if key not in self.items:
            self.items[key] = [Item(key, size, cost, now) for _ in self.policies]
            for policy, item in zip(self.policies, self.items[key], strict=True):
                policy.insert(item)

    def hit(self, key: str, now: float = 1.0) -> None:
        for policy, item in zip(self.policies, self.items.get(key, ()), strict=False):
            item.used, item.uses, item.done = now, item.uses + 1, False
            policy.hit(item)

    def mark(self, key: str, done: bool) -> None:
        for policy, item in zip(self.policies, self.items.get(key, ()), strict=False):
            if item.done != done:
                item.done = done
                policy.mark(item)

    def remove(self, key: str) -> None:
        for policy, item in zip(self.policies, self.items.pop(key, ()), strict=False):
            policy.remove(item)

    def take(self, verb: object, rest: list[object], now: float) -> None:
        """One of the ``STEPS`` in which nobody goes for room."""
        match verb, rest:
            case "insert", [str(key), int(size), float(cost)]:
                self.insert(key, size, cost, now)
            case "hit", [str(key)]:
                self.hit(key, now)
            case "mark", [str(key), bool(done)]:
                self.mark(key, done)
            case "remove", [str(key)]:
                self.remove(key)
            case _:
                raise AssertionError((verb, rest))

    def evict(self) -> str | None:
        gone = {None if item is None else item.key for item in [policy.evict() for policy in self.policies]}
        assert len(gone) == 1, gone
        key = gone.pop()
        if key is not None:
            del self.items[key]
        return key

    def drain(self) -> list[str]:
        order = []
        while (key := self.evict()) is not None:
            order.append(key)
        assert self.items == {}
        return order
