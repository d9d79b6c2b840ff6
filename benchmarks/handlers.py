"""Handlers of the pods in the workloads."""

import asyncio
import os
import time
from typing import Any

from streamconsumer.processor import current_message


async def noop(_data: dict[str, Any]) -> None:
    pass


async def block(_data: dict[str, Any]) -> None:
    """Never return, so that all entries of this pod stay pending."""
    await asyncio.Event().wait()


async def log_start(_data: dict[str, Any]) -> None:
    """Print the start time of the message."""
    os.write(1, f"started {current_message().message_id} {time.time()}\n".encode())


async def wait_10ms(_data: dict[str, Any]) -> None:
    await asyncio.sleep(0.01)


async def wait_100ms(_data: dict[str, Any]) -> None:
    await asyncio.sleep(0.1)
