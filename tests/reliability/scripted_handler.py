"""Handlers of the reliability tests: each follows the instructions in its message and appends lines to a ledger file.

A line is one write to a file opened with O_APPEND. It is written completely or not at all, and survives kill -9.
"""

import asyncio
import ctypes
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
    global _file  # noqa: PLW0603 - opened by the handling process, not by the fork server
    if _file < 0:
        _file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    fields = (kind, data["n"], message.message_id, message.consumer, str(message.deliveries), f"{time.time():.3f}")
    os.write(_file, (" ".join(fields) + "\n").encode())


def _record_start(data: dict[str, Any], message: Message) -> None:
    _append_line("started-twice" if message.message_id in _running else "started", data, message)
    _running.add(message.message_id)


def outage_file(ledger: Path) -> Path:
    """Return a file's path. While the file exists, every message fails as if a dependency of the handler were down."""
    return ledger.with_suffix(".outage")


def trigger_file(ledger: Path) -> Path:
    """Return a file's path. Messages with `gil` or `block` wait for this file before they occupy the process."""
    return ledger.with_suffix(".trigger")


async def _occupy_process(data: dict[str, Any]) -> None:
    """Wait for the trigger, then hold the GIL for `gil` seconds and block the event loop for `block` seconds."""
    trigger = trigger_file(Path(os.environ["LEDGER"]))
    while not trigger.exists():  # noqa: ASYNC110 - the file is created by another process
        await asyncio.sleep(0.02)
    # A function of PyDLL keeps the GIL during the call, as a badly written C extension does.
    ctypes.PyDLL(None).usleep(int(float(data.get("gil", 0)) * 1e6))
    time.sleep(float(data.get("block", 0)))  # noqa: ASYNC251 - the handler blocks the event loop on purpose


def _outcome(data: dict[str, Any], message: Message) -> None:
    is_outage = outage_file(Path(os.environ["LEDGER"])).exists()
    if is_outage or data.get("poison") or message.deliveries <= int(data.get("fails", 0)):
        _append_line("failed", data, message)
        raise ConnectionResetError("the bank hung up")
    if "later" in data and message.deliveries == 1:
        _append_line("failed", data, message)
        raise Retry(after=timedelta(seconds=float(data["later"])))
    _append_line("done", data, message)


async def handle(data: dict[str, Any]) -> None:
    """Record the start, run for `ms` milliseconds, and record the end.

    With `gil` or `block`, occupies the process for that many seconds once the trigger file exists. With `only_in`, does
    so and runs for `ms` only in that consumer.

    Fails the first `fails` deliveries, or every delivery with `poison`. With `later`, asks for a retry after that many
    seconds on the first delivery.
    """
    message = current_message()
    _record_start(data, message)
    try:
        if data.get("only_in", message.consumer) == message.consumer:
            if {"gil", "block"} & data.keys():
                await _occupy_process(data)
            await asyncio.sleep(_seconds(data))
        _outcome(data, message)
    finally:
        _running.discard(message.message_id)


def handle_in_thread(data: dict[str, Any]) -> None:
    """Do the same as `handle`, as a plain function."""
    message = current_message()
    _record_start(data, message)
    try:
        time.sleep(_seconds(data))
        _outcome(data, message)
    finally:
        _running.discard(message.message_id)


async def handle_with_effects(data: dict[str, Any]) -> Effects:
    """Do the same as `handle`, and add one entry to another stream. It must be there once, whatever the retries."""
    await handle(data)
    return Effects().add(f"{current_message().stream}-invoices", {"n": data["n"]})


async def handle_batch(batch: list[dict[str, Any]]) -> None:
    """Do the same as `handle` for a batch: runs as long as the longest message; each message has its own outcome."""
    messages = current_messages()
    for data, message in zip(batch, messages, strict=True):
        _record_start(data, message)
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
