"""Reads files with credentials and certificates, with limits for size and time.

The files are read in separate threads, so that a blocked read does not delay DNS lookups. Opening a FIFO or a device
can block forever, and an event loop that waits for a file cannot serve any connection. Only regular files of limited
size are therefore read.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

MAX_THREADS = 2
TIMEOUT_SECONDS = 10.0
"""Timeout of one call in a thread. A call can block, for example if a network file system does not respond."""

T = TypeVar("T")

_executor = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="redis-settings")


async def run_in_thread(function: Callable[[], T]) -> T:
    """Run a function that reads files or sets up TLS, without blocking the event loop. Raises OSError after
    TIMEOUT_SECONDS."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(_executor, function)
    except TimeoutError:
        raise OSError(f"files with credentials or certificates were not read within {TIMEOUT_SECONDS:.0f} s") from None


def read_text_file(path: Path, max_bytes: int) -> str:
    """Return the content of a regular file. Raises OSError and UnicodeDecodeError."""
    _check_regular(path.stat())
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _check_regular(os.fstat(descriptor))  # the file may have been replaced
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"more than {max_bytes} bytes")
    return content.decode()


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
