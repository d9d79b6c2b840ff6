"""Minimum in Python: an asyncio.Protocol with hiredis, and one write for XACK and the next read. No redis-py."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
import uvloop

from benchmarks.contenders.harness import CONSUMER, Harness


def run(harness: Harness) -> None:
    uvloop.run(_run(harness))


class RawProtocol(asyncio.Protocol):
    """Connection that queues replies in the order of their commands."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transport is not a subclass

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._replies.put_nowait(reply)

    async def reply(self) -> Any:
        reply = await self._replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply


def pack_command(command: Sequence[str | bytes]) -> bytes:
    """Return the command as RESP bytes."""
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type] # its type stub accepts only one argument
    return packed


async def _run(harness: Harness) -> None:
    job, address = harness.job, urlsplit(harness.job.url)
    _, wire = await asyncio.get_running_loop().create_connection(
        RawProtocol, address.hostname or "localhost", address.port or 6379
    )
    read = pack_command(
        (
            *("XREADGROUP", "GROUP", job.group, CONSUMER, "COUNT", str(job.batch)),
            *("BLOCK", "1000", "STREAMS", job.stream, ">"),
        )
    )
    done: list[bytes] = []
    while not harness.is_finished:
        if done:
            wire.transport.write(pack_command(("XACK", job.stream, job.group, *done)) + read)
            await wire.reply()
        else:
            wire.transport.write(read)
        reply = await wire.reply()
        done = []
        for _, entries in reply or ():
            for message_id, fields in entries:
                await harness.handle(dict(zip(fields[::2], fields[1::2], strict=True)))
                done.append(message_id)
    wire.transport.write(pack_command(("XACK", job.stream, job.group, *done)))
    await wire.reply()
    harness.finish()
    wire.transport.close()
