"""Where entries come from and where acknowledgements go: what the loop needs, and the simplest way to have it.

`stream.RedisIntake` gives every guarantee. `PolledIntake` stands in front of a user's own manager that has just the
three coroutines: it polls, acknowledges one by one, and can neither renew nor take over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.effects import Effects
from streamconsumer.processor.message import Encoding, Entry


@runtime_checkable
class Manager(Protocol):
    """The three coroutines that a user's own manager must have."""

    async def create_group(self, stream_name: str, group_name: str) -> Any: ...

    async def read_events(
        self, stream_name: str, group_name: str, consumer_name: str, count: int
    ) -> list[tuple[str, dict[str, Any]]]: ...

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> Any: ...


Claim = Callable[[int], Awaitable[list[Entry]]]
"""Takes over at most so many entries; fewer: there are no more."""


class Caring(Protocol):
    """Looking after pending entries: what only a whole StreamManager can do."""

    min_idle: timedelta
    """How long an entry may show no sign of life, whosever it is."""

    def show_life(
        self, *, held: Callable[[], list[str]], lost: Callable[[list[str]], None], alive: Callable[[], bool]
    ) -> Callable[[], Awaitable[None]]:
        """Begin to show signs of life for what is held; `lost` is told what belongs to another consumer by now.
        Returns how to end it."""

    @property
    def woken(self) -> asyncio.Event:
        """Set when somebody may have handed entries back; whoever looks clears it."""

    async def note(self) -> None:
        """Write down, while anything is in flight, what would be lost with the group."""

    async def seconds_to_turn(self) -> float:
        """Until this consumer's turn to look after the others."""

    async def look(self) -> Sequence[Claim]:
        """Entries of dead consumers, and postponed ones that are due."""

    async def sweep(self) -> Sequence[Claim]:
        """Entries of anybody that show no sign of life."""


class Intake(Protocol):
    """What the loop needs. Every method but `wake` may raise whatever the server's client raises."""

    blocks: bool
    """Whether `read` itself waits for entries; otherwise the loop waits `poll_interval` after an empty one."""

    encoding: Encoding
    """How entries are decoded."""

    acknowledge_soon: Callable[[str], None] | None
    """Takes an acknowledgement like `acknowledge`, at once; None where that must be waited for."""

    caring: Caring | None
    """None: signs of life, take-over, dead letters and waits that survive are not to be had: what fails stays
    pending."""

    async def open(self) -> str:
        """Connect, and create the group where it does not exist. Returns why the server cannot be used, or nothing."""

    async def check(self) -> None:
        """After the server has refused a command: raises InvalidSettings if it refuses what is required."""

    async def read(self, count: int) -> list[Entry]:
        """At most `count` entries; none after a while without any. Never cancelled: `wake` ends it."""

    async def wake(self) -> None:
        """End a read that waits, now. Returns when it has ended."""

    async def acknowledge(self, message_id: str) -> None:
        """Take the acknowledgement. It has reached the server when the next read or `flush` returns."""

    async def flush(self) -> None:
        """Send the acknowledgements that have not been sent."""

    async def begin(self, message_id: str, deliveries: int) -> int:
        """Count that an entry begins again. 1: it may; 0: another consumer has it; -1: it was trimmed."""

    async def recount(self, entries: Sequence[tuple[str, int]]) -> None:
        """Correct how often entries (id, deliveries) were begun that stay here."""

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """Let entries (id, deliveries so far, delay) be due for any consumer after their delays."""

    async def bury(self, message_id: str, fields: Sequence[bytes]) -> bool:
        """Write the dead letter and acknowledge, in one step. False: another consumer has the entry."""

    async def bury_all(self, letters: Sequence[tuple[str, Sequence[bytes]]]) -> list[bool | Exception]:
        """The same for many, in few round trips. What the server refused for one is its answer."""

    async def commit(self, message_id: str, effects: Effects) -> bool:
        """Apply effects and acknowledge, in one step. False: another consumer has the entry."""

    async def close(self) -> None:
        """Leave the group, if nothing is pending here, and disconnect."""


_NEEDS_MORE = "{} need a StreamManager; a user's own manager has only the three coroutines"


class PolledIntake:
    """A user's own manager as an intake."""

    def __init__(self, manager: Manager, stream: str, group: str, consumer: str) -> None:
        self._manager, self._stream, self._group, self._consumer = manager, stream, group, consumer
        self.blocks = False
        self.encoding: Encoding = "utf-8"
        self.acknowledge_soon: Callable[[str], None] | None = None
        self.caring: Caring | None = None

    async def open(self) -> str:
        await self._manager.create_group(self._stream, self._group)
        return ""

    async def check(self) -> None:
        """The manager is the user's: nothing is required of its server."""

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

    async def bury(self, message_id: str, fields: Sequence[bytes]) -> bool:  # noqa: ARG002 - not among the three coroutines
        raise InvalidSettings(_NEEDS_MORE.format("dead letters"))

    async def bury_all(self, letters: Sequence[tuple[str, Sequence[bytes]]]) -> list[bool | Exception]:  # noqa: ARG002 - the same
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
