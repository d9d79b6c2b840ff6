"""Where entries come from and where acknowledgements go: what the loop needs, and the simplest way to have it.

`stream.RedisIntake` gives every guarantee. `PolledIntake` stands in front of a user's own manager that has just the
three coroutines: it polls, acknowledges one by one, and can neither renew nor take over.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.effects import Effects
from streamconsumer.processor.message import Encoding, Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.stream import Claims, RedisIntake, StreamManager
from streamconsumer.processor.telemetry import Tracing


@runtime_checkable
class Manager(Protocol):
    """The three coroutines that a user's own manager must have."""

    async def create_group(self, stream_name: str, group_name: str) -> Any: ...

    async def read_events(
        self, stream_name: str, group_name: str, consumer_name: str, count: int
    ) -> list[tuple[str, dict[str, Any]]]: ...

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> Any: ...


_NEEDS_MORE = "{} need a StreamManager; a user's own manager has only the three coroutines"


class PolledIntake:
    """A user's own manager as an intake."""

    def __init__(self, manager: Manager, stream: str, group: str, consumer: str) -> None:
        self._manager, self._stream, self._group, self._consumer = manager, stream, group, consumer
        self.blocks = False
        self.encoding: Encoding = "utf-8"
        self.acknowledge_soon: Callable[[str], None] | None = None
        self.caring = None

    async def open(self) -> None:
        await self._manager.create_group(self._stream, self._group)

    async def read(self, count: int) -> list[Entry]:
        events = await self._manager.read_events(self._stream, self._group, self._consumer, count)
        return [ManagedEntry(message_id, data) for message_id, data in events or []]

    async def wake(self) -> None:
        """A poll ends by itself."""

    async def acknowledge(self, message_id: str) -> None:
        await self._manager.ack_event(self._stream, self._group, message_id)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def begin(self, message_id: str, deliveries: int) -> int:  # noqa: ARG002 - not among the three coroutines
        return 1

    async def recount(self, entries: Sequence[tuple[str, int]]) -> None:
        """Nobody counts: that is not among the three coroutines either."""

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """They stay pending: handing back is not among the three coroutines."""

    async def bury_all(self, letters: Sequence[tuple[str, Sequence[bytes]]]) -> list[bool | Exception]:  # noqa: ARG002 - not among the three coroutines
        raise InvalidSettings(_NEEDS_MORE.format("dead letters"))

    async def commit(self, message_id: str, effects: Effects) -> bool:  # noqa: ARG002 - not among the three coroutines
        raise InvalidSettings(_NEEDS_MORE.format("effects"))

    async def close(self) -> None:
        """The manager is the user's to close."""


class ManagedEntry(Entry):
    """An entry that a user's own manager has decoded in its own way."""

    def __init__(self, message_id: str, data: Mapping[Any, Any]) -> None:
        super().__init__(message_id, ())
        self._data = dict(data)

    def data(self, encoding: Encoding) -> dict[Any, Any]:  # noqa: ARG002 - the manager decided
        return self._data


Intake = RedisIntake | PolledIntake


def new_intake(  # noqa: PLR0917 - what a processor has
    manager: Manager,
    who: tuple[str, str, str],
    poll_interval_seconds: float,
    held: Callable[[], Collection[str]],
    metrics: Metrics,
    telemetry: Tracing | None,
) -> Intake:
    """Return the intake for the manager. `who`: stream, group and consumer; `held` returns the ids in flight."""
    if not isinstance(manager, StreamManager):
        return PolledIntake(manager, *who)
    block = timedelta(seconds=poll_interval_seconds)
    intake = RedisIntake(manager, *who, block=block, metrics=metrics, held=held)
    intake.caring = Claims(intake, metrics)
    if telemetry is not None:
        intake.acks.sent = telemetry.acknowledged
        telemetry.dead_letter_stream = intake.dead_letter_stream
    return intake
