"""Effects: Redis writes that a handler returns. The writes and the acknowledgement of the message are applied together
or not at all.

```python
def handle(order):
    return Effects().add("invoices", {"order": order["id"]}).increment("invoices:count")
```

This module only collects the effects, and `consumer/effects_commit.py` applies them. If an effect is invalid, the
method that adds the effect raises an error, so that the traceback shows the line in the handler.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, Self

StrOrBytes = str | bytes

MAX_FIELDS = 1000
"""Maximum number of fields in an added entry. A Redis command in a Lua script must have fewer than 8000 arguments."""

MAX_EFFECTS = 240
"""Maximum number of effects of one message. The script that applies effects makes up to four calls of Redis commands
per effect."""

MAX_INCREMENT = 10**18
"""Maximum sum of the absolute values by which one message increments one key. The largest integer in Redis is about
nine times as large. An increment beyond the range of Redis would fail after other effects have been applied."""


class Operation(NamedTuple):
    """Redis command that writes one key."""

    command: str
    key: bytes
    arguments: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Effects:
    """Redis writes for one message: entries to add, values to set, numbers to increment, and keys to delete.

    Each method returns the same object, so that you can chain calls. Each key can have only one kind of effect.
    """

    operations: list[Operation] = field(default_factory=list)

    def add(self, stream: StrOrBytes, fields: Mapping[Any, StrOrBytes], max_length: int | None = None) -> Self:
        """Add an entry to a stream. The stream is created if it does not exist.

        If `max_length` is set, XADD trims the stream to about this length, even if a group has not read the trimmed
        entries.
        """
        if not 1 <= len(fields) <= MAX_FIELDS:
            raise ValueError(f"an entry for {stream!r} has {len(fields)} fields; expected 1 to {MAX_FIELDS}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length of {stream!r} is {max_length}; expected at least 1")
        limit = () if max_length is None else (b"MAXLEN", b"~", b"%d" % max_length)
        pairs = [_to_bytes(each, f"a field of {stream!r}") for pair in fields.items() for each in pair]
        return self._append("XADD", stream, *limit, b"*", *pairs)

    def set(self, key: StrOrBytes, value: StrOrBytes, expires: timedelta | None = None) -> Self:
        """Set a key to a value. If `expires` is set, Redis deletes the key after this duration."""
        if expires is not None and expires < timedelta(milliseconds=1):
            raise ValueError(f"the parameter `expires` for key {key!r} is {expires}; expected at least 1 ms")
        limit = () if expires is None else (b"PX", b"%d" % (expires // timedelta(milliseconds=1)))
        return self._append("SET", key, _to_bytes(value, f"the value of {key!r}"), *limit)

    def increment(self, key: StrOrBytes, by: int = 1) -> Self:
        """Add `by` to the integer in a key. A key that does not exist counts as 0."""
        if type(by) is not int:
            raise TypeError(f"increment of {key!r} is {by!r:.80}; expected a whole number")
        previous = sum(
            abs(int(each.arguments[0]))
            for each in self.operations
            if each.command == "INCRBY" and each.key == _to_bytes(key, "a key")
        )
        if previous + abs(by) > MAX_INCREMENT:
            raise ValueError(f"increment of {key!r} is {by}; expected at most {MAX_INCREMENT} in total for one message")
        return self._append("INCRBY", key, b"%d" % by)

    def delete(self, key: StrOrBytes) -> Self:
        """Delete a key of any type."""
        return self._append("DEL", key)

    def _append(self, command: str, key: StrOrBytes, *arguments: bytes) -> Self:
        if len(self.operations) == MAX_EFFECTS:
            raise ValueError(f"found more than {MAX_EFFECTS} effects, expected at most {MAX_EFFECTS} for one message")
        name = _to_bytes(key, "a key")
        other = next((each.command for each in self.operations if each.key == name and each.command != command), None)
        if other:
            raise ValueError(
                f"cannot add {command} for {key!r}, which already has {other}; a key can have only one kind of effect"
            )
        self.operations.append(Operation(command, name, arguments))
        return self


def _to_bytes(value: StrOrBytes, description: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(f"{description} is {value!r:.80} of type {type(value).__name__}; expected str or bytes")
