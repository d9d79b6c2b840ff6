"""Handlers of the processors that tests start as child processes."""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from datetime import timedelta
from typing import Any

from streamconsumer.processor import Defer, current_message, current_messages

log = logging.getLogger("shop")


async def log_handled(data: dict[str, Any]) -> None:
    log.info("handled", extra={"n": data.get("n")})


async def noop(data: dict[str, Any]) -> None:
    """Do nothing, for tests with many messages: a log line costs more than the message."""


async def slow(data: dict[str, Any]) -> None:
    log.info("started")
    await asyncio.sleep(float(data["seconds"]))
    log.info("handled")


def slow_thread(data: dict[str, Any]) -> None:
    log.info("started")
    time.sleep(float(data["seconds"]))
    log.info("handled")


async def stubborn(data: dict[str, Any]) -> None:
    log.info("started")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            log.info("refused")


async def fail(data: dict[str, Any]) -> None:
    raise ConnectionResetError("the bank hung up")


async def log_loaded_modules(data: dict[str, Any]) -> None:
    """Log which modules are loaded that a processor must not load."""
    heavy = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "kopf", "kubernetes", "aiohttp")
    log.info("loaded", extra={"heavy": [name for name in heavy if name in sys.modules]})


async def blocking(data: dict[str, Any]) -> None:
    log.info("started")
    time.sleep(float(data["seconds"]))  # noqa: ASYNC251 - blocks the event loop on purpose
    log.info("handled")


async def crash_or_sleep(data: dict[str, Any]) -> None:
    if "kills" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(float(data["seconds"]))
    log.info("handled")


async def log_batch(batch: list[dict[str, Any]]) -> None:
    log.info("handled", extra={"ids": [message.message_id for message in current_messages()], "size": len(batch)})


async def fail_once_then_defer(data: dict[str, Any]) -> None:
    """Fail the first attempt and defer the second."""
    if current_message().deliveries == 1:
        raise ConnectionResetError("the bank hung up")
    log.info("deferred")
    raise Defer(timedelta(hours=1))


async def fail_once_then_hang(data: dict[str, Any]) -> None:
    """Fail the first attempt and hang in the second."""
    if current_message().deliveries == 1:
        raise ConnectionResetError("the bank hung up")
    log.info("started")
    await asyncio.sleep(3600)


async def fail_or_crash(data: dict[str, Any]) -> None:
    if "kills" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    raise ConnectionResetError("the bank hung up")


async def fork_and_sleep(data: dict[str, Any]) -> None:
    """Fork a child that survives this process, as `multiprocessing` does."""
    child = os.fork()
    if not child:
        time.sleep(60)  # noqa: ASYNC251 - the child runs no event loop
        os._exit(0)
    log.info("forked", extra={"child": child})
    await asyncio.sleep(float(data["seconds"]))


async def slow_or_holding(data: dict[str, Any]) -> None:
    """Sleep, or hold the interpreter lock, as a C extension can."""
    if "holds" in data:
        log.info("holding")
        ctypes.PyDLL(None).sleep(int(data["holds"]))  # in contrast to CDLL, PyDLL does not release the lock
        return
    await slow(data)


async def cancel_all_tasks(data: dict[str, Any]) -> None:
    """Cancel the tasks of the processor too, as code does that cleans up after itself."""
    for task in asyncio.all_tasks():
        task.cancel()


async def stop_event_loop(data: dict[str, Any]) -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(3600)
