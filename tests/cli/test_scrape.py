import asyncio

import pytest

from streamconsumer.cli.dev import figures


async def test_a_pod_that_does_not_answer_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked every second, for as long as its handler blocks it."""
    monkeypatch.setattr(figures, "_ANSWER_SECONDS", 0.1)
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # up to the end
        ended.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        assert await figures.scrape(server.sockets[0].getsockname()[1]) is None
        async with asyncio.timeout(10):
            await ended.wait()
