"""What decoded images may take of the memory, all together."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PixelBudget:
    """Room for so many pixels, first come first served; one image that is larger than all of it has it for itself.

    Args:
        most: pixels.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def room(self, pixels: int) -> AsyncIterator[None]:
        """Wait until there is room for an image's pixels, and keep it."""
        pixels = min(pixels, self.most)
        if self._queue or self.taken + pixels > self.most:
            turn = asyncio.get_running_loop().create_future()
            place = (pixels, turn)
            self._queue.append(place)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    if place in self._queue:
                        self._queue.remove(place)
                    self._hand_on()  # a smaller one behind it may fit
                else:  # the turn came, and the caller was cancelled before it noticed
                    self._give_back(pixels)
                raise
        else:
            self.taken += pixels
        try:
            yield
        finally:
            self._give_back(pixels)

    def _give_back(self, pixels: int) -> None:
        self.taken -= pixels
        self._hand_on()

    def _hand_on(self) -> None:
        while self._queue and self.taken + self._queue[0][0] <= self.most:
            pixels, turn = self._queue.popleft()
            if not turn.done():
                self.taken += pixels
                turn.set_result(None)
