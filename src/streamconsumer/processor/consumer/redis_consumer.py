"""One consumer's side of a consumer group: reading, acknowledging, and coming back when the group was lost."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.consumer.ack_buffer import Acknowledgements
from streamconsumer.processor.consumer.effects_commit import commit
from streamconsumer.processor.consumer.group_snapshot import LastKnown
from streamconsumer.processor.consumer.leases import Ownership
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.consumer.pending_entries import PendingEntries
from streamconsumer.processor.consumer.preflight import examine
from streamconsumer.processor.consumer.raw_connection import Wire, packed_command
from streamconsumer.processor.consumer.reader_registry import Waiting
from streamconsumer.processor.dead_letters.writer import DeadLetters, Letter, portions
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import AsciiEntry, BytesEntry, Entry, TextEntry, is_suspect
from streamconsumer.processor.metrics import Metrics
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.errors_table import fault
from streamconsumer.redis_client.keys import companion

if TYPE_CHECKING:
    from streamconsumer.processor.consumer.claimer import Claims

log = logging.getLogger(__name__)

PAGE = 200
"""How many pending entries are looked at, or moved, with one command."""

READ_MARGIN = timedelta(seconds=5)
"""A read that has not answered this long after its own end is taken for a dead connection."""

MOST_BYTES = 32 * 1024 * 1024
"""About how much one read may bring: of large entries fewer are asked for."""

FIRST_COUNT = 10
"""How many entries are asked for while nobody knows how large they are; doubled with each full read."""

NO_TIME = timedelta(0)


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
        held: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.manager, self._metrics = manager, metrics
        self.who = self._stream, self._group, self._consumer = stream, group, consumer
        self.blocks = True
        """Whether `read` itself waits for entries; otherwise the loop waits `poll_interval` after an empty one."""
        self.encoding = manager.encoding
        self.caring: Claims | None = None
        """None: renewal, take-over, dead letters and postponed retries are not available; what fails stays pending."""
        self.held = held
        """The ids of everything in flight here."""
        self._block_seconds = block.total_seconds()
        self._wire: Wire | None = None
        self._client_id: int | None = None
        self._reading = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.pending = PendingEntries(manager.ask, *self.who)
        self.ownership = Ownership(manager.ask, *self.who)
        self._waiting = Waiting(manager.ask, *self.who)
        self.woken = asyncio.Event()
        """Set when a read came back empty before its time: somebody may have handed entries back."""
        self.last_known = LastKnown(manager.ask, *self.who)
        policy = manager.delivery
        self.dead_letter_stream = policy.dead_letter_stream or companion(stream, group, "dead-letters")
        self._dead_letters = DeadLetters(
            manager.ask_together, stream, group, self.dead_letter_stream, policy.dead_letter_max_length
        )
        self.acks = Acknowledgements(self._send_acks, metrics)
        self.acknowledge_soon: Callable[[str], None] | None = self.acks.add
        """Takes an acknowledgement like `acknowledge`, at once; None where that must be waited for."""
        self._replay_from: str | None = ""  # a restarted consumer first finishes what it had begun
        self._position = "0-0"
        self._group_lost = False
        """Set from the moment the group is missed until everything in flight is pending again."""
        self._reads: dict[int, bytes] = {}
        self.most = FIRST_COUNT
        """How many entries are asked for at once, whichever way they come."""

    # -- reading -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and create the group where it does not exist. Raises InvalidSettings for an unusable server."""
        self._idle.clear()
        try:
            found = await examine(self.manager, self.who)
            if found.problem:
                raise InvalidSettings(found.problem)
            position = await self.manager.position(self._stream, self._group)
            if position is None:  # a server out of memory refuses to create even what exists
                await self.last_known.recreate("0-0", self.manager.start_from, in_flight=list(self.held()))
                position = await self.manager.position(self._stream, self._group)
            self._position = position or self._position
            await self._connected()
            await self.ownership.enter()
            await self.last_known.note()
        finally:
            self._idle.set()
        for warning in found.warnings:
            log.warning(warning)

    async def read(self, count: int) -> list[Entry]:
        """New entries, waiting up to the block for one; before those, what this consumer never acknowledged."""
        self._idle.clear()
        try:
            return await self._read_or_recover(count)
        except BaseException:
            # What was read is unknown, and what stands in the connection too: begin anew, with what is pending.
            self._replay_from = ""
            await self._hang_up()
            await self.manager.forget_connections()
            raise
        finally:
            self._idle.set()

    async def _read_or_recover(self, count: int) -> list[Entry]:
        try:
            await self.check()
            wire = await self._connected()
            if self._group_lost:
                await self._bring_back()
            if self._replay_from is not None:
                return await self._replay()
            return self._fresh(await self._exchange(wire, min(count, self.most)), wire, count)
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                if fault(error, "").is_refusal:
                    self.manager.refused.set()
                raise
            await self._recover_group()
            return []

    async def check(self) -> None:
        """After the server has refused a command: raises InvalidSettings if it refuses what is required."""
        if self.manager.refused.is_set():
            if problem := (await examine(self.manager, self.who)).problem:
                raise InvalidSettings(problem)
            self.manager.refused.clear()

    async def wake(self) -> None:
        """End the read that waits. Between two commands UNBLOCK does nothing, so it is repeated until one ends."""
        while not self._idle.is_set():
            if self._client_id is not None and self._reading.is_set():
                with suppress(RedisError, OSError):
                    await self.manager.ask("CLIENT", "UNBLOCK", self._client_id)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), 0.01)

    async def _connected(self) -> Wire:
        if self._wire is not None and self._wire.is_usable:
            return self._wire
        await self._hang_up()
        self._replay_from = ""
        self._client_id = None
        wire = self._wire = Wire(await self.manager.connect(), self.encoding)
        with suppress(ResponseError):  # without the right to CLIENT, stopping waits for the block to end
            self._client_id = int(await wire.ask("CLIENT", "ID"))
        if self._client_id is not None:
            await self._waiting.enter(self._client_id)
        return wire

    async def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _exchange(self, wire: Wire, count: int) -> list[Any]:
        """Acknowledge what is done and read what is new: one write, two replies."""
        acks, refused = self.acks.take(), []

        def acknowledged(reply: Any) -> None:
            if isinstance(reply, Exception):
                refused.append(reply)
            else:
                self.acks.settle(acks, reply)

        read = self._reads.get(count) or self._packed_read(count)
        packed = packed_command("XACK", self._stream, self._group, *acks) + read if acks else read
        patience = self._block_seconds + READ_MARGIN.total_seconds()
        out_of_patience = asyncio.get_running_loop().call_later(patience, wire.give_up)
        self._reading.set()
        begun = asyncio.get_running_loop().time()
        try:
            found = await wire.exchange(packed, acknowledged if acks else None)
        finally:
            self._reading.clear()
            out_of_patience.cancel()
            self._metrics.reads += 1
            if acks:
                self.acks.give_back(acks)
        if refused:
            raise refused[0]
        if isinstance(found, Exception):
            raise found
        if not found and asyncio.get_running_loop().time() - begun < self._block_seconds * 0.9:
            self.woken.set()
        return replies.of_stream(found)

    def _packed_read(self, count: int) -> bytes:
        milliseconds = max(1, round(self._block_seconds * 1000))
        read = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count)
        packed = self._reads[count] = packed_command(*read, "BLOCK", milliseconds, "STREAMS", self._stream, ">")
        return packed

    def _fresh(self, found: list[Any], wire: Wire, count: int) -> list[Entry]:
        received, wire.bytes_received = wire.bytes_received, 0
        is_ascii, wire.is_ascii = wire.is_ascii, True
        if not found:
            return []
        entries = self._entries(found, is_ascii=is_ascii)
        self._position = entries[-1].message_id
        self._metrics.arrived(len(entries), entries[0].message_id, self._position)
        self._learn(len(entries), received, count)
        if received > self.manager.delivery.max_entry_bytes:  # smaller ones cannot be too large
            for entry in entries:
                entry.may_be_large, entry.is_fresh = True, False
        return entries

    def _learn(self, number: int, size_bytes: int, asked: int) -> None:
        """How many entries may be asked for at once, from how large these are."""
        affordable = max(1, MOST_BYTES * number // max(1, size_bytes))
        self.most = min(affordable, max(self.most, min(asked, 2 * number)))

    def _entries(self, found: list[Any], *, is_ascii: bool) -> list[Entry]:
        if self.encoding == "bytes":
            return [BytesEntry(message_id.decode(), fields) for message_id, fields in found]
        kind = AsciiEntry if is_ascii else TextEntry
        return [kind(message_id, texts) for message_id, texts in found]

    async def _replay(self) -> list[Entry]:
        """One page of what is pending with this consumer and not in flight: its own from before it was restarted, or
        what a lost reply brought. They come without their delivery being counted: nobody has begun them."""
        with self.acks.done() as done:
            count = min(PAGE, self.most)
            held = await self.pending.page(self._consumer, count, after=self._replay_from or "")
            here = {*self.held(), *done}
            entries = await self.take([each for each in held if each.message_id not in here], NO_TIME)
        self._replay_from = held[-1].message_id if len(held) == count else None
        entries = [entry for entry in entries if entry.message_id not in done]
        self._metrics.redelivered += len(entries)
        return self.suspected(entries)

    def replay(self) -> None:
        """Somebody took entries for this consumer, and the reply was lost: look for them with the next read."""
        self._replay_from = ""

    async def take(self, held: Collection[Any], idle: timedelta) -> list[Entry]:
        """Pending entries as this consumer's; what was trimmed is counted."""
        entries, trimmed = await self.pending.take(held, idle)
        self.weigh(entries, len(held))
        self._metrics.lost_to_trimming += trimmed
        return entries

    def weigh(self, entries: Collection[Entry], asked: int) -> None:
        """Learn from entries that did not come with a read how many to ask for."""
        if entries:
            self._learn(len(entries), sum(entry.size_bytes() for entry in entries), min(PAGE, 2 * asked))

    def suspected(self, entries: list[Entry]) -> list[Entry]:
        """Entries whose process died: some of them may be why."""
        for entry in entries:
            entry.is_orphan = True
            entry.suspect = is_suspect(entry.deliveries, self.manager.delivery.max_deliveries)
        return entries

    # -- acknowledging -----------------------------------------------------------------------------------------

    async def acknowledge(self, message_id: str) -> None:
        """Take the acknowledgement; it travels with the next read, or soon by itself."""
        self.acks.add(message_id)

    async def flush(self) -> None:
        """Send what has not been sent. Raises what Redis raised, and keeps what has not arrived."""
        await self.acks.flush()

    async def _send_acks(self, acks: Collection[str]) -> int:
        return int(await self.manager.ask("XACK", self._stream, self._group, *acks))

    async def begin(self, message_id: str, deliveries: int) -> int:
        """Count that an entry begins again. 1: it may; 0: another consumer has it; -1: it was trimmed."""
        return await self.ownership.begin(message_id, deliveries)

    async def recount(self, entries: Sequence[tuple[str, int]]) -> None:
        """Correct how often entries that stay here were begun."""
        for first in range(0, len(entries), PAGE):
            await self.ownership.recount(entries[first : first + PAGE])

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """Let entries (id, deliveries so far, delay) be due for any consumer after their delays."""
        for first in range(0, len(entries), PAGE):
            page = entries[first : first + PAGE]
            with self.acks.settling_elsewhere([message_id for message_id, _, _ in page]):
                await self.ownership.postpone(page)
        if any(not delay for _, _, delay in entries):
            await self._waiting.wake_one(self.ownership.members, await self.ownership.now_milliseconds() / 1000)

    async def bury_all(self, letters: Sequence[Letter]) -> list[bool | Exception]:
        """Each dead letter and its acknowledgement in one step, with a round trip for about a megabyte of letters. An
        answer is True, False (another consumer has the entry), or the error of Redis."""
        answers: list[bool | Exception] = []
        for page in portions(letters):
            with self.acks.settling_elsewhere([message_id for message_id, _ in page]):
                found = await self._dead_letters.bury_all(self._consumer, page)
                for (message_id, _), buried in zip(page, found, strict=True):
                    if isinstance(buried, Exception):
                        await self.manager.notice(buried)
                    elif buried:
                        self.acks.settled_elsewhere(message_id)
            answers += found
        return answers

    async def commit(self, message_id: str, effects: Effects) -> bool:
        """Effects and the acknowledgement, in one step. False: another consumer has the entry."""
        with self.acks.settling_elsewhere([message_id]):
            if settled := await commit(self.manager.ask, *self.who, message_id, effects):
                self.acks.settled_elsewhere(message_id)
            return settled

    async def close(self) -> None:
        """Acknowledge what is left, leave the group if nothing is pending here, disconnect."""
        try:
            await self.acks.last()
            await self.ownership.leave()
        except (RedisError, OSError) as error:
            log.warning("left without a last word to Redis", extra={"error": str(error)})
        finally:
            self.acks.cancel()
            await self._hang_up()

    # -- a lost group ------------------------------------------------------------------------------------------

    async def _recover_group(self) -> None:
        """The group is gone: create it where it was, with what is in flight here pending as it was."""
        self._group_lost = True
        begin = await self.last_known.recreate(self._position, "0", in_flight=list(self.held()))
        self._metrics.groups_recreated += 1
        log.warning(
            "consumer group was gone and is created again",
            extra={"stream": self._stream, "group": self._group, "position": begin},
        )
        await self._bring_back()

    async def _bring_back(self) -> None:
        """Put back what came into flight since the group was created again."""
        in_flight = list(self.held())
        for first in range(0, len(in_flight), PAGE):
            await self.ownership.renew(in_flight[first : first + PAGE])
        await self.ownership.enter()
        self._group_lost = False
