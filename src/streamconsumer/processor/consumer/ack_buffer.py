"""Buffer of acknowledgements: collects entry ids until the next read or a separate XACK sends them.

The buffer keeps an id until Redis has confirmed the acknowledgement. Ids of unconfirmed acknowledgements are sent
again. A second XACK for the same id has no effect.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from redis.exceptions import RedisError

from streamconsumer.processor.metrics import Metrics

LINGER_SECONDS = 0.005
"""Maximum time for which an acknowledgement waits for the next read. After this time, a separate XACK is sent."""

RETRY_DELAY_SECONDS = 0.5
"""Delay before acknowledgements are sent again after a failed flush."""


AckBatch = dict[str, None]
"""Unique entry ids in insertion order."""


class AckBuffer:
    """Acknowledgements that one consumer has made and that Redis has not confirmed."""

    def __init__(
        self,
        send: Callable[[Collection[str]], Awaitable[int]],
        metrics: Metrics,
        in_flight_ids: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Create an empty buffer. `send` sends ids in a separate XACK and returns the number of ids that Redis
        confirmed."""
        self._send, self._metrics, self._in_flight_ids = send, metrics, in_flight_ids
        self._buffered: AckBatch = {}
        self._unconfirmed: list[AckBatch] = []
        """Batches that Redis has not confirmed yet. A batch is never copied, because copying its ids takes as long as
        sending them."""
        self._listeners: list[set[str]] = []
        self.ids_in_scripts: set[str] = set()
        """Ids of entries that a Lua script acknowledges or postpones. The heartbeat does not renew the leases of
        entries in this set.

        After a script has settled an entry, the id of the entry stays in `ids_in_scripts` until the entry leaves the
        in-flight table."""
        self._settled_ids: set[str] = set()
        """Ids of entries that a script has settled. An id is removed from this set when the context of
        `settled_by_script` for its entry ends."""
        self._renewed_ids: set[str] = set()
        """Subset of `ids_in_scripts`: ids of entries that a lease renewal may have made pending again after a script
        had settled these entries."""
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: set[asyncio.Task[None]] = set()
        self.on_sent: Callable[[Collection[str], int], None] | None = None
        """Function called with the ids of each confirmed batch and the send time in ns. None if telemetry is off."""
        self._sent_ns = 0

    def add(self, message_id: str) -> None:
        """Buffer an acknowledgement for the next read, or for a separate XACK after `LINGER_SECONDS`."""
        self._buffered[message_id] = None
        if self._listeners:
            self._notify_acked(message_id)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._flush_soon)

    def add_many(self, message_ids: Sequence[str]) -> None:
        """Buffer several acknowledgements."""
        for message_id in message_ids:
            self.add(message_id)

    def is_buffered(self, message_id: str) -> bool:
        """Return True if the id has not been sent yet, or must be sent again."""
        return message_id in self._buffered

    def take_batch(self) -> AckBatch:
        """Remove and return all buffered ids. The caller sends the ids, and then calls `confirm` or `requeue`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        acks = self._buffered
        if acks:
            self._unconfirmed.append(acks)  # before `_buffered` is emptied: the heartbeat thread reads both
        self._buffered = {}
        if self.on_sent is not None:
            self._sent_ns = time.time_ns()
        return acks

    def clear(self) -> None:
        """Drop all acknowledgements that Redis has not confirmed."""
        self._buffered, self._unconfirmed = {}, []

    def confirm(self, acks: AckBatch, confirmed: int) -> None:
        """Process Redis's reply to a batch of acknowledgements. `confirmed` is the number of ids that XACK
        acknowledged.

        The number is smaller than the batch if another consumer acknowledged an entry, or if the group was gone.
        """
        self._metrics.acknowledged += confirmed
        self._metrics.acknowledgements_lost += len(acks) - confirmed
        self._remove_batch(acks)
        if self.on_sent is not None:
            self.on_sent(acks, self._sent_ns)

    def requeue(self, acks: AckBatch) -> None:
        """Buffer a batch again if Redis has not confirmed it."""
        if any(batch is acks for batch in self._unconfirmed):
            self._buffered.update(acks)
            self._remove_batch(acks)

    def _remove_batch(self, acks: AckBatch) -> None:
        self._unconfirmed = [batch for batch in self._unconfirmed if batch is not acks]

    @contextmanager
    def acked_during(self) -> Iterator[set[str]]:
        """Yield a set of ids: the entries whose acknowledgement is unconfirmed, and the entries that are acknowledged
        while this context is open.

        A reply that is received while the context is open may still list acknowledged entries as pending.
        """
        acked_ids = set().union(self._buffered, *self._unconfirmed)
        self._listeners.append(acked_ids)
        try:
            yield acked_ids
        finally:
            self._listeners = [listener for listener in self._listeners if listener is not acked_ids]

    @contextmanager
    def settled_by_script(self, message_ids: Sequence[str]) -> Iterator[None]:
        """Exclude entries from lease renewal while a script acknowledges or postpones them.

        A renewal would make an acknowledged entry pending again, or report a postponed entry as lost. Within the
        context, the caller calls `record_acked` or `record_postponed` for the entries that the script settled. Settled
        entries stay excluded until they leave the in-flight table.
        """
        self.ids_in_scripts.update(message_ids)
        try:
            yield
        finally:
            still_in_flight = self._settled_ids.intersection(self._in_flight_ids()) if self._settled_ids else ()
            self.ids_in_scripts.difference_update(id_ for id_ in message_ids if id_ not in still_in_flight)
            self._settled_ids.difference_update(message_ids)
            self._renewed_ids.intersection_update(self.ids_in_scripts)

    def record_acked(self, message_id: str) -> None:
        """Record that a script acknowledged an entry.

        The entry is acknowledged again if a lease renewal may have made the entry pending again after the script.
        """
        self._settled_ids.add(message_id)
        self._notify_acked(message_id)
        if message_id in self._renewed_ids:
            self.add(message_id)

    def record_postponed(self, message_ids: Collection[str]) -> None:
        """Record that a script postponed entries."""
        self._settled_ids.update(message_ids)

    def _notify_acked(self, message_id: str) -> None:
        for acked_ids in self._listeners:
            acked_ids.add(message_id)

    def record_renewed(self, message_ids: Collection[str]) -> set[str]:
        """Record that leases were renewed. Returns the renewed ids that are also in `ids_in_scripts`.

        A renewal that Redis runs after the script may make an acknowledged entry pending again. The entry must then
        be acknowledged again. If the reply to the script arrives before the heartbeat thread reads the set from
        `acked_during`, the heartbeat thread finds the id in this set and acknowledges the entry again. If the reply
        arrives later, `record_acked` finds the recorded renewal and acknowledges the entry again. The heartbeat
        thread must therefore call `record_renewed` before it reads the set.
        """
        unanswered = self.ids_in_scripts.intersection(message_ids)
        self._renewed_ids.update(unanswered)
        return unanswered

    async def flush(self) -> None:
        """Send the buffered ids in a separate XACK. Raises Redis errors. After an error, the ids stay in the buffer."""
        acks = self.take_batch()
        if not acks:
            return
        try:
            self.confirm(acks, await self._send(acks))
        finally:
            self.requeue(acks)

    async def flush_final(self) -> None:
        """Wait for running flushes and flush once more, before the consumer closes."""
        await asyncio.gather(*self._flushing)
        await self.flush()

    def cancel(self) -> None:
        """Cancel running flushes."""
        for task in self._flushing:
            task.cancel()

    def _flush_soon(self) -> None:
        task = asyncio.create_task(self._flush_quietly())
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except (RedisError, OSError):  # retried here, because no read may follow while handlers occupy all slots
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(RETRY_DELAY_SECONDS, self._flush_soon)
