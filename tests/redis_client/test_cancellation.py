"""A cancelled task ends with CancelledError, in whatever step of a Redis command the cancellation arrives.

`asyncio.wait_for`, which redis-py calls, swallows a cancellation before Python 3.12 if the awaited coroutine ends at
the same time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import pytest

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.redis_client.connection import CONNECTION_CLASSES, NO_RETRY_OPTIONS
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.pipeline_client import PipelineClient
from streamconsumer.redis_client.topology import topology

STEPS = 40
"""Number of iterations of the event loop until a command waits for its reply."""


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Serve the handshake, and never reply to another command."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while data := await reader.read(65_536):
                if b"SELECT" in data or b"CLIENT" in data:
                    writer.write(b"+OK\r\n" * data.count(b"*"))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/1"


async def swallowed(run: Callable[[], Awaitable[object]], steps: int) -> list[int]:
    """Return the iterations of the event loop after which a cancellation of the coroutine has had no effect."""
    found = []
    for step in range(steps):
        task = asyncio.ensure_future(run())
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=1)
        if not done or not task.cancelled():
            found.append(step)
            task.cancel()
            await asyncio.wait({task})
    return found


@pytest.mark.timeout(120)
async def test_pipeline_client_ends_when_it_is_cancelled_in_any_step() -> None:
    async with silent_server() as url:

        async def run() -> None:
            client = PipelineClient(RedisCredentials(RedisSettings(url=url)), "orders", timeout_seconds=20)
            try:
                await client.execute([("PING",)])
            finally:
                await client.close()

        assert await swallowed(run, STEPS) == []


@pytest.mark.timeout(120)
async def test_connection_of_a_pod_ends_when_it_is_cancelled_in_any_step() -> None:
    async with silent_server() as url:

        async def run() -> None:
            source = topology(RedisCredentials(RedisSettings(url=url)), "orders")
            connection = CONNECTION_CLASSES["redis"](**NO_RETRY_OPTIONS, socket_timeout=20, address_source=source)
            try:
                await connection.send_command("PING")
                await connection.read_response()
            finally:
                await connection.disconnect(nowait=True)

        assert await swallowed(run, STEPS) == []
