"""One consumer's side of a consumer group: reading, acknowledging, and coming back when the group was lost."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.consumer.ack_buffer import AckBuffer
from streamconsumer.processor.consumer.effects_commit import commit_effects
from streamconsumer.processor.consumer.group_snapshot import GroupSnapshot
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.consumer.pending_entries import PendingEntries
from streamconsumer.processor.consumer.preflight import run_preflight_checks
from streamconsumer.processor.consumer.raw_connection import RawConnection, pack_command
from streamconsumer.processor.consumer.reader_registry import ReaderRegistry
from streamconsumer.processor.dead_letters.writer import DeadLetterWriter, EncodedDeadLetter, chunks_by_size
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import AsciiEntry, BytesEntry, ConsumerId, Entry, TextEntry, is_suspect
from streamconsumer.processor.metrics import Metrics
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import group_key

if TYPE_CHECKING:
    from streamconsumer.processor.consumer.claimer import PendingClaimer

log = logging.getLogger(__name__)

PAGE_SIZE = 200
"""How many pending entries are looked at, or moved, with one command."""

READ_TIMEOUT_MARGIN = timedelta(seconds=5)
"""A read that has not answered this long after its own end is taken for a dead connection."""

MAX_READ_BYTES = 32 * 1024 * 1024
"""About how much one read may bring: of large entries fewer are asked for."""

INITIAL_COUNT = 10
"""How many entries are asked for while nobody knows how large they are; doubled with each full read."""

ANY_IDLE_TIME = timedelta(0)


class RedisConsumer:
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
        in_flight_ids: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.manager, self._metrics = manager, metrics
        self.consumer_id = ConsumerId(stream, group, consumer)
        self._stream, self._group, self._consumer_name = self.consumer_id
        self.is_blocking = True
        """Whether `read` itself waits for entries; otherwise the loop waits `poll_interval` after an empty one."""
        self.encoding = manager.encoding
        self.claimer: PendingClaimer | None = None
        """None: renewal, take-over, dead letters and postponed retries are not available; what fails stays pending."""
        self.in_flight_ids = in_flight_ids
        """The ids of everything in flight here."""
        self._block_seconds = block.total_seconds()
        self._connection: RawConnection | None = None
        self._client_id: int | None = None
        self._read_sent = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.pending_entries = PendingEntries(manager.execute, *self.consumer_id)
        self.leases = Leases(manager.execute, *self.consumer_id)
        self._reader_registry = ReaderRegistry(manager.execute, *self.consumer_id)
        self.wakeup = asyncio.Event()
        """Set when a read came back empty before its time: somebody may have handed entries back."""
        self.snapshot = GroupSnapshot(manager.execute, *self.consumer_id)
        policy = manager.delivery
        self.dead_letter_stream = policy.dead_letter_stream or group_key(stream, group, "dead-letters")
        self._dead_letter_writer = DeadLetterWriter(
            manager.execute_pipeline, stream, group, self.dead_letter_stream, policy.dead_letter_max_length
        )
        self.ack_buffer = AckBuffer(self._send_acks, metrics)
        self.ack_nowait: Callable[[str], None] | None = self.ack_buffer.add
        """Takes an acknowledgement like `acknowledge`, at once; None where that must be waited for."""
        self._replay_from: str | None = ""  # a restarted consumer first finishes what it had begun
        self._last_delivered_id = "0-0"
        self._is_group_lost = False
        """Set from the moment the group is missed until everything in flight is pending again."""
        self._packed_reads: dict[int, bytes] = {}
        self.max_count = INITIAL_COUNT
        """How many entries are asked for at once, whichever way they come."""

    # -- reading -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and create the group where it does not exist. Raises InvalidSettings for an unusable server."""
        self._idle.clear()
        try:
            found = await run_preflight_checks(self.manager, self.consumer_id)
            if found.problem:
                raise InvalidSettings(found.problem)
            position = await self.manager.last_delivered_id(self._stream, self._group)
            if position is None:  # a server out of memory refuses to create even what exists
                await self.snapshot.restore_group("0-0", self.manager.start_from, in_flight=list(self.in_flight_ids()))
                position = await self.manager.last_delivered_id(self._stream, self._group)
            self._last_delivered_id = position or self._last_delivered_id
            await self._connect()
            await self.leases.register()
            await self.snapshot.save()
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
            await self._disconnect()
            await self.manager.drop_connections()
            raise
        finally:
            self._idle.set()

    async def _read_or_recover(self, count: int) -> list[Entry]:
        try:
            await self.recheck_server()
            wire = await self._connect()
            if self._is_group_lost:
                await self._restore_ownership()
            if self._replay_from is not None:
                return await self._read_own_pending()
            return self._parse_new_entries(await self._ack_and_read(wire, min(count, self.max_count)), wire, count)
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                if classify_error(error, "").is_command_unavailable:
                    self.manager.command_refused.set()
                raise
            await self._recover_group()
            return []

    async def recheck_server(self) -> None:
        """After the server has refused a command: raises InvalidSettings if it refuses what is required."""
        if self.manager.command_refused.is_set():
            if problem := (await run_preflight_checks(self.manager, self.consumer_id)).problem:
                raise InvalidSettings(problem)
            self.manager.command_refused.clear()

    async def interrupt_read(self) -> None:
        """End the read that waits. Between two commands UNBLOCK does nothing, so it is repeated until one ends."""
        while not self._idle.is_set():
            if self._client_id is not None and self._read_sent.is_set():
                with suppress(RedisError, OSError):
                    await self.manager.execute("CLIENT", "UNBLOCK", self._client_id)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), 0.01)

    async def _connect(self) -> RawConnection:
        if self._connection is not None and self._connection.is_usable:
            return self._connection
        await self._disconnect()
        self._replay_from = ""
        self._client_id = None
        wire = self._connection = RawConnection(await self.manager.connect(), self.encoding)
        with suppress(ResponseError):  # without the right to CLIENT, stopping waits for the block to end
            self._client_id = int(await wire.execute("CLIENT", "ID"))
        if self._client_id is not None:
            await self._reader_registry.register(self._client_id)
        return wire

    async def _disconnect(self) -> None:
        wire, self._connection = self._connection, None
        if wire is not None:
            await wire.close()

    async def _ack_and_read(self, connection: RawConnection, count: int) -> list[Any]:
        """Acknowledge what is done and read what is new: one write, two replies."""
        acks, refused = self.ack_buffer.take_batch(), []

        def acknowledged(reply: Any) -> None:
            if isinstance(reply, Exception):
                refused.append(reply)
            else:
                self.ack_buffer.confirm(acks, reply)

        read = self._packed_reads.get(count) or self._pack_read(count)
        packed = pack_command("XACK", self._stream, self._group, *acks) + read if acks else read
        patience = self._block_seconds + READ_TIMEOUT_MARGIN.total_seconds()
        out_of_patience = asyncio.get_running_loop().call_later(patience, connection.abort)
        self._read_sent.set()
        begun = asyncio.get_running_loop().time()
        try:
            found = await connection.send(packed, acknowledged if acks else None)
        finally:
            self._read_sent.clear()
            out_of_patience.cancel()
            self._metrics.reads += 1
            if acks:
                self.ack_buffer.requeue(acks)
        if refused:
            raise refused[0]
        if isinstance(found, Exception):
            raise found
        if not found and asyncio.get_running_loop().time() - begun < self._block_seconds * 0.9:
            self.wakeup.set()
        return replies.stream_entries(found)

    def _pack_read(self, count: int) -> bytes:
        milliseconds = max(1, round(self._block_seconds * 1000))
        read = ("XREADGROUP", "GROUP", self._group, self._consumer_name, "COUNT", count)
        packed = self._packed_reads[count] = pack_command(*read, "BLOCK", milliseconds, "STREAMS", self._stream, ">")
        return packed

    def _parse_new_entries(self, raw_entries: list[Any], connection: RawConnection, count: int) -> list[Entry]:
        received, connection.bytes_received = connection.bytes_received, 0
        is_ascii, connection.is_ascii = connection.is_ascii, True
        if not raw_entries:
            return []
        entries = self._to_entries(raw_entries, is_ascii=is_ascii)
        self._last_delivered_id = entries[-1].message_id
        self._metrics.record_queue_time(len(entries), entries[0].message_id, self._last_delivered_id)
        self._adapt_count(len(entries), received, count)
        if received > self.manager.delivery.max_entry_bytes:  # smaller ones cannot be too large
            for entry in entries:
                entry.may_be_large, entry.is_first_delivery = True, False
        return entries

    def _adapt_count(self, entry_count: int, size_bytes: int, requested: int) -> None:
        """How many entries may be asked for at once, from how large these are."""
        affordable = max(1, MAX_READ_BYTES * entry_count // max(1, size_bytes))
        self.max_count = min(affordable, max(self.max_count, min(requested, 2 * entry_count)))

    def _to_entries(self, raw_entries: list[Any], *, is_ascii: bool) -> list[Entry]:
        if self.encoding == "bytes":
            return [BytesEntry(message_id.decode(), fields) for message_id, fields in raw_entries]
        kind = AsciiEntry if is_ascii else TextEntry
        return [kind(message_id, texts) for message_id, texts in raw_entries]

    async def _read_own_pending(self) -> list[Entry]:
        """One page of what is pending with this consumer and not in flight: its own from before it was restarted, or
        what a lost reply brought. They come without their delivery being counted: nobody has begun them."""
        with self.ack_buffer.acked_during() as done:
            count = min(PAGE_SIZE, self.max_count)
            held = await self.pending_entries.page(self._consumer_name, count, after=self._replay_from or "")
            here = {*self.in_flight_ids(), *done}
            entries = await self.claim([each for each in held if each.message_id not in here], ANY_IDLE_TIME)
        self._replay_from = held[-1].message_id if len(held) == count else None
        entries = [entry for entry in entries if entry.message_id not in done]
        self._metrics.redelivered += len(entries)
        return self.mark_suspects(entries)

    def request_replay(self) -> None:
        """Somebody took entries for this consumer, and the reply was lost: look for them with the next read."""
        self._replay_from = ""

    async def claim(self, pending: Collection[Any], idle: timedelta) -> list[Entry]:
        """Pending entries as this consumer's; what was trimmed is counted."""
        entries, trimmed = await self.pending_entries.claim(pending, idle)
        self.adapt_to_sizes(entries, len(pending))
        self._metrics.lost_to_trimming += trimmed
        return entries

    def adapt_to_sizes(self, entries: Collection[Entry], requested: int) -> None:
        """Learn from entries that did not come with a read how many to ask for."""
        if entries:
            self._adapt_count(len(entries), sum(entry.size_bytes() for entry in entries), min(PAGE_SIZE, 2 * requested))

    def mark_suspects(self, entries: list[Entry]) -> list[Entry]:
        """Entries whose process died: some of them may be why."""
        for entry in entries:
            entry.owner_died = True
            entry.is_suspect = is_suspect(entry.deliveries, self.manager.delivery.max_deliveries)
        return entries

    # -- acknowledging -----------------------------------------------------------------------------------------

    async def ack(self, message_id: str) -> None:
        """Take the acknowledgement; it travels with the next read, or soon by itself."""
        self.ack_buffer.add(message_id)

    async def flush(self) -> None:
        """Send what has not been sent. Raises what Redis raised, and keeps what has not arrived."""
        await self.ack_buffer.flush()

    async def _send_acks(self, acks: Collection[str]) -> int:
        return int(await self.manager.execute("XACK", self._stream, self._group, *acks))

    async def start_attempt(self, message_id: str, deliveries: int) -> int:
        """Count that an entry begins again. 1: it may; 0: another consumer has it; -1: it was trimmed."""
        return await self.leases.start_attempt(message_id, deliveries)

    async def set_delivery_counts(self, entries: Sequence[tuple[str, int]]) -> None:
        """Correct how often entries that stay here were begun."""
        for first in range(0, len(entries), PAGE_SIZE):
            await self.leases.set_delivery_counts(entries[first : first + PAGE_SIZE])

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """Let entries (id, deliveries so far, delay) be due for any consumer after their delays."""
        for first in range(0, len(entries), PAGE_SIZE):
            page = entries[first : first + PAGE_SIZE]
            with self.ack_buffer.acked_by_script([message_id for message_id, _, _ in page]):
                await self.leases.postpone(page)
        if any(not delay for _, _, delay in entries):
            await self._reader_registry.wake_one(
                self.leases.members, await self.leases.server_time_milliseconds() / 1000
            )

    async def dead_letter_many(self, dead_letters: Sequence[EncodedDeadLetter]) -> list[bool | Exception]:
        """Each dead letter and its acknowledgement in one step, with a round trip for about a megabyte of letters. An
        answer is True, False (another consumer has the entry), or the error of Redis."""
        answers: list[bool | Exception] = []
        for page in chunks_by_size(dead_letters):
            with self.ack_buffer.acked_by_script([message_id for message_id, _ in page]):
                found = await self._dead_letter_writer.write_many(self._consumer_name, page)
                for (message_id, _), buried in zip(page, found, strict=True):
                    if isinstance(buried, Exception):
                        await self.manager.handle_error(buried)
                    elif buried:
                        self.ack_buffer.record_acked(message_id)
            answers += found
        return answers

    async def commit_effects(self, message_id: str, effects: Effects) -> bool:
        """Effects and the acknowledgement, in one step. False: another consumer has the entry."""
        with self.ack_buffer.acked_by_script([message_id]):
            if settled := await commit_effects(self.manager.execute, *self.consumer_id, message_id, effects):
                self.ack_buffer.record_acked(message_id)
            return settled

    async def close(self) -> None:
        """Acknowledge what is left, leave the group if nothing is pending here, disconnect."""
        try:
            await self.ack_buffer.flush_final()
            await self.leases.delete_consumer()
        except (RedisError, OSError) as error:
            log.warning("left without a last word to Redis", extra={"error": str(error)})
        finally:
            self.ack_buffer.cancel()
            await self._disconnect()

    # -- a lost group ------------------------------------------------------------------------------------------

    async def _recover_group(self) -> None:
        """The group is gone: create it where it was, with what is in flight here pending as it was."""
        self._is_group_lost = True
        begin = await self.snapshot.restore_group(self._last_delivered_id, "0", in_flight=list(self.in_flight_ids()))
        self._metrics.groups_recreated += 1
        log.warning(
            "consumer group was gone and is created again",
            extra={"stream": self._stream, "group": self._group, "position": begin},
        )
        await self._restore_ownership()

    async def _restore_ownership(self) -> None:
        """Put back what came into flight since the group was created again."""
        in_flight = list(self.in_flight_ids())
        for first in range(0, len(in_flight), PAGE_SIZE):
            await self.leases.renew(in_flight[first : first + PAGE_SIZE])
        await self.leases.register()
        self._is_group_lost = False
