"""Interface that a custom stream manager must implement. A custom stream manager is an object that a user of the
library passes instead of a `StreamManager`."""

from typing import Any, Protocol, runtime_checkable

from streamconsumer.errors import InvalidSettings


@runtime_checkable
class StreamManagerProtocol(Protocol):
    """The three coroutines that a custom stream manager must have. Arguments are passed by position, so that the
    manager may give its parameters other names."""

    async def create_group(self, stream_name: str, group_name: str, /) -> Any:
        """Create the group if it does not exist."""
        ...

    async def read_events(
        self, stream_name: str, group_name: str, consumer_name: str, count: int, /
    ) -> list[tuple[str, dict[str, Any]]]:
        """Return up to `count` new entries as (message id, data)."""
        ...

    async def ack_event(self, stream_name: str, group_name: str, message_id: str, /) -> Any:
        """Acknowledge an entry."""
        ...


def check_manager(manager: Any) -> None:
    """Raise InvalidSettings if the object is no stream manager."""
    methods = ("create_group", "read_events", "ack_event")
    missing = [name for name in methods if not callable(getattr(manager, name, None))]
    if missing or isinstance(manager, type):
        found = f"the class {manager.__name__}" if isinstance(manager, type) else type(manager).__name__
        lacks = f" without {', '.join(missing)}" if missing else ""
        raise InvalidSettings(
            f"stream_manager: found {found}{lacks}, expected a StreamManager, or an object with the coroutines "
            f"{', '.join(methods)}"
        )
