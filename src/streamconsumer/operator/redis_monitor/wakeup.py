"""Who sleeps is woken by the first entry: one connection waits on the streams of all who have no pods.

XREAD needs no group, takes nothing from anybody, and the server answers it the moment something is added. It is asked
anew every half minute, so that a network that swallowed the connection is noticed; the looks go on beside it, and
find what it may have missed.
"""

import asyncio
import logging
from collections.abc import Callable

from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import PipelineClient
from streamconsumer.redis_client.replies import parse_id

BLOCK_SECONDS = 30
TIMEOUT_SECONDS = BLOCK_SECONDS + 5.0

RETRY_DELAYS_SECONDS = 0.5, 10.0
"""The first one after an outage, and the longest: each is twice the one before. A server that was restarted, or a proxy
that ends what is quiet, is soon listened to again; between the attempts there are the looks."""

BATCH_WINDOW_SECONDS = 0.05
"""Many that fall asleep at the same time are waited for together."""

log = logging.getLogger(__name__)


class ScaleFromZeroWatcher:
    """`rings` hears who has something to do. `connect` gives a line whose patience is above the block, or None."""

    def __init__(self, on_entry: Callable[[Key], None], connect: Callable[[], PipelineClient | None]) -> None:
        self._on_entry, self._connect = on_entry, connect
        self._watched: dict[Key, tuple[str, str]] = {}
        """The stream of each, and the id after which an entry is news."""
        self._changed = asyncio.Event()
        self._must_reconnect = False

    def watch(self, key: Key, stream: str, after_id: str) -> None:
        """Wait for an entry after this id."""
        known = self._watched.get(key)
        if known is None or parse_id(known[1]) < parse_id(after_id):
            self._watched[key] = (stream, after_id)
        if known is None:
            self._changed.set()

    def unwatch(self, key: Key) -> None:
        """It is awake, or gone."""
        if self._watched.pop(key, None):
            self._changed.set()

    def reconnect(self) -> None:
        """There is another way now: what the line was made of is gone."""
        self._must_reconnect = True
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong with a line, another is tried."""
        line: PipelineClient | None = None
        first, longest = RETRY_DELAYS_SECONDS
        pause = first
        try:
            while True:
                try:
                    if not self._watched or line is None or self._must_reconnect:
                        line = await self._connect_when_watching(line)
                    if line is not None and await self._wait_for_entries(line):
                        pause = first
                        continue
                except Exception as error:  # noqa: BLE001 - the looks go on beside it, and say what is wrong
                    log.debug("cannot wait for the first entry", extra={"error": type(error).__name__})
                await self._close(line)
                line = None
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
        finally:
            await self._close(line)

    async def _connect_when_watching(self, client: PipelineClient | None) -> PipelineClient | None:
        """A line, once somebody sleeps; none is kept for nobody."""
        await self._close(client)
        while not self._watched:
            self._changed.clear()
            await self._changed.wait()
        self._must_reconnect = False
        return self._connect()

    async def _close(self, client: PipelineClient | None) -> None:
        if client is not None:
            await client.close()

    async def _wait_for_entries(self, client: PipelineClient) -> bool:
        """Wait for an entry, the end of the block, or a change of who sleeps. Whether that is possible."""
        await asyncio.sleep(BATCH_WINDOW_SECONDS)
        self._changed.clear()
        asked = dict(self._watched)
        if not asked or self._must_reconnect:
            return True
        reading = asyncio.create_task(client.execute([_xread_command(list(asked.values()))]))
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
        if isinstance(answers, RedisErrorInfo) or isinstance(answers[0], RedisErrorInfo):
            return False
        self._notify({name.decode(): entries[-1][0].decode() for name, entries in answers[0] or []}, asked)
        return True

    def _notify(self, last_ids: dict[str, str], watched: dict[Key, tuple[str, str]]) -> None:
        for key, (stream, _) in watched.items():
            if stream in last_ids and key in self._watched:
                self._watched[key] = (stream, last_ids[stream])  # who goes on sleeping waits for the next one
                self._on_entry(key)


def _xread_command(watched: list[tuple[str, str]]) -> tuple[object, ...]:
    after: dict[str, str] = {}
    for stream, message_id in watched:  # two groups may share a stream
        if stream not in after or parse_id(message_id) < parse_id(after[stream]):
            after[stream] = message_id
    return ("XREAD", "COUNT", 1, "BLOCK", BLOCK_SECONDS * 1000, "STREAMS", *after, *after.values())
