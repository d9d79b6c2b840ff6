"""Where entries come from and where acknowledgements go: what the loop needs, and the simplest way to have it.

`stream.RedisIntake` gives every guarantee. `PolledIntake` stands in front of a user's own manager that has just the
three coroutines: it polls, acknowledges one by one, and can neither renew nor take over.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from streamconsumer.processor.message import Encoding, Entry


@runtime_checkable
class Manager(Protocol):
    """The three coroutines that a user's own manager must have."""

    async def create_group(self, stream_name: str, group_name: str) -> Any: ...

    async def read_events(
        self, stream_name: str, group_name: str, consumer_name: str, count: int
    ) -> list[tuple[str, dict[str, Any]]]: ...

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> Any: ...


class Intake(Protocol):
    """What the loop needs. Every method but `wake` may raise whatever the server's client raises."""

    blocks: bool
    """Whether `read` itself waits for entries; otherwise the loop waits `poll_interval` after an empty one."""

    encoding: Encoding
    """How entries are decoded."""

    min_idle: timedelta | None
    """How long an entry may show no sign of life; None: signs of life and take-over are not to be had."""

    async def open(self) -> None:
        """Connect, and create the group where it does not exist."""

    async def read(self, count: int) -> list[Entry]:
        """At most `count` entries; none after a while without any. Never cancelled: `wake` ends it."""

    async def wake(self) -> None:
        """End a read that waits, now. Returns when it has ended."""

    async def acknowledge(self, message_id: str) -> None:
        """Take the acknowledgement. It has reached the server when the next read or `flush` returns."""

    async def flush(self) -> None:
        """Send the acknowledgements that have not been sent."""

    async def claim(self, count: int) -> list[Entry]:
        """Entries that were delivered to somebody and show no sign of life."""

    async def renew(self, message_ids: Collection[str]) -> list[str]:
        """Show a sign of life for these. Returns those that belong to another consumer by now."""

    async def release(self, message_ids: Collection[str]) -> None:
        """Hand entries that were read and not begun back to the group."""

    async def close(self) -> None:
        """Leave the group, if nothing is pending here, and disconnect."""


class PolledIntake:
    """A user's own manager as an intake."""

    def __init__(self, manager: Manager, stream: str, group: str, consumer: str) -> None:
        self._manager, self._stream, self._group, self._consumer = manager, stream, group, consumer
        self.blocks = False
        self.encoding: Encoding = "utf-8"
        self.min_idle: timedelta | None = None

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

    async def claim(self, count: int) -> list[Entry]:  # noqa: ARG002 - not among the three coroutines
        return []

    async def renew(self, message_ids: Collection[str]) -> list[str]:  # noqa: ARG002 - not among the three coroutines
        return []

    async def release(self, message_ids: Collection[str]) -> None:
        """They stay pending: handing back is not among the three coroutines."""

    async def close(self) -> None:
        """The manager is the user's to close."""


class ManagedEntry(Entry):
    """An entry that a user's own manager has decoded in its own way."""

    __slots__ = ("_data",)

    def __init__(self, message_id: str, data: Mapping[Any, Any]) -> None:
        super().__init__(message_id, ())
        self._data = dict(data)

    def data(self, encoding: Encoding) -> dict[Any, Any]:  # noqa: ARG002 - the manager decided
        return self._data
