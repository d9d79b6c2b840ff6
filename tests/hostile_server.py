"""TCP server that completes the handshake of a Redis client and then sends scripted bytes, for untrusted replies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from urllib.parse import urlsplit

from streamconsumer.model.processor_settings import RedisSettings

ENDLESS = b"x" * 65_536

REPLIES = {
    "endless bulk string": b"$500000000\r\n",
    "endless simple string": b"+",
    "endless error": b"-ERR ",
    "endless array": b"*100000000\r\n",
    "declared array": b"*2000000000\r\n",
    "nested arrays": b"*1\r\n" * 100_000,
    "nested declared arrays": b"*1000000000\r\n" * 3,
    "number of 400 digits": b":" + b"9" * 400 + b"\r\n",
    "length of 400 digits": b"$" + b"9" * 400 + b"\r\n",
    "negative number": b":-7\r\n",
    "number": b":7\r\n",
    "text": b"+surprise\r\n",
    "binary": b"$4\r\n\xff\xfe\x00\x80\r\n",
    "nil": b"$-1\r\n",
    "nil array": b"*-1\r\n",
    "empty array": b"*0\r\n",
    "array of nils": b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
    "array of errors": b"*3\r\n-ERR inside\r\n-NOPERM inside\r\n-MOVED 1 127.0.0.1:1\r\n",
    "error": b"-ERR \x1b[2J\xe2\x80\xae\r\n",
    "map": b"%1000000000\r\n",
    "push": b">100000000\r\n",
    "boolean": b"#t\r\n",
    "double": b",nan\r\n",
    "big number": b"(" + b"9" * 400 + b"\r\n",
    "attribute": b"|1\r\n+key\r\n+value\r\n+OK\r\n",
    "not Redis": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "bulk string without end": b"$3\r\nabcdef\r\n",
    "two replies": b"+OK\r\n" * 2,
    "many replies": b"+OK\r\n" * 10_000,
    "cut reply": b"*3\r\n:1\r\n",
}
"""Bytes by behaviour. The server sends them for each command after the handshake."""


@asynccontextmanager
async def hostile_server(
    reply: bytes, *, endless: bool = False, close: bool = False, handshake: bool = True
) -> AsyncIterator[str]:
    """Run a server that sends `reply` for each command. Yields the URL.

    If `endless` is True, the server then sends data until the client disconnects. If `close` is True, the server closes
    the connection after the first reply. If `handshake` is False, the commands of the handshake also get `reply`.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            while command := await _read_command(reader):
                if handshake and command[0].upper() in {b"CLIENT", b"SELECT", b"AUTH"}:
                    writer.write(b"+OK\r\n")
                    continue
                writer.write(reply)
                while endless:
                    writer.write(ENDLESS)
                    await writer.drain()
                await writer.drain()
                if close:
                    return

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


def behaviour(name: str) -> dict[str, bool]:
    """Return the arguments of `hostile_server` that belong to a behaviour."""
    return {"endless": name.startswith("endless"), "close": name.startswith("cut")}


def settings_for(url: str) -> RedisSettings:
    assert urlsplit(url).port
    return RedisSettings(url=url)


async def _read_command(reader: asyncio.StreamReader) -> list[bytes]:
    header = await reader.readline()
    words = []
    for _ in range(int(header[1:] or 0)):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words
