"""Minimum in Python: an asyncio.Protocol with hiredis, and one write for XACK and the next read. No redis-py."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
import uvloop

from benchmarks.contenders.course import CONSUMER, Harness


def run(course: Harness) -> None:
    uvloop.run(_run(course))


class RawProtocol(asyncio.Protocol):
    """Replies, in the order in which they were asked for."""

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
        found = await self._replies.get()
        if isinstance(found, Exception):
            raise found
        return found


def pack_command(command: Sequence[str | bytes]) -> bytes:
    """Return the command as RESP bytes."""
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type] # its type stub accepts only one argument
    return packed


async def _run(course: Harness) -> None:
    job, address = course.job, urlsplit(course.job.url)
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
    while not course.is_finished:
        if done:
            wire.transport.write(pack_command(("XACK", job.stream, job.group, *done)) + read)
            await wire.reply()
        else:
            wire.transport.write(read)
        reply = await wire.reply()
        done = []
        for _, entries in reply or ():
            for message_id, fields in entries:
                await course.handle(dict(zip(fields[::2], fields[1::2], strict=True)))
                done.append(message_id)
    wire.transport.write(pack_command(("XACK", job.stream, job.group, *done)))
    await wire.reply()
    course.finish()
    wire.transport.close()
