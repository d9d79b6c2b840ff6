"""Acknowledgements on their way: collected here until the next read carries them, or a command of their own.

None is forgotten before Redis has answered: what is not known to have arrived is sent again, which does no harm.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from redis.exceptions import RedisError

from streamconsumer.processor.metrics import Metrics

LINGER_SECONDS = 0.005
"""How long an acknowledgement waits for the next read to carry it before it travels alone."""

RETRY_DELAY_SECONDS = 0.5
"""How long after a failure they are sent again."""


AckBatch = dict[str, None]
"""Ids, each once, in their order."""


class AckBuffer:
    """`send` takes ids to Redis by themselves and returns how many it confirmed."""

    def __init__(
        self,
        send: Callable[[Collection[str]], Awaitable[int]],
        metrics: Metrics,
    ) -> None:
        self._send, self._metrics = send, metrics
        self._buffered: AckBatch = {}
        self._unconfirmed: list[AckBatch] = []
        """Batches whose replies have not come; each as a whole, for to move ids one by one costs as much as sending."""
        self._listeners: list[set[str]] = []
        self.ids_in_scripts: set[str] = set()
        """What another command is settling, whose reply is on its way. Another thread may ask."""
        self._renewed_ids: set[str] = set()
        """Entries of `elsewhere` that a lease renewal may have made pending again after that command."""
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: set[asyncio.Task[None]] = set()
        self.on_sent: Callable[[Collection[str], int], None] | None = None
        """Told of each command that was answered, and when it was sent, in nanoseconds."""
        self._sent_ns = 0

    def add(self, message_id: str) -> None:
        """The next read carries it, or after a few milliseconds a command of its own."""
        self._buffered[message_id] = None
        if self._listeners:
            self._notify_acked(message_id)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._flush_soon)

    def is_buffered(self, message_id: str) -> bool:
        """Whether it has not been sent yet, or must be sent again."""
        return message_id in self._buffered

    def take_batch(self) -> AckBatch:
        """All that wait, for somebody who sends them, and then says `settle` or at least `give_back`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        acks = self._buffered
        if acks:
            self._unconfirmed.append(acks)  # before they leave the other place: another thread may ask
        self._buffered = {}
        if self.on_sent is not None:
            self._sent_ns = time.time_ns()
        return acks

    def confirm(self, acks: AckBatch, confirmed: int) -> None:
        """They have arrived. Fewer confirmed than sent: somebody else acknowledged them, or the group was gone."""
        self._metrics.acknowledged += confirmed
        self._metrics.acknowledgements_lost += len(acks) - confirmed
        self._remove_batch(acks)
        if self.on_sent is not None:
            self.on_sent(acks, self._sent_ns)

    def requeue(self, acks: AckBatch) -> None:
        """If they are not settled, they wait again."""
        if any(each is acks for each in self._unconfirmed):
            self._buffered.update(acks)
            self._remove_batch(acks)

    def _remove_batch(self, acks: AckBatch) -> None:
        self._unconfirmed = [each for each in self._unconfirmed if each is not acks]

    @contextmanager
    def acked_during(self) -> Iterator[set[str]]:
        """What may still stand in the reply to a question asked in this context although it is done with here."""
        done = set().union(self._buffered, *self._unconfirmed)
        self._listeners.append(done)
        try:
            yield done
        finally:
            self._listeners = [each for each in self._listeners if each is not done]

    @contextmanager
    def acked_by_script(self, message_ids: Sequence[str]) -> Iterator[None]:
        """Another command settles them in this context: no sign of life for them meanwhile, which would put back what
        is acknowledged already, or take what was postponed for lost."""
        self.ids_in_scripts.update(message_ids)
        try:
            yield
        finally:
            self.ids_in_scripts.difference_update(message_ids)
            self._renewed_ids.intersection_update(self.ids_in_scripts)

    def record_acked(self, message_id: str) -> None:
        """The other command settled the entry. Acknowledges it again if a renewal may have followed in Redis."""
        self._notify_acked(message_id)
        if message_id in self._renewed_ids:
            self.add(message_id)

    def _notify_acked(self, message_id: str) -> None:
        for done in self._listeners:
            done.add(message_id)

    def record_renewed(self, message_ids: Collection[str]) -> set[str]:
        """A renewal of the entries was answered. Returns those whose settling command is still unanswered: Redis may
        have run it before the renewal, which then made them pending again. Called from the heartbeat's thread, before
        it reads `done`: either it sees there that the command was answered, or `settled_elsewhere` sees the renewal."""
        unanswered = self.ids_in_scripts.intersection(message_ids)
        self._renewed_ids.update(unanswered)
        return unanswered

    async def flush(self) -> None:
        """Send what waits, by itself. Raises what Redis raised, and keeps what has not arrived."""
        acks = self.take_batch()
        if not acks:
            return
        try:
            self.confirm(acks, await self._send(acks))
        finally:
            self.requeue(acks)

    async def flush_final(self) -> None:
        """Flush for the last time, after those under way."""
        await asyncio.gather(*self._flushing)
        await self.flush()

    def cancel(self) -> None:
        """Give up what is under way."""
        for task in self._flushing:
            task.cancel()

    def _flush_soon(self) -> None:
        self._timer = None
        task = asyncio.create_task(self._flush_quietly())
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except (RedisError, OSError):  # they are kept; a read may carry them, but while handlers run there is none
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(RETRY_DELAY_SECONDS, self._flush_soon)
