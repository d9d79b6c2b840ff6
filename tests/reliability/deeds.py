"""The handler of the reliability suite: does what the message says, and writes down what it did.

A line is one write to a file opened with O_APPEND: whole or not there, and kill -9 takes nothing back that was written.
"""

import asyncio
import os
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from streamconsumer.processor import BatchFailed, Effects, Message, Retry, current_message, current_messages

_file = -1
_running: set[str] = set()


def _append_line(kind: str, data: dict[str, Any], message: Message) -> None:
    global _file  # noqa: PLW0603 - opened by the process that handles, not by the one that it was forked from
    if _file < 0:
        _file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    words = (kind, data["n"], message.message_id, message.consumer, str(message.deliveries), f"{time.time():.3f}")
    os.write(_file, (" ".join(words) + "\n").encode())


def _record_begin(data: dict[str, Any], message: Message) -> None:
    _append_line("twice-at-once" if message.message_id in _running else "begun", data, message)
    _running.add(message.message_id)


def outage_file(ledger: Path) -> Path:
    """While this file is there, every message fails: what handlers depend on is away."""
    return ledger.with_suffix(".outage")


def _outcome(data: dict[str, Any], message: Message) -> None:
    is_away = outage_file(Path(os.environ["LEDGER"])).exists()
    if is_away or data.get("poison") or message.deliveries <= int(data.get("fails", 0)):
        _append_line("failed", data, message)
        raise ConnectionResetError("the bank hung up")
    if "later" in data and message.deliveries == 1:
        _append_line("failed", data, message)
        raise Retry(after=timedelta(seconds=float(data["later"])))
    _append_line("done", data, message)


async def handle(data: dict[str, Any]) -> None:
    """Notes the begin; takes `ms` milliseconds; fails as often as `fails` says, always for `poison`, once
    and for so many seconds for `later`; notes the end."""
    message = current_message()
    _record_begin(data, message)
    try:
        await asyncio.sleep(_seconds(data))
        _outcome(data, message)
    finally:
        _running.discard(message.message_id)


def handle_in_thread(data: dict[str, Any]) -> None:
    """The same as a plain function."""
    message = current_message()
    _record_begin(data, message)
    try:
        time.sleep(_seconds(data))
        _outcome(data, message)
    finally:
        _running.discard(message.message_id)


async def handle_with_effects(data: dict[str, Any]) -> Effects:
    """The same, with an entry in another stream that must be there once, however often the message is handled."""
    await handle(data)
    return Effects().add(f"{current_message().stream}-invoices", {"n": data["n"]})


async def handle_batch(batch: list[dict[str, Any]]) -> None:
    """The same for a list: takes as long as the longest, and each has its own end."""
    messages = current_messages()
    for data, message in zip(batch, messages, strict=True):
        _record_begin(data, message)
    failures: dict[int, BaseException] = {}
    try:
        await asyncio.sleep(max(map(_seconds, batch)))
        for index, (data, message) in enumerate(zip(batch, messages, strict=True)):
            try:
                _outcome(data, message)
            except (OSError, Retry) as error:
                failures[index] = error
    finally:
        _running.difference_update(message.message_id for message in messages)
    if failures:
        raise BatchFailed(failures)


def _seconds(data: dict[str, Any]) -> float:
    return float(data.get("ms", random.randint(0, 5))) / 1000
