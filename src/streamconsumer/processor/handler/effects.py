"""Effects: Redis writes that a handler returns. They are applied together with the acknowledgement, or not at all.

```python
def handle(order):
    return Effects().add("invoices", {"order": order["id"]}).increment("invoices:count")
```

Pure: this module only collects the effects; `consumer/effects_commit.py` applies them. An invalid effect raises in the
call that adds it, inside the handler, so that the traceback shows the handler's line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, Self

StrOrBytes = str | bytes

MAX_FIELDS = 1000
"""Maximum number of fields of an entry. Redis' Lua allows fewer than 8000 arguments per command."""

MAX_INCREMENT = 10**18
"""Limit of the sum of all increments that one message makes to a key. Redis counts to about nine times that. An
increment beyond Redis' range would fail after other effects were applied."""


class Operation(NamedTuple):
    """Command on one key."""

    command: str
    key: bytes
    arguments: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Effects:
    """Redis writes of one message: entries to add, values to set, numbers to increment, keys to delete.

    Each method returns the same object, so that calls chain. A key takes one kind of effect.
    """

    operations: list[Operation] = field(default_factory=list)

    def add(self, stream: StrOrBytes, fields: Mapping[Any, StrOrBytes], max_length: int | None = None) -> Self:
        """Add an entry to a stream. The stream is created if it does not exist.

        With `max_length`, XADD trims the stream to about that many entries, even entries that a group has not read.
        """
        if not 1 <= len(fields) <= MAX_FIELDS:
            raise ValueError(f"an entry for {stream!r} has {len(fields)} fields; expected 1 to {MAX_FIELDS}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length of {stream!r} is {max_length}; expected at least 1")
        limit = () if max_length is None else (b"MAXLEN", b"~", b"%d" % max_length)
        pairs = [_to_bytes(each, f"a field of {stream!r}") for pair in fields.items() for each in pair]
        return self._append("XADD", stream, *limit, b"*", *pairs)

    def set(self, key: StrOrBytes, value: StrOrBytes, expires: timedelta | None = None) -> Self:
        """Set a key to a value. With `expires`, Redis deletes the key after that duration."""
        if expires is not None and expires < timedelta(milliseconds=1):
            raise ValueError(f"expires of {key!r} is {expires}; expected at least a millisecond")
        limit = () if expires is None else (b"PX", b"%d" % (expires // timedelta(milliseconds=1)))
        return self._append("SET", key, _to_bytes(value, f"the value of {key!r}"), *limit)

    def increment(self, key: StrOrBytes, by: int = 1) -> Self:
        """Add `by` to an integer. A missing key counts as 0."""
        if type(by) is not int:
            raise TypeError(f"increment of {key!r} is {by!r:.80}; expected a whole number")
        previous = sum(
            abs(int(each.arguments[0]))
            for each in self.operations
            if each.command == "INCRBY" and each.key == _to_bytes(key, "a key")
        )
        if previous + abs(by) > MAX_INCREMENT:
            raise ValueError(f"increment of {key!r} is {by}; expected at most {MAX_INCREMENT} in one message")
        return self._append("INCRBY", key, b"%d" % by)

    def delete(self, key: StrOrBytes) -> Self:
        """Delete a key of any type."""
        return self._append("DEL", key)

    def _append(self, command: str, key: StrOrBytes, *arguments: bytes) -> Self:
        name = _to_bytes(key, "a key")
        other = next((each.command for each in self.operations if each.key == name and each.command != command), None)
        if other:
            raise ValueError(f"{key!r} already has a {other}; expected one kind of effect per key, not also {command}")
        self.operations.append(Operation(command, name, arguments))
        return self


def _to_bytes(value: StrOrBytes, description: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(f"{description} is {value!r:.80}, a {type(value).__name__}; expected str or bytes")
