"""What a handler may return: writes to Redis that happen together with the acknowledgement, or not at all.

```python
def handle(order):
    return Effects().add("invoices", {"order": order["id"]}).increment("invoices:count")
```

Pure: written down here, done by stream/effects.py. What is wrong with an effect by itself is told at the call that
says it, inside the handler, where its line is in the traceback.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, Self

StrOrBytes = str | bytes

MAX_FIELDS = 1000
"""Of one entry. Redis' Lua gives a command fewer than 8000 arguments."""

MAX_INCREMENT = 10**18
"""How far the increments of one message may move a number. Redis counts to nine times that; beyond it an increment
fails, and would do so after other effects were applied."""


class Operation(NamedTuple):
    """One command on one key."""

    command: str
    key: bytes
    arguments: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Effects:
    """Entries to add, values to set, numbers to increment, keys to delete. Each method returns the same object, so
    that they chain. One key takes one kind of effect."""

    operations: list[Operation] = field(default_factory=list)

    def add(self, stream: StrOrBytes, fields: Mapping[Any, StrOrBytes], max_length: int | None = None) -> Self:
        """Add an entry to a stream, which is created where it does not exist. With `max_length` its oldest entries go
        until about so many are left, whether somebody still needs them or not."""
        if not 1 <= len(fields) <= MAX_FIELDS:
            raise ValueError(f"an entry for {stream!r} has {len(fields)} fields; expected 1 to {MAX_FIELDS}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length of {stream!r} is {max_length}; expected at least 1")
        limit = () if max_length is None else (b"MAXLEN", b"~", b"%d" % max_length)
        pairs = [_to_bytes(each, f"a field of {stream!r}") for pair in fields.items() for each in pair]
        return self._append("XADD", stream, *limit, b"*", *pairs)

    def set(self, key: StrOrBytes, value: StrOrBytes, expires: timedelta | None = None) -> Self:
        """Set a key to a value; with `expires` it goes again after so long."""
        if expires is not None and expires < timedelta(milliseconds=1):
            raise ValueError(f"expires of {key!r} is {expires}; expected at least a millisecond")
        limit = () if expires is None else (b"PX", b"%d" % (expires // timedelta(milliseconds=1)))
        return self._append("SET", key, _to_bytes(value, f"the value of {key!r}"), *limit)

    def increment(self, key: StrOrBytes, by: int = 1) -> Self:
        """Add to a whole number, which is 0 where the key does not exist."""
        if type(by) is not int:
            raise TypeError(f"{key!r} is to be incremented by {by!r:.80}; expected a whole number")
        so_far = sum(
            abs(int(each.arguments[0]))
            for each in self.operations
            if each.command == "INCRBY" and each.key == _to_bytes(key, "a key")
        )
        if so_far + abs(by) > MAX_INCREMENT:
            raise ValueError(f"{key!r} is to be incremented by {by}; expected {MAX_INCREMENT} at most in one message")
        return self._append("INCRBY", key, b"%d" % by)

    def delete(self, key: StrOrBytes) -> Self:
        """Delete a key, whatever it holds."""
        return self._append("DEL", key)

    def _append(self, command: str, key: StrOrBytes, *arguments: bytes) -> Self:
        name = _to_bytes(key, "a key")
        other = next((each.command for each in self.operations if each.key == name and each.command != command), None)
        if other:
            raise ValueError(f"{key!r} has a {other} already; expected one kind of effect for a key, not {command} too")
        self.operations.append(Operation(command, name, arguments))
        return self


def _to_bytes(value: StrOrBytes, description: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(f"{description} is {value!r:.80}, a {type(value).__name__}; expected str or bytes")
