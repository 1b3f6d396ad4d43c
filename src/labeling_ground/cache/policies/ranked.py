"""Any ranking as a policy in memory: a small heap of the entries ranked lowest, and stacks of all the others."""

import math
from bisect import bisect_right
from heapq import heapify, heappop, heappush, heapreplace

from labeling_ground.cache.policies.port import Item, Ranking

_MOST_WAITING = 1024
"""So many items may wait for their place, which bounds what one eviction has to catch up on."""
_FLOOR_EVERY_S = 30.0
"""Seconds between two notes of the floor."""
_MOST_FLOORS = 512
"""So often, and for so many times at least, the floor is noted: for about four hours."""
_SLACK = 16
"""Dead notes that are not worth looking for."""

_Note = tuple[float, int, Item]
"""An item's place: its rank, and which use of it the rank was worked out for. Dead once the item has another."""


_WAITS: _Note = (0.0, 0, Item("", 0, 0.0, 0.0))
"""In place of a place, while an item waits for one."""


class RankedPolicy:
    """A ``Policy`` by a ``Ranking``. Not safe for threads.

    A use only ever raises a rank, so a hit notes when it was and leaves the order alone: O(1), and no rank is worked
    out. The note in its place is corrected when it is about to go, which each hit can cause once at most. What is new,
    and what was marked, waits for its place until something must go; many are gone or marked again by then.

    Only the lowest notes are kept in order, in a heap. The others lie in stacks, each of one range of ranks, and a
    stack is put in order when it is the lowest. With a million entries that is several times as fast as one heap of
    all, in which every step from parent to child waits for memory. Stacks are split and cleared of dead notes one at
    a time, so no access is held up by more than one of them.

    Args:
        ranking: the formula. Where its ``makes_room`` is false, no entry goes for a new one.
        near: so many notes are kept in order, or lie in one stack, at the most. They fit into a processor's cache.
    """

    def __init__(self, ranking: Ranking, *, near: int = 4096) -> None:
        self.ranking = ranking
        self.makes_room: bool = getattr(ranking, "makes_room", True)
        self._most_near = near
        self._near: list[_Note] = []
        self._bounds: list[tuple[float, int]] = []  # the lowest that each stack may hold; rising
        self._stacks: list[list[_Note]] = []
        self._waiting: list[Item] = []
        self._lost = 0  # of those that wait
        self._count = 0
        self._dead = 0
        self._next_to_clear = 0
        self._floor = 0.0
        self._latest = 0.0
        self._floors = [(-math.inf, 0.0)]  # now and then: the time, and the floor from then on
        self._floor_due = -math.inf
        self._turn = 0

    def __len__(self) -> int:
        return self._count

    def insert(self, item: Item) -> None:
        """Take an item in. One that was not used here is given the rank that its last use would have given it."""
        if item.used > self._latest:
            self._latest = item.used
        if item.uses:
            item.floor = self._floor
            item.latest = self._latest
        else:
            item.floor = self._floor_at(item.used)
            item.latest = item.used
        self._turn = item.turn = self._turn + 1
        item.queued = _WAITS
        self._count += 1
        self._waiting.append(item)
        if len(self._waiting) > _MOST_WAITING:
            self._place()

    def hit(self, item: Item) -> None:
        """Give the item the rank of one used now."""
        # A wall clock may be set back; the order of use may not.
        if item.used > self._latest:
            self._latest = item.used
        item.floor = self._floor
        item.latest = self._latest
        self._turn = item.turn = self._turn + 1

    def mark(self, item: Item) -> None:
        """Its rank may have fallen: it needs a new place."""
        if item.queued is not _WAITS:
            item.queued = _WAITS
            self._dead += 1
            self._waiting.append(item)
            if len(self._waiting) > _MOST_WAITING:
                self._place()

    def remove(self, item: Item) -> None:
        """Forget the item; the floor stays, since nothing was learnt about what room is worth."""
        self._count -= 1
        waits = item.queued is _WAITS
        item.queued = None
        if waits:
            self._lost += 1
            if self._lost > len(self._waiting) // 2 + _SLACK:
                self._waiting = [item for item in self._waiting if item.queued is _WAITS]
                self._lost = 0
        else:
            self._dead += 1
            if self._dead > self._count + _SLACK:
                self._clear()

    def victim(self) -> Item | None:
        """The item with the smallest rank, and unused for longest among those."""
        if self._waiting:
            self._place()
        ranking = self.ranking
        while True:
            near = self._near
            while near:
                top = near[0]
                item = top[2]
                if item.queued is not top:
                    heappop(near)
                    self._dead -= 1
                    continue
                turn = item.turn
                if turn == top[1]:
                    return item
                rank = ranking.rank(ranking.base(item.floor, item.latest), item.size, item.cost, item.done, item.uses)
                note = item.queued = (rank, turn, item)
                if self._bounds and note > self._bounds[0]:
                    heappop(near)
                    self._stack(note)
                else:
                    heapreplace(near, note)
            if not self._stacks:
                return None
            self._take_lowest()

    def evict(self) -> Item | None:
        """Take the victim out and raise the floor to its rank."""
        item = self.victim()
        if item is not None:
            rank = heappop(self._near)[0]
            item.queued = None
            self._count -= 1
            # A done hint can lower a rank below the floor, and the floor never falls.
            if rank > self._floor:
                self._floor = rank
                if self._latest >= self._floor_due:
                    self._note_floor()
        return item

    def _floor_at(self, time: float) -> float:
        """About what the floor was then: in steps of half a minute, and none that are longer ago than those noted."""
        return self._floors[max(0, bisect_right(self._floors, (time, math.inf)) - 1)][1]

    def _note_floor(self) -> None:
        self._floor_due = self._latest + _FLOOR_EVERY_S
        self._floors.append((self._latest, self._floor))
        if len(self._floors) > 2 * _MOST_FLOORS:
            del self._floors[:_MOST_FLOORS]

    def _place(self) -> None:
        """Rank the items that wait, and put each into the heap or a stack."""
        waiting, self._waiting, self._lost = self._waiting, [], 0
        near, bounds, base, rank = self._near, self._bounds, self.ranking.base, self.ranking.rank
        for item in waiting:
            if item.queued is not _WAITS:
                continue  # it went meanwhile
            worth = rank(base(item.floor, item.latest), item.size, item.cost, item.done, item.uses)
            note = item.queued = (worth, item.turn, item)
            if bounds and note > bounds[0]:
                self._stack(note)
            else:
                heappush(near, note)
        if len(near) > self._most_near:
            near.sort()  # what is in order is a heap as well
            self._split(near, 0)
        if self._dead > self._count + _SLACK:
            self._clear()

    def _stack(self, note: _Note) -> None:
        """Lay a note on the stack of its range."""
        index = bisect_right(self._bounds, note) - 1
        stack = self._stacks[index]
        stack.append(note)
        if len(stack) > self._most_near:
            stack.sort()
            self._split(stack, index + 1)

    def _split(self, notes: list[_Note], index: int) -> None:
        """Make the higher half of notes in order a stack of their own, the ``index``-th."""
        half = len(notes) // 2
        self._stacks.insert(index, notes[half:])
        self._bounds.insert(index, notes[half][:2])
        del notes[half:]

    def _take_lowest(self) -> None:
        """Put the lowest stack in order, now that nothing is below it."""
        notes = self._stacks.pop(0)
        del self._bounds[0]
        near, bounds, base, rank = self._near, self._bounds, self.ranking.base, self.ranking.rank
        for note in notes:
            _, turn, item = note
            if item.queued is not note:
                self._dead -= 1
                continue
            if item.turn != turn:
                worth = rank(base(item.floor, item.latest), item.size, item.cost, item.done, item.uses)
                note = item.queued = (worth, item.turn, item)
                if bounds and note > bounds[0]:
                    self._stack(note)
                    continue
            near.append(note)
        heapify(near)

    def _clear(self) -> None:
        """Take the dead notes out of one stack, or out of the heap: the next one in turn."""
        index = self._next_to_clear
        if index < len(self._stacks):
            stack = self._stacks[index]
            self._bury(stack)
            if stack:
                self._next_to_clear += 1
            else:  # its range goes to the one below
                del self._stacks[index], self._bounds[index]
        else:
            self._next_to_clear = 0
            self._bury(self._near)
            heapify(self._near)

    def _bury(self, notes: list[_Note]) -> None:
        before = len(notes)
        notes[:] = [note for note in notes if note[2].queued is note]
        self._dead -= before - len(notes)
