"""What any of Redis' raw replies (RESP 2) is made of."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any


def pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def order(message_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = message_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def milliseconds(duration: timedelta) -> int:
    return round(duration / timedelta(milliseconds=1))
