import asyncio

from streamconsumer.operator.arrivals import LONGEST, MANY, QUIET, WITHIN, Arrivals
from streamconsumer.operator.queue import Key

A_LITTLE = WITHIN.total_seconds() / MANY / 2


class Room:
    """Arrivals by a clock that the test moves, and who has begun."""

    def __init__(self) -> None:
        self.now = 0.0
        self.begun: list[int] = []
        self.everybody = asyncio.Event()
        self.came: list[int] = []
        self.arrivals = Arrivals(self._begin, lambda: self.now)

    def _begin(self, key: Key) -> None:
        self.begun.append(int(key[1]))
        if sorted(self.begun) == self.came:
            self.everybody.set()

    def come(self, count: int, pause: float) -> None:
        """So many, each so many seconds after the one before."""
        for _ in range(count):
            self.now += pause
            self.came.append(len(self.came))
            self.everybody.clear()
            self.arrivals.came(("shop", str(self.came[-1])))


async def test_a_few_begin_at_once() -> None:
    room = Room()
    room.come(MANY - 1, A_LITTLE)
    assert room.begun == room.came


async def test_many_that_come_slowly_begin_at_once() -> None:
    room = Room()
    room.come(3 * MANY, WITHIN.total_seconds() / (MANY - 2))
    assert room.begun == room.came


async def test_while_many_come_those_after_the_first_few_wait_until_no_more_come_and_begin_in_their_order() -> None:
    room = Room()
    room.come(5 * MANY, A_LITTLE)
    assert room.begun == list(range(MANY - 1))
    async with asyncio.timeout(20):
        await room.everybody.wait()
    assert room.begun == room.came


async def test_nobody_waits_any_more_when_they_go_on_coming() -> None:
    room = Room()
    room.come(int(LONGEST.total_seconds() / A_LITTLE) + MANY, A_LITTLE)
    assert room.begun[-1] == room.came[-1]


async def test_the_next_many_wait_anew() -> None:
    room = Room()
    room.come(int(LONGEST.total_seconds() / A_LITTLE) + MANY, A_LITTLE)
    async with asyncio.timeout(20):
        await room.everybody.wait()
    room.now += 10 * WITHIN.total_seconds()
    room.come(MANY + 1, QUIET.total_seconds() / 2 / MANY)
    assert room.begun[-1] < room.came[-1] - 1
    async with asyncio.timeout(20):
        await room.everybody.wait()
