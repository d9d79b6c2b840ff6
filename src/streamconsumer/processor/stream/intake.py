"""One consumer's side of a consumer group: reading, acknowledging, looking after what is pending."""

import asyncio
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from redis.exceptions import RedisError, ResponseError

from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.stream import replies
from streamconsumer.processor.stream.acknowledgements import Acknowledgements
from streamconsumer.processor.stream.manager import StreamManager
from streamconsumer.processor.stream.ownership import Ownership

log = logging.getLogger(__name__)

PAGE = 200
"""How many of its own pending entries a consumer reads at a time."""

SWEEP = 100
"""How many XAUTOCLAIMs in a row look for idle entries; each looks at ten times as many as it may claim."""


class RedisIntake:
    """One consumer's side of a consumer group."""

    def __init__(
        self,
        manager: StreamManager,
        stream: str,
        group: str,
        consumer: str,
        *,
        block: timedelta,
        metrics: Metrics,
    ) -> None:
        self._manager, self._metrics = manager, metrics
        self._stream, self._group, self._consumer = stream, group, consumer
        self.blocks = True
        self.encoding = manager.encoding
        self.min_idle: timedelta | None = manager.min_idle
        self._lifetime = manager.min_idle
        self._block = block
        self._reader = manager.reader(block)
        self._client_id: int | None = None
        self._reading = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._ownership = Ownership(manager.ask, stream, group, consumer)
        self._acks = Acknowledgements(self._send_acks, self._settled, metrics)
        self._replay_from: str | None = "0"  # a restarted consumer first finishes what it had begun
        self._sweep_from = "0-0"
        self._unsettled: dict[str, float] = {}
        self._position = "0-0"
        self._group_lost = False
        """Set from the moment the group is missed until everything unsettled is pending again."""

    # -- reading -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and create the group where it does not exist."""
        with self._busy():
            position = await self._manager.position(self._stream, self._group)
            if position is None:  # a server out of memory refuses to create even what exists
                await self._manager.create_group(self._stream, self._group)
                position = await self._manager.position(self._stream, self._group)
            self._position = position or self._position
            await self._connect()

    async def read(self, count: int) -> list[Entry]:
        """New entries, waiting up to the block for one; before those, what this consumer never acknowledged."""
        with self._busy():
            try:
                await self._connect()
                if self._group_lost:
                    await self._bring_back()
                if self._replay_from is not None:
                    return await self._replay()
                return self._fresh(await self._exchange(count))
            except BaseException as error:
                if isinstance(error, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    await self._recover_group()
                    return []
                # What was read is unknown, and what stands in the connection too: begin anew, with what is pending.
                self._replay_from = "0"
                await self._reader.disconnect(nowait=True)
                await self._manager.forget_connections()
                raise

    async def wake(self) -> None:
        """End the read that waits. Between two commands UNBLOCK does nothing, so it is repeated until one ends."""
        while not self._idle.is_set():
            if self._client_id is not None and self._reading.is_set():
                with suppress(RedisError, OSError):
                    await self._manager.ask("CLIENT", "UNBLOCK", self._client_id)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), 0.01)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    async def _connect(self) -> None:
        if self._reader.is_connected:
            return
        await self._reader.connect()  # type: ignore[no-untyped-call] # ships no types for it
        self._replay_from = "0"
        self._client_id = None
        with suppress(ResponseError):  # without the right to CLIENT, stopping waits for the block to end
            self._client_id = int(await self._command("CLIENT", "ID"))

    async def _exchange(self, count: int) -> list[Entry]:
        """Acknowledge what is done and read what is new: one write, two replies."""
        acks = self._acks.take()
        milliseconds = max(1, round(self._block / timedelta(milliseconds=1)))
        read = (
            *("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count),
            *("BLOCK", milliseconds, "STREAMS", self._stream, ">"),
        )
        commands = [("XACK", self._stream, self._group, *acks), read] if acks else [read]
        try:
            await self._reader.send_packed_command(self._reader.pack_commands(commands))
            if acks:
                self._acks.settle(acks, await self._reader.read_response())
            self._reading.set()
            return replies.entries(replies.of_stream(await self._reader.read_response()))
        finally:
            self._reading.clear()
            self._metrics.reads += 1
            self._acks.give_back(acks)

    async def _replay(self) -> list[Entry]:
        """One page of this consumer's own pending entries."""
        after = self._replay_from or "0"
        command = (
            "XREADGROUP",
            "GROUP",
            self._group,
            self._consumer,
            "COUNT",
            PAGE,
            "STREAMS",
            self._stream,
            after,
        )
        with self._acks.done() as done:
            found = replies.of_stream(await self._command(*command))
            await self._lost_to_trimming([message_id.decode() for message_id, fields in found if fields is None])
            entries = replies.entries(found)
            await self._count_deliveries(entries)
        self._replay_from = found[-1][0].decode() if len(found) == PAGE else None
        entries = [entry for entry in entries if entry.message_id not in done]
        self._metrics.redelivered += len(entries)
        return self._delivered(entries)

    async def _command(self, *command: Any) -> Any:
        await self._reader.send_command(*command)
        return await self._reader.read_response()

    def _fresh(self, entries: list[Entry]) -> list[Entry]:
        if entries:
            self._position = entries[-1].message_id
        return self._delivered(entries)

    def _delivered(self, entries: list[Entry]) -> list[Entry]:
        now = time.monotonic()
        for entry in entries:
            self._unsettled[entry.message_id] = now
        return entries

    # -- acknowledging -----------------------------------------------------------------------------------------

    async def acknowledge(self, message_id: str) -> None:
        """Take the acknowledgement; it travels with the next read, or soon by itself."""
        self._acks.add(message_id)

    async def flush(self) -> None:
        """Send what has not been sent. Raises what Redis raised, and keeps what has not arrived."""
        await self._acks.flush()

    async def _send_acks(self, acks: Sequence[str]) -> int:
        return int(await self._manager.ask("XACK", self._stream, self._group, *acks))

    def _settled(self, acks: Sequence[str]) -> None:
        for message_id in acks:
            self._unsettled.pop(message_id, None)

    # -- looking after what is pending ---------------------------------------------------------------------------

    async def claim(self, count: int) -> list[Entry]:
        """Take over entries that show no sign of life: of dead consumers, and failed ones whose wait is over."""
        self._forget_old()
        entries: list[Entry] = []
        with self._acks.done() as done:
            for _ in range(SWEEP):
                found = await self._sweep(count - len(entries))
                entries += [entry for entry in found if entry.message_id not in done]
                if len(entries) >= count or self._sweep_from == "0-0":
                    break
            await self._count_deliveries(entries)
        entries = [entry for entry in entries if entry.message_id not in done]
        self._metrics.claimed += len(entries)
        return self._delivered(entries)

    async def _sweep(self, count: int) -> list[Entry]:
        command = ("XAUTOCLAIM", self._stream, self._group, self._consumer, replies.milliseconds(self._lifetime))
        cursor, found, *gone = await self._manager.ask(*command, self._sweep_from, "COUNT", count)
        self._sweep_from = cursor.decode()
        if gone:
            self._metrics.lost_to_trimming += len(gone[0])
        elif None in found:  # Redis 6.2 claims what was trimmed without saying which; reading it tells
            self._replay_from = "0"
        return replies.entries(found)

    async def renew(self, message_ids: Collection[str]) -> list[str]:
        """Show a sign of life. Returns the ids that belong to another consumer by now."""
        lost: list[str] = []
        ids = list(message_ids)
        with self._acks.done() as done:
            for begin in range(0, len(ids), PAGE):
                lost += await self._ownership.renew(ids[begin : begin + PAGE])
            await self._acknowledge_again([each for each in ids if each in done and each not in lost])
        now = time.monotonic()
        self._unsettled.update({message_id: now for message_id in ids if message_id in self._unsettled})
        for message_id in lost:
            self._unsettled.pop(message_id, None)
        await self._restore_failed(set(ids))
        return lost

    async def _acknowledge_again(self, message_ids: list[str]) -> None:
        """A renewal puts back what is nobody's, and so also what Redis heard acknowledged before it."""
        if settled := [each for each in message_ids if not self._acks.waits(each)]:
            await self._send_acks(settled)

    async def _restore_failed(self, in_flight: set[str]) -> None:
        """What failed here and waits, no peer can have taken yet: if it is nobody's, the group was lost meanwhile."""
        horizon = time.monotonic() - self._lifetime.total_seconds()
        with self._acks.done() as done:
            waiting = [
                message_id
                for message_id, since in self._unsettled.items()
                if since > horizon and message_id not in in_flight and message_id not in done
            ]
        for begin in range(0, len(waiting), PAGE):
            await self._ownership.restore(waiting[begin : begin + PAGE])

    async def release(self, message_ids: Collection[str]) -> None:
        """Hand back what was read and not begun: a peer's next claim takes it."""
        if message_ids:
            await self._ownership.release(list(message_ids), 10 * self._lifetime)

    async def close(self) -> None:
        """Acknowledge what is left, leave the group if nothing is pending here, disconnect."""
        try:
            await self._acks.last()
            await self._ownership.leave()
        except (RedisError, OSError) as error:
            log.warning("left without a last word to Redis", extra={"error": str(error)})
        finally:
            self._acks.cancel()
            await self._reader.disconnect(nowait=True)

    async def _count_deliveries(self, entries: list[Entry]) -> None:
        """Redis counts deliveries where a restarted process cannot; only redelivered entries pay for asking."""
        if not entries:
            return
        first, last = entries[0].message_id, entries[-1].message_id
        most = len(self._unsettled) + len(entries) + PAGE
        command = ("XPENDING", self._stream, self._group, first, last, most, self._consumer)
        counts = {each[0].decode(): int(each[3]) for each in await self._manager.ask(*command)}
        for entry in entries:
            entry.deliveries = counts.get(entry.message_id, entry.deliveries)

    async def _lost_to_trimming(self, message_ids: list[str]) -> None:
        """Entries that were trimmed or deleted while pending can never be handled: settled, and counted."""
        if message_ids:
            await self._manager.ask("XACK", self._stream, self._group, *message_ids)
            self._metrics.lost_to_trimming += len(message_ids)

    async def _recover_group(self) -> None:
        """The group is gone: create it where it was, with what is not settled here pending as it was."""
        self._group_lost = True
        begin = await self._manager.recreate_group(self._stream, self._group, self._position)
        self._metrics.groups_recreated += 1
        log.warning(
            "consumer group was gone and is created again",
            extra={"stream": self._stream, "group": self._group, "position": begin},
        )
        await self._bring_back()

    async def _bring_back(self) -> None:
        unsettled = list(self._unsettled)
        for first in range(0, len(unsettled), PAGE):
            page = unsettled[first : first + PAGE]
            command = ("XCLAIM", self._stream, self._group, self._consumer, 0, *page, "FORCE", "JUSTID")
            await self._manager.ask(*command)
        self._group_lost = False

    def _forget_old(self) -> None:
        """What somebody else took over long ago no longer holds the position of this consumer back."""
        horizon = time.monotonic() - 4 * self._lifetime.total_seconds()
        for message_id in [each for each, since in self._unsettled.items() if since < horizon]:
            del self._unsettled[message_id]
