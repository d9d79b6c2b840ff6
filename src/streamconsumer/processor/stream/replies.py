"""Redis' raw replies (RESP 2), read."""

from collections.abc import Sequence
from typing import Any

from streamconsumer.processor.message import Entry
from streamconsumer.server.replies import milliseconds, order, pairs

__all__ = ["entries", "milliseconds", "of_stream", "order", "pairs", "redelivered"]


def of_stream(reply: Any) -> list[Any]:
    return reply[0][1] if reply else []


def entries(found: Sequence[Any]) -> list[Entry]:
    return [Entry(each[0].decode(), each[1]) for each in found if each is not None and each[1] is not None]


def redelivered(message_id: bytes, fields: Sequence[bytes], deliveries: int) -> Entry:
    """An entry that somebody was given before: its next beginning must be counted."""
    entry = Entry(message_id.decode(), fields)
    entry.deliveries, entry.is_counted, entry.may_be_large = deliveries, False, True
    return entry
