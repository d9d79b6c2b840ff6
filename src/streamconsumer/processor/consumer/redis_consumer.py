"""Consumer of one consumer group: reads, acknowledges, and recovers when the group is lost.

XACK and XREADGROUP share one round trip over a raw connection. All other commands use the manager's connections.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.consumer.ack_buffer import AckBuffer
from streamconsumer.processor.consumer.blocking_reads import BlockingReads
from streamconsumer.processor.consumer.dedicated_connection import DedicatedConnection
from streamconsumer.processor.consumer.effects_commit import commit_effects
from streamconsumer.processor.consumer.group_snapshot import GroupSnapshot
from streamconsumer.processor.consumer.large_entries import BoundedReads, Claimed
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.consumer.lost_group import LostGroup
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.consumer.memory_limit import memory_limits
from streamconsumer.processor.consumer.pending_entries import (
    AFTER_ALL_ENTRIES,
    PAGE_SIZE,
    Dead,
    PendingEntries,
    PendingEntry,
)
from streamconsumer.processor.consumer.preflight import run_preflight_checks
from streamconsumer.processor.consumer.raw_connection import (
    LARGE_REPLY_BYTES,
    ConnectionCut,
    RawConnection,
    UnreadableReply,
    pack_command,
)
from streamconsumer.processor.consumer.read_size import ReadSize
from streamconsumer.processor.consumer.registration import OwnRegistration, identify
from streamconsumer.processor.consumer.replay import OwnPendingReplay
from streamconsumer.processor.dead_letters.writer import DeadLetterWriter, EncodedDeadLetter, chunks_by_size
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import CLAIMED, ConsumerId, Entry, is_suspect, new_entries
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.runtime import DEFAULT_RUNTIME, Runtime
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.outcome import Outcome

if TYPE_CHECKING:
    from streamconsumer.processor.consumer.claimer import PendingClaimer

log = logging.getLogger(__name__)

GROUP_LOST = ("NOGROUP", "UNBLOCKED", "The XGROUP subcommand requires the key to exist")
"""Beginnings of the errors with which a server reports that the group or the stream is missing."""


class RedisConsumer:
    """Consumer of a group whose manager is a StreamManager."""

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
        runtime: Runtime = DEFAULT_RUNTIME,
    ) -> None:
        self.manager, self.metrics = manager, metrics
        self.consumer_id = ConsumerId(stream, group, consumer)
        self._stream, self._group, self._consumer_name = self.consumer_id
        self.is_blocking = True
        """True if `read` waits for entries. If False, the consume loop waits `poll_interval` after an empty read."""
        self.encoding = manager.encoding
        self.claimer: PendingClaimer | None = None
        """Claimer of pending entries. None if lease renewal, claims, dead letters and postponed retries are not
        available. Failed messages then stay pending."""
        self.in_flight_ids = in_flight_ids
        """Function that returns the ids of the entries in flight."""
        self.registration = OwnRegistration(
            self.consumer_id, f"{runtime.random.getrandbits(128):032x}", runtime.pod_uid
        )
        self.leases_valid_until = inf
        """Until this time, no other consumer can have claimed the entries in flight. The heartbeat updates this
        time."""
        self._random = runtime.random
        limits = memory_limits(manager.delivery.max_entry_bytes)
        self._reader = DedicatedConnection(manager, limits.reply_bytes, encoding=manager.encoding)
        self._reader.on_connected = self._prepare_reader
        self.blocking_reads = BlockingReads(block, self.registration, self._reader, manager.execute_pipeline)
        self.interrupt_read, self.end_long_read = self.blocking_reads.interrupt, self.blocking_reads.end_long
        self.read_size = ReadSize(limits, runtime.clock)
        self.bounded_reads = BoundedReads(manager, limits, self.read_size)
        self.pending_entries = PendingEntries(manager.execute, self.bounded_reads, *self.consumer_id)
        self.leases = Leases(manager.execute, *self.consumer_id)
        self.start_attempt = self.leases.start_attempt
        self.set_delivery_counts = self.leases.set_delivery_counts
        self.wakeup = asyncio.Event()
        """Event that is set when a read ends early and empty, because another consumer may have released entries."""
        self.snapshot = GroupSnapshot(manager.execute, *self.consumer_id)
        delivery = manager.delivery
        self.dead_letter_stream = delivery.dead_letter_stream or group_key(stream, group, "dead-letters")
        self._dead_letter_writer = DeadLetterWriter(
            manager.execute_pipeline, stream, group, self.dead_letter_stream, delivery.dead_letter_max_length
        )
        self.ack_buffer = AckBuffer(self._send_acks, metrics, in_flight_ids)
        self.on_stream_recreated: Callable[[], object] = lambda: None
        """Function that drops the entries in flight. Called after the stream was deleted and created again."""
        self.on_entry_removed: Callable[[str], object] = self.ack_buffer.ids_in_scripts.discard
        self.flush = self.ack_buffer.flush
        self.replay = OwnPendingReplay(self)
        self.lost_group = LostGroup(self)
        self.last_delivered_id = "0-0"
        """Id of the last entry that a read returned. Before the first read, the position that the group had when this
        consumer started."""

    # -- reading -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and create the group if it does not exist. Raises InvalidSettings if the server cannot be used."""
        with self.blocking_reads.running():
            report = await run_preflight_checks(self.manager, self.consumer_id)
            if report.problem:
                raise InvalidSettings(report.problem)
            position = await self.manager.last_delivered_id(self._stream, self._group)
            if position is None:  # XGROUP CREATE fails if the server is out of memory
                await self.snapshot.restore_group("0-0", self.manager.start_from)
                position = await self.manager.last_delivered_id(self._stream, self._group)
            self.last_delivered_id = position or self.last_delivered_id
            await self.registration.acquire(await self._reader.connect(), self.manager.min_idle)
            await self.leases.register()
            await self.snapshot.save()
        for warning in report.warnings:
            log.warning(warning)

    async def read(self, count: int) -> list[Entry]:
        """Return up to `count` entries: first this consumer's own unacknowledged entries, then new entries.

        Waits for a new entry at most for the BLOCK duration. If `count` is 0, only checks that the server accepts
        reads. Closes the connection before it raises a Redis error.
        """
        with self.blocking_reads.running():
            try:
                return await self._read_or_recover(count)
            except BaseException:
                # The outcome of the read and the state of the connection are unknown: reconnect and read pending
                # entries.
                self.replay.request()
                self.blocking_reads.duration.reset()  # the pod is ready again only after the next read has ended
                await self._reader.close()
                self.bounded_reads.abort()  # does not wait for a claim in progress
                await self.manager.drop_connections()
                raise

    async def _read_or_recover(self, count: int) -> list[Entry]:
        try:
            await self.recheck_server()
            connection = await self._reader.connect()
            if not self.registration.has_name:
                await self.registration.acquire(connection, self.manager.min_idle)
            if self.lost_group.is_unfinished:
                await self.lost_group.restore_ownership()
            if self.replay.is_pending:
                await self._check_reads_are_accepted()
            if not count:
                return []
            if self.replay.is_pending:
                entries = await self.replay.read_page(self.last_delivered_id)
                self.metrics.redelivered += len(entries)
                return entries
            return await self._read_new(connection, count)
        except ResponseError as error:
            if not str(error).removeprefix("ERR ").startswith(GROUP_LOST):
                if classify_error(error, "").is_command_unavailable:
                    self.manager.command_refused.set()
                raise
            await self.lost_group.recover()
            return []

    async def _check_reads_are_accepted(self) -> None:
        """Read this consumer's pending entries after an id that no entry has, so that the read returns nothing.

        Raises an error if the server refuses XREADGROUP. The replay does not detect all of these servers, for example a
        replica."""
        source = ("COUNT", 1, "STREAMS", self._stream, AFTER_ALL_ENTRIES)
        await self._reader.execute("XREADGROUP", "GROUP", self._group, self._consumer_name, *source)

    async def _read_new(self, connection: RawConnection, count: int) -> list[Entry]:
        """Read new entries. If the reply is too large, returns no entries, and the next read requests the same entries
        again.

        If the connection is lost while a read waits for entries, returns the entries that were delivered meanwhile.
        """
        requested = min(count, self.read_size.max_count)
        try:
            raw_entries = await self._ack_and_read(connection, requested)
        except (ConnectionCut, RedisTimeoutError) as error:
            if isinstance(error, ConnectionCut):
                self.read_size.on_cut(requested)
            if not self.blocking_reads.tolerates_loss():
                raise
            self.replay.request()
            await self._reader.close()
            return await self._read_or_recover(count)
        except UnreadableReply as error:
            self.read_size.on_refused(requested)
            self.replay.request()
            await self._reader.close()
            log_fields = {"stream": self._stream, "requested": requested, "next_requested": self.read_size.max_count}
            log.warning("Redis reply is too large; reading fewer entries", extra={"error": str(error), **log_fields})
            return []
        return await self._parse_new_entries(raw_entries, connection, count)

    async def recheck_server(self) -> None:
        """Repeat the preflight checks if the server has rejected a command.

        Raises InvalidSettings if a required permission is missing.
        """
        if self.manager.command_refused.is_set():
            if problem := (await run_preflight_checks(self.manager, self.consumer_id)).problem:
                raise InvalidSettings(problem)
            self.manager.command_refused.clear()

    @property
    def is_receiving(self) -> bool:
        """True while a large reply is being received, so that the heartbeat resets this consumer's idle time."""
        return self.bounded_reads.connection.is_receiving or self._reader.is_receiving

    async def _prepare_reader(self, connection: RawConnection) -> None:
        """Prepare a new connection. The keepalive probes of the connection detect within seconds that the network has
        dropped the connection."""
        connection.keep_alive()
        self.replay.request()
        previous = self.registration.identities.get("reader")
        identity = await identify(connection, self.registration.token)
        self.registration.set_identity("reader", identity)
        if previous and identity and previous.run_id == identity.run_id != "":
            await self.blocking_reads.end_abandoned(connection, previous.client_id)

    def on_name_lost(self) -> None:
        """End the current read, because another process has taken over the consumer name."""
        log.error("another process has taken over the consumer name; dropped the messages in flight")
        self._reader.abort()

    async def _ack_and_read(self, connection: RawConnection, count: int) -> list[Any]:
        """Acknowledge the buffered ids and read new entries in one round trip. Returns the raw entries."""
        acks, ack_errors = self.ack_buffer.take_batch(), []

        def on_ack_reply(reply: Any) -> None:
            if isinstance(reply, Exception):
                ack_errors.append(reply)
            else:
                self.ack_buffer.confirm(acks, replies.count(reply, "XACK"))

        read = self.blocking_reads.command(count)
        packed = pack_command("XACK", self._stream, self._group, *acks) + read if acks else read
        try:
            with self.blocking_reads.waiting(connection):
                reply = await connection.send(packed, on_ack_reply if acks else None)
        finally:
            self.metrics.reads += 1
            if acks:
                self.ack_buffer.requeue(acks)
        if ack_errors:
            raise ack_errors[0]
        if isinstance(reply, Exception):
            raise reply
        if self.blocking_reads.record(reply):
            self.wakeup.set()
        self.is_blocking = self.blocking_reads.is_supported
        return replies.stream_entries(reply)

    async def _parse_new_entries(self, raw_entries: list[Any], connection: RawConnection, count: int) -> list[Entry]:
        received, connection.bytes_received = connection.bytes_received, 0
        is_ascii, connection.is_ascii = connection.is_ascii, True
        if not raw_entries:
            return []
        entries = new_entries(raw_entries, self.encoding, is_ascii=is_ascii)
        await self.lost_group.detect_new_stream(entries[0].message_id)
        self.last_delivered_id = entries[-1].message_id
        self.metrics.record_queue_time(len(entries), entries[0].message_id, self.last_delivered_id)
        self.read_size.on_received(len(entries), received, count)
        if received > LARGE_REPLY_BYTES:
            for entry in entries:
                entry.in_large_reply = True
        if received > self.manager.delivery.max_entry_bytes:  # a smaller reply cannot contain an oversized entry
            for entry in entries:
                entry.may_be_large, entry.is_first_delivery = True, False
        return entries

    async def claim(self, pending: Sequence[PendingEntry], dead: Dead, limit: int | None = None) -> Claimed:
        """Claim up to `limit` pending entries of a dead consumer, or of this consumer."""
        limit = len(pending) if limit is None else limit
        claimed = await self.pending_entries.claim(pending, dead, limit)
        self.record_claimed(claimed, limit)
        return claimed

    def record_claimed(self, claimed: Claimed, requested: int) -> None:
        """Adapt the size of reads to entries that were claimed, and count the trimmed entries."""
        self.metrics.lost_to_trimming += claimed.trimmed
        if count := len(claimed.entries):
            size_bytes = sum(entry.size_bytes() for entry in claimed.entries)
            self.read_size.on_received(count, size_bytes, min(PAGE_SIZE, 2 * requested))

    def mark_suspects(self, entries: list[Entry]) -> list[Entry]:
        """Mark entries of a dead consumer. Entries that may have crashed that consumer become suspects."""
        max_deliveries = self.manager.delivery.max_deliveries
        for entry in entries:
            entry.origin = CLAIMED
            if max_deliveries == 1:  # see `Preparation.marks_first_attempts`
                entry.deliveries = max(0, entry.deliveries - 1)
            entry.is_suspect = is_suspect(entry.deliveries, max_deliveries)
        return entries

    # -- acknowledging -----------------------------------------------------------------------------------------

    async def ack(self, message_id: str) -> None:
        """Buffer an acknowledgement, see `AckBuffer.add`."""
        self.ack_buffer.add(message_id)

    async def _send_acks(self, acks: Collection[str]) -> int:
        return replies.count(await self.manager.execute("XACK", self._stream, self._group, *acks), "XACK")

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> list[Outcome]:
        """Postpone entries, given as (id, deliveries so far, delay). After the delay, any consumer may claim the entry.

        If an entry has no delay, another consumer is woken to claim the entry. Returns the outcome of each entry.
        """
        with self.ack_buffer.settled_by_script(ids := [message_id for message_id, _, _ in entries]):
            outcomes = await self.leases.postpone(entries)
            self.ack_buffer.record_postponed(ids)
        if any(not delay for _, _, delay in entries):
            await self.registration.wake_peer(self.manager.execute_pipeline, self._random)
        return outcomes

    async def dead_letter_many(self, dead_letters: Sequence[EncodedDeadLetter]) -> list[Outcome | Exception]:
        """Write each dead letter and acknowledge its entry in one atomic step.

        Sends about one megabyte per round trip. Returns one result per entry: the outcome or the Redis error.
        """
        results: list[Outcome | Exception] = []
        for page in chunks_by_size(dead_letters):
            with self.ack_buffer.settled_by_script([message_id for message_id, _ in page]):
                page_results = await self._dead_letter_writer.write_many(self._consumer_name, page)
                for (message_id, _), result in zip(page, page_results, strict=True):
                    if isinstance(result, Exception):
                        await self.manager.handle_error(result)
                    elif result is Outcome.DONE:
                        self.ack_buffer.record_acked(message_id)
            results += page_results
        return results

    async def commit_effects(self, message_id: str, effects: Effects) -> Outcome:
        """Apply effects and acknowledge the entry atomically."""
        with self.ack_buffer.settled_by_script([message_id]):
            outcome = await commit_effects(self.manager.execute, self.consumer_id, message_id, effects)
            if outcome is Outcome.DONE:
                self.ack_buffer.record_acked(message_id)
            return outcome

    async def close(self) -> None:
        """Send the remaining acknowledgements, delete the consumer if it has no pending entries, and disconnect.

        `PendingClaimer.close` closes the connection of a claim, which may still be in progress."""
        try:
            await self.ack_buffer.flush_final()
            self.registration.is_closed = True
            if self.registration.has_name:
                await self.leases.delete_consumer()
        except (RedisError, OSError) as error:
            log.warning("failed to leave the consumer group", extra={"error": str(error)})
        finally:
            self.ack_buffer.cancel()
            await self._reader.close()
