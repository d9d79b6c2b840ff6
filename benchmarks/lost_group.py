"""Handler of the workload `lost_group`. Logs the start and the end of each message."""

import asyncio
import os
import time
from typing import Any

from streamconsumer.processor import current_message


async def handle(data: dict[str, Any]) -> None:
    """Sleep for the seconds that the message states."""
    _log("started")
    try:
        await asyncio.sleep(float(data["seconds"]))
    except asyncio.CancelledError:
        _log("cancelled")
        raise
    _log("ended")


def _log(event: str) -> None:
    os.write(1, f"event {time.time()} {event} {current_message().message_id}\n".encode())
