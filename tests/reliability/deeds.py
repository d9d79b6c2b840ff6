"""The handler of the reliability suite: does what the message says, and writes down what it did.

A line is one write to a file opened with O_APPEND: whole or not there, and kill -9 takes nothing back that was written.
"""

import asyncio
import os
import random
import time
from datetime import timedelta
from typing import Any

from streamconsumer.processor import Retry, current_message

_file = -1
_running: set[str] = set()


def _note(kind: str, data: dict[str, Any]) -> None:
    global _file  # noqa: PLW0603 - opened by the process that handles, not by the one that it was forked from
    if _file < 0:
        _file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    message = current_message()
    words = (kind, data["n"], message.message_id, message.consumer, str(message.deliveries), f"{time.time():.3f}")
    os.write(_file, (" ".join(words) + "\n").encode())


def _outcome(data: dict[str, Any]) -> None:
    if data.get("poison") or current_message().deliveries <= int(data.get("fails", 0)):
        _note("failed", data)
        raise ConnectionResetError("the bank hung up")
    if "later" in data and current_message().deliveries == 1:
        _note("failed", data)
        raise Retry(after=timedelta(seconds=float(data["later"])))
    _note("done", data)


async def handle(data: dict[str, Any]) -> None:
    """Notes the begin; takes `ms` milliseconds; fails as often as `fails` says, always for `poison`, once
    and for so many seconds for `later`; notes the end."""
    message_id = current_message().message_id
    _note("twice-at-once" if message_id in _running else "begun", data)
    _running.add(message_id)
    try:
        await asyncio.sleep(float(data.get("ms", random.randint(0, 5))) / 1000)
        _outcome(data)
    finally:
        _running.discard(message_id)


def handle_in_thread(data: dict[str, Any]) -> None:
    """The same as a plain function."""
    message_id = current_message().message_id
    _note("twice-at-once" if message_id in _running else "begun", data)
    _running.add(message_id)
    try:
        time.sleep(float(data.get("ms", random.randint(0, 5))) / 1000)
        _outcome(data)
    finally:
        _running.discard(message_id)
