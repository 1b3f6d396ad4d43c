"""What the memory store holds: a record an entry, and the records of each image."""

from collections.abc import Iterator, Mapping

from labeling_ground import key as keys
from labeling_ground.cache.policies.port import Item
from labeling_ground.types import Entry, Kind

SLICE = 1000
"""Entries that a change of policy, or a purge, looks at before others get their turn: a few milliseconds."""
GONE = Entry(Kind.IMAGE, b"", 0.0, 0.0)
"""In place of what was evicted, where a record of it is still noted somewhere."""


class Tally:
    """What is held of one kind."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0


class Group:
    """The entries of one image. Those that went stay in the list until there are more of them than of the others."""

    __slots__ = ("alive", "name", "records")

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: list[Record] = []
        self.alive = 0

    def members(self) -> list["Record"]:
        """Those that are there."""
        return [record for record in self.records if record.entry is not GONE]


class Record(Item):
    """An entry, and what the store and its policy know of it: one object, for the sake of speed."""

    __slots__ = ("born", "entry", "group", "tally")

    def __init__(self, key: str, group: Group, entry: Entry, size: int, tally: Tally, used: float, born: float) -> None:
        # Not by way of ``super()``: a call is a good part of what taking an entry in costs.
        self.key = key
        self.size = size
        self.cost = entry.cost
        self.used = used
        self.uses = 1
        self.done = False
        self.group = group
        self.entry = entry
        self.tally = tally
        self.born = born  # when the value was computed, by the store's clock: that of ``entry.created`` may be set


NOWHERE = Group("")


class RecordsByImage:
    """The records of each image, found by the beginning that all its keys share."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._latest = NOWHERE  # that of the entry that came in last

    def of(self, key: str) -> Group:
        """The group that a new key belongs to; made if there is none."""
        group = self._latest
        if not group.alive or not key.startswith(group.name):  # mostly it is the image of the last one
            name = keys.group_of(key)
            group = self._groups.get(name) or self._groups.setdefault(name, Group(name))
            # Keys of another form than ours share what other keys may start with, too.
            self._latest = group if name.count("/") == 3 else NOWHERE
        return group

    def leave(self, group: Group) -> None:
        """Note that a record of the group is gone."""
        group.alive -= 1
        if not group.alive:
            del self._groups[group.name]
        elif len(group.records) > 2 * group.alive + 16:
            group.records = group.members()

    def members(self, name: str) -> list[Record]:
        """The records of one image."""
        group = self._groups.get(name)
        return [] if group is None else group.members()

    def each(self) -> Iterator[Record]:
        """All records there are now, and perhaps some that come in meanwhile; one can go through them in parts."""
        groups = list(self._groups.values())  # far fewer than entries, which are looked at later
        return (record for group in groups for record in group.members())

    def matching(self, pattern: str, records: Mapping[str, Record]) -> Iterator[list[Record]]:
        """The records whose keys match, a part at a time. What comes in meanwhile is not among them.

        One image costs what it holds, anything wider a look at all keys.
        """
        matches = keys.matcher(pattern) if "*" in pattern else pattern.__eq__
        literal = pattern.split("*", 1)[0]
        if literal == pattern:
            found = [records[pattern]] if pattern in records else []
        elif literal.count("/") >= 3:  # tenant and image are given in full
            found = self.members(keys.group_of(literal))
        else:
            found = all_of(records)
        for start in range(0, len(found), SLICE):
            yield [one for one in found[start : start + SLICE] if one.entry is not GONE and matches(one.key)]


def all_of(records: Mapping[str, Record]) -> list[Record]:
    """All records, in the order in which they came in.

    An ordered dictionary looks every key up while one goes through it, which takes fifty times as long.
    """
    return list(dict.values(records))  # type: ignore[arg-type]
