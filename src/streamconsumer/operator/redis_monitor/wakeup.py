"""Who sleeps is woken by the first entry: one connection waits on the streams of all who have no pods.

XREAD needs no group, takes nothing from anybody, and the server answers it the moment something is added. It is asked
anew every half minute, so that a network that swallowed the connection is noticed; the looks go on beside it, and
find what it may have missed.
"""

import asyncio
import logging
from collections.abc import Callable

from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.redis_client.errors_table import Fault
from streamconsumer.redis_client.pipeline_client import Line
from streamconsumer.redis_client.replies import order

BLOCK_SECONDS = 30
PATIENCE_SECONDS = BLOCK_SECONDS + 5.0

PAUSES_SECONDS = 0.5, 10.0
"""The first one after an outage, and the longest: each is twice the one before. A server that was restarted, or a proxy
that ends what is quiet, is soon listened to again; between the attempts there are the looks."""

GATHERING_SECONDS = 0.05
"""Many that fall asleep at the same time are waited for together."""

log = logging.getLogger(__name__)


class Alarm:
    """`rings` hears who has something to do. `connect` gives a line whose patience is above the block, or None."""

    def __init__(self, rings: Callable[[Key], None], connect: Callable[[], Line | None]) -> None:
        self._rings, self._connect = rings, connect
        self._sleeping: dict[Key, tuple[str, str]] = {}
        """The stream of each, and the id after which an entry is news."""
        self._changed = asyncio.Event()
        self._outdated = False

    def set(self, key: Key, stream: str, after: str) -> None:
        """Wait for an entry after this id."""
        known = self._sleeping.get(key)
        if known is None or order(known[1]) < order(after):
            self._sleeping[key] = (stream, after)
        if known is None:
            self._changed.set()

    def clear(self, key: Key) -> None:
        """It is awake, or gone."""
        if self._sleeping.pop(key, None):
            self._changed.set()

    def connect_anew(self) -> None:
        """There is another way now: what the line was made of is gone."""
        self._outdated = True
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong with a line, another is tried."""
        line: Line | None = None
        first, longest = PAUSES_SECONDS
        pause = first
        try:
            while True:
                try:
                    if not self._sleeping or line is None or self._outdated:
                        line = await self._begin(line)
                    if line is not None and await self._listened(line):
                        pause = first
                        continue
                except Exception as error:  # noqa: BLE001 - the looks go on beside it, and say what is wrong
                    log.debug("cannot wait for the first entry", extra={"error": type(error).__name__})
                await self._hung_up(line)
                line = None
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
        finally:
            await self._hung_up(line)

    async def _begin(self, line: Line | None) -> Line | None:
        """A line, once somebody sleeps; none is kept for nobody."""
        await self._hung_up(line)
        while not self._sleeping:
            self._changed.clear()
            await self._changed.wait()
        self._outdated = False
        return self._connect()

    async def _hung_up(self, line: Line | None) -> None:
        if line is not None:
            await line.hang_up()

    async def _listened(self, line: Line) -> bool:
        """Wait for an entry, the end of the block, or a change of who sleeps. Whether that is possible."""
        await asyncio.sleep(GATHERING_SECONDS)
        self._changed.clear()
        asked = dict(self._sleeping)
        if not asked or self._outdated:
            return True
        reading = asyncio.create_task(line.ask([_question(list(asked.values()))]))
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            if not reading.done():
                reading.cancel()  # the line hangs up: the server forgets the question
            await asyncio.wait({reading, changed})
        if reading.cancelled():
            return True
        answers = reading.result()
        if isinstance(answers, Fault) or isinstance(answers[0], Fault):
            return False
        self._hear({name.decode(): entries[-1][0].decode() for name, entries in answers[0] or []}, asked)
        return True

    def _hear(self, news: dict[str, str], asked: dict[Key, tuple[str, str]]) -> None:
        for key, (stream, _) in asked.items():
            if stream in news and key in self._sleeping:
                self._sleeping[key] = (stream, news[stream])  # who goes on sleeping waits for the next one
                self._rings(key)


def _question(sleeping: list[tuple[str, str]]) -> tuple[object, ...]:
    after: dict[str, str] = {}
    for stream, message_id in sleeping:  # two groups may share a stream
        if stream not in after or order(message_id) < order(after[stream]):
            after[stream] = message_id
    return ("XREAD", "COUNT", 1, "BLOCK", BLOCK_SECONDS * 1000, "STREAMS", *after, *after.values())
