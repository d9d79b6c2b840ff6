"""Parsing of raw Redis replies (RESP 2)."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

Execute = Callable[..., Awaitable[Any]]
"""Coroutine function that executes one command and returns the raw reply. Each word of the command is one argument."""


def to_dict(flat: Sequence[Any]) -> dict[bytes, Any]:
    """Convert a flat list of alternating keys and values to a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def parse_id(message_id: str) -> tuple[int, int]:
    """Return an entry id as (milliseconds, sequence), which sorts in stream order."""
    milliseconds, _, sequence = message_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def to_milliseconds(duration: timedelta) -> int:
    """Return a duration in milliseconds, rounded."""
    return round(duration / timedelta(milliseconds=1))


def stream_entries(reply: Any) -> list[Any]:
    """Return the raw entries in the XREADGROUP reply for one stream."""
    return reply[0][1] if reply else []
