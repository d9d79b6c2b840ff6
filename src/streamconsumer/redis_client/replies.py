"""What any of Redis' raw replies (RESP 2) is made of."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

Execute = Callable[..., Awaitable[Any]]
"""Executes one command, given as its words, and returns the raw reply."""


def to_dict(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def parse_id(message_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = message_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def to_milliseconds(duration: timedelta) -> int:
    return round(duration / timedelta(milliseconds=1))


def stream_entries(reply: Any) -> list[Any]:
    """The entries in the reply of a read of one stream."""
    return reply[0][1] if reply else []
