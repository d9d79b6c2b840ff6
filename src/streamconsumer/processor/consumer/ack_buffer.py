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

AGAIN_SECONDS = 0.5
"""How long after a failure they are sent again."""


Batch = dict[str, None]
"""Ids, each once, in their order."""


class Acknowledgements:
    """`send` takes ids to Redis by themselves and returns how many it confirmed."""

    def __init__(
        self,
        send: Callable[[Collection[str]], Awaitable[int]],
        metrics: Metrics,
    ) -> None:
        self._send, self._metrics = send, metrics
        self._waiting: Batch = {}
        self._sending: list[Batch] = []
        """Batches whose replies have not come; each as a whole, for to move ids one by one costs as much as sending."""
        self._listeners: list[set[str]] = []
        self.elsewhere: set[str] = set()
        """What another command is settling, whose reply is on its way. Another thread may ask."""
        self._renewed: set[str] = set()
        """Entries of `elsewhere` that a lease renewal may have made pending again after that command."""
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: set[asyncio.Task[None]] = set()
        self.sent: Callable[[Collection[str], int], None] | None = None
        """Told of each command that was answered, and when it was sent, in nanoseconds."""
        self._sent_ns = 0

    def add(self, message_id: str) -> None:
        """The next read carries it, or after a few milliseconds a command of its own."""
        self._waiting[message_id] = None
        if self._listeners:
            self._settled(message_id)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._flush_soon)

    def waits(self, message_id: str) -> bool:
        """Whether it has not been sent yet, or must be sent again."""
        return message_id in self._waiting

    def take(self) -> Batch:
        """All that wait, for somebody who sends them, and then says `settle` or at least `give_back`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        acks = self._waiting
        if acks:
            self._sending.append(acks)  # before they leave the other place: another thread may ask
        self._waiting = {}
        if self.sent is not None:
            self._sent_ns = time.time_ns()
        return acks

    def settle(self, acks: Batch, confirmed: int) -> None:
        """They have arrived. Fewer confirmed than sent: somebody else acknowledged them, or the group was gone."""
        self._metrics.acknowledged += confirmed
        self._metrics.acknowledgements_lost += len(acks) - confirmed
        self._forget(acks)
        if self.sent is not None:
            self.sent(acks, self._sent_ns)

    def give_back(self, acks: Batch) -> None:
        """If they are not settled, they wait again."""
        if any(each is acks for each in self._sending):
            self._waiting.update(acks)
            self._forget(acks)

    def _forget(self, acks: Batch) -> None:
        self._sending = [each for each in self._sending if each is not acks]

    @contextmanager
    def done(self) -> Iterator[set[str]]:
        """What may still stand in the reply to a question asked in this context although it is done with here."""
        done = set().union(self._waiting, *self._sending)
        self._listeners.append(done)
        try:
            yield done
        finally:
            self._listeners = [each for each in self._listeners if each is not done]

    @contextmanager
    def settling_elsewhere(self, message_ids: Sequence[str]) -> Iterator[None]:
        """Another command settles them in this context: no sign of life for them meanwhile, which would put back what
        is acknowledged already, or take what was postponed for lost."""
        self.elsewhere.update(message_ids)
        try:
            yield
        finally:
            self.elsewhere.difference_update(message_ids)
            self._renewed.intersection_update(self.elsewhere)

    def settled_elsewhere(self, message_id: str) -> None:
        """The other command settled the entry. Acknowledges it again if a renewal may have followed in Redis."""
        self._settled(message_id)
        if message_id in self._renewed:
            self.add(message_id)

    def _settled(self, message_id: str) -> None:
        for done in self._listeners:
            done.add(message_id)

    def renewed(self, message_ids: Collection[str]) -> set[str]:
        """A renewal of the entries was answered. Returns those whose settling command is still unanswered: Redis may
        have run it before the renewal, which then made them pending again. Called from the heartbeat's thread, before
        it reads `done`: either it sees there that the command was answered, or `settled_elsewhere` sees the renewal."""
        unanswered = self.elsewhere.intersection(message_ids)
        self._renewed.update(unanswered)
        return unanswered

    async def flush(self) -> None:
        """Send what waits, by itself. Raises what Redis raised, and keeps what has not arrived."""
        acks = self.take()
        if not acks:
            return
        try:
            self.settle(acks, await self._send(acks))
        finally:
            self.give_back(acks)

    async def last(self) -> None:
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
                self._timer = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._flush_soon)
