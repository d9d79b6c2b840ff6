"""What the processors that tests start as processes run."""

import asyncio
import logging
import os
import signal
import sys
import time
from datetime import timedelta
from typing import Any

from streamconsumer.processor import Defer, current_message, current_messages

log = logging.getLogger("shop")


async def note(data: dict[str, Any]) -> None:
    log.info("handled", extra={"n": data.get("n")})


async def silent(data: dict[str, Any]) -> None:
    """For many messages: a line for each costs more than the message."""


async def slow(data: dict[str, Any]) -> None:
    log.info("begun")
    await asyncio.sleep(float(data["seconds"]))
    log.info("handled")


def slow_thread(data: dict[str, Any]) -> None:
    log.info("begun")
    time.sleep(float(data["seconds"]))
    log.info("handled")


async def stubborn(data: dict[str, Any]) -> None:
    log.info("begun")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            log.info("refused")


async def failing(data: dict[str, Any]) -> None:
    raise ConnectionResetError("the bank hung up")


async def stack(data: dict[str, Any]) -> None:
    """Say what is loaded that should not be."""
    heavy = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "kopf", "kubernetes", "aiohttp")
    log.info("loaded", extra={"heavy": [name for name in heavy if name in sys.modules]})


async def blocking(data: dict[str, Any]) -> None:
    log.info("begun")
    time.sleep(float(data["seconds"]))  # noqa: ASYNC251 - the mistake that this is about
    log.info("handled")


async def mortal(data: dict[str, Any]) -> None:
    if "kills" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(float(data["seconds"]))
    log.info("handled")


async def note_batch(batch: list[dict[str, Any]]) -> None:
    log.info("handled", extra={"ids": [message.message_id for message in current_messages()], "size": len(batch)})


async def deferring(data: dict[str, Any]) -> None:
    """Fails once, then puts off."""
    if current_message().deliveries == 1:
        raise ConnectionResetError("the bank hung up")
    log.info("deferred")
    raise Defer(timedelta(hours=1))


async def tried(data: dict[str, Any]) -> None:
    """Fails once, then takes its time."""
    if current_message().deliveries == 1:
        raise ConnectionResetError("the bank hung up")
    log.info("begun")
    await asyncio.sleep(3600)


async def failing_or_mortal(data: dict[str, Any]) -> None:
    if "kills" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    raise ConnectionResetError("the bank hung up")
