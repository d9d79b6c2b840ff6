"""`streamconsumer dev` as a process: the embedded Valkey, pods as processes, and signals."""

import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.cli.dev.dev_process import DevProcess, wait_for_exits
from tests.cli.manifests import consumer, secret, write_documents
from tests.processor.http_service import run_http_service

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="requires /proc")

HANDLE = """
from streamconsumer.processor import current_message

async def handle(order):
    print("handled", order["id"], "by", current_message().consumer)
"""


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    redis = Redis.from_url(url)
    try:
        yield redis
    finally:
        await redis.aclose()


def counters(line: str) -> dict[str, int]:
    """Return the counters of a pod from the last line of its log."""
    assert "processor stopped" in line
    matches = re.findall(r" (acknowledged|failed|retried|dead_lettered)=(\d+)", line)
    return {name: int(count) for name, count in matches}


@pytest.fixture
def dev(tmp_path: Path) -> DevProcess:
    return DevProcess(tmp_path / "consumer.yaml", temporary=tmp_path / "tmp")


async def test_handler_in_the_manifest_folder_runs_and_drains_without_remains(dev: DevProcess, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    write_documents(tmp_path, consumer())
    async with dev:
        url = await dev.redis_url()
        await dev.wait_for_line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            assert "handled 1 by orders-consumer-" in await dev.wait_for_line("handled")
        processes = dev.descendants()
        assert len(processes) == 2, "Valkey, one pod"
        dev.signal(signal.SIGINT)
        assert await dev.wait_for_exit() == 0
        await wait_for_exits(processes)
        assert dev.remaining_files() == []
    assert counters(dev.lines[-1]) == {"acknowledged": 1}


async def test_retry_of_a_source_handler_is_shown_with_its_trace(dev: DevProcess, tmp_path: Path) -> None:
    source = f"{HANDLE}    if current_message().deliveries == 1: raise ValueError('not yet')\n"
    write_documents(tmp_path, consumer(handler={"source": source}, delivery={"backoff": {"minDelay": "10ms"}}))
    async with dev:
        url = await dev.redis_url()
        await dev.wait_for_line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1, "traceparent": f"00-{'4b' * 16}-{'a3' * 8}-01"})
            failed = await dev.wait_for_line("message failed")
            assert failed.endswith("error=ValueError: not yet  at=handler_source.py:6")
            await dev.wait_for_line("process orders ✓ .* delivery 2")
            assert any(re.search("process orders ✗ .* ValueError: not yet$", line) for line in dev.lines)
        dev.signal(signal.SIGTERM)
        assert await dev.wait_for_exit() == 0
    assert counters(dev.lines[-1]) == {"acknowledged": 1, "failed": 1, "retried": 1}


async def test_rejected_message_is_shown_as_a_dead_letter(dev: DevProcess, tmp_path: Path) -> None:
    reject = "from streamconsumer.processor import Reject\n\ndef handle(order):\n    raise Reject('no such customer')\n"
    write_documents(tmp_path, consumer(handler={"source": reject}))
    async with dev:
        url = await dev.redis_url()
        await dev.wait_for_line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            line = await dev.wait_for_line("message dead-lettered")
            assert "reason=Rejected  error=Reject: no such customer" in line
        dev.signal(signal.SIGTERM)
        assert await dev.wait_for_exit() == 0
    assert counters(dev.lines[-1]) == {"failed": 1, "dead_lettered": 1}


async def test_http_handler_calls_the_port_of_the_service_on_this_machine(dev: DevProcess, tmp_path: Path) -> None:
    async with run_http_service() as service:
        port = int(service.url.rpartition(":")[2].partition("/")[0])
        write_documents(tmp_path, consumer(handler={"http": {"service": "billing", "port": port, "path": "/orders"}}))
        async with dev:
            url = await dev.redis_url()
            await dev.wait_for_line("processor started")
            async with client(url) as redis:
                await redis.xadd("orders", {"id": 1})
                [request] = await service.wait_for_requests(1)
            dev.signal(signal.SIGINT)
            assert await dev.wait_for_exit() == 0
    assert (request.path, request.body) == ("/orders", '{"id": "1"}')
    assert counters(dev.lines[-1]) == {"acknowledged": 1}


async def test_batch_handler_receives_lists(dev: DevProcess, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text("def handle(batch):\n    print('handled', [each['id'] for each in batch])\n")
    write_documents(tmp_path, consumer(handler={"python": "orders:handle", "batch": True}))
    async with dev:
        url = await dev.redis_url()
        await dev.wait_for_line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            assert "handled ['1']" in await dev.wait_for_line("handled")
        dev.signal(signal.SIGINT)
        assert await dev.wait_for_exit() == 0
    assert counters(dev.lines[-1]) == {"acknowledged": 1}


async def test_log_level_replaces_that_of_the_manifest(tmp_path: Path) -> None:
    source = "import logging\n\ndef handle(order):\n    logging.getLogger('shop').debug('seen %s', order['id'])\n"
    write_documents(tmp_path, consumer(handler={"source": source}, logLevel="ERROR"))
    async with DevProcess(tmp_path, "--log-level", "debug", temporary=tmp_path / "temporary") as dev:
        url = await dev.redis_url()
        await dev.wait_for_line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            await dev.wait_for_line("DEBUG .*seen 1")
        dev.signal(signal.SIGINT)
        assert await dev.wait_for_exit() == 0


async def test_missing_handler_is_shown_and_loaded_after_its_creation(dev: DevProcess, tmp_path: Path) -> None:
    write_documents(tmp_path, consumer())
    async with dev:
        shown = await dev.wait_for_line("CRITICAL")
        assert "HandlerUnusable: handler 'orders:handle': module 'orders' not found" in shown
        (tmp_path / "orders.py").write_text(HANDLE)
        await dev.wait_for_line("exited with code 78; restarting in 2 s")
        await dev.wait_for_line("processor started")
        dev.signal(signal.SIGINT)
        assert await dev.wait_for_exit() == 0


async def test_second_signal_kills_the_pods(dev: DevProcess, tmp_path: Path) -> None:
    endless = "import asyncio\nasync def handle(data):\n    print('began')\n    await asyncio.sleep(600)\n"
    write_documents(tmp_path, consumer(handler={"source": endless}, drainTimeout="10m"))
    async with dev:
        url = await dev.redis_url()
        await dev.wait_for_line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            await dev.wait_for_line("began")
            processes = dev.descendants()
            dev.signal(signal.SIGINT)
            await dev.wait_for_line("draining")
            dev.signal(signal.SIGINT)
            assert await dev.wait_for_exit() == 0
        await wait_for_exits(processes)
        assert dev.remaining_files() == []


async def test_kill_9_also_ends_the_pods_and_the_server(dev: DevProcess, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    write_documents(tmp_path, consumer(replicas=2))
    async with dev:
        for _ in range(2):
            await dev.wait_for_line("processor started")
        processes = dev.descendants()
        assert len(processes) == 3, "Valkey, two pods"
        dev.signal(signal.SIGKILL)
        await dev.wait_for_exit()
        await wait_for_exits(processes)


async def test_closed_terminal_drains_without_remains(dev: DevProcess, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    write_documents(tmp_path, consumer())
    async with dev:
        await dev.wait_for_line("processor started")
        processes = dev.descendants()
        dev.signal(signal.SIGHUP)
        assert await dev.wait_for_exit() == 0
        await wait_for_exits(processes)
        assert dev.remaining_files() == []
    assert "processor stopped" in dev.lines[-1]


async def test_several_stream_consumers_share_one_embedded_server(dev: DevProcess, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    reference = {"urlSecretRef": {"name": "r", "key": "url"}}
    second = consumer("parcels", stream="parcels", redis=reference)
    write_documents(tmp_path, consumer(), second, secret("r", url="rediss://user:pass@127.0.0.1:1/3"))
    async with dev:
        url = await dev.redis_url()
        for _ in range(2):
            await dev.wait_for_line("processor started")
        async with client(url) as redis:
            await redis.xadd("parcels", {"id": 9})
            assert "parcels-consumer-1" in await dev.wait_for_line("handled 9")
        dev.signal(signal.SIGINT)
        assert await dev.wait_for_exit() == 0
    assert not any("pass" in line for line in dev.lines)


async def test_redis_of_the_manifest_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    write_documents(tmp_path, consumer(replicas=0))
    first = DevProcess(tmp_path / "consumer.yaml", temporary=tmp_path / "first")
    async with first:
        url = await first.redis_url()
        await first.wait_for_line("0 pods")
        write_documents(tmp_path, consumer(redis={"url": url}))
        second = DevProcess(tmp_path / "consumer.yaml", temporary=tmp_path / "second")
        async with second, client(url) as redis:
            assert await second.redis_url() != url
            await second.wait_for_line("processor started")
            assert not await redis.exists("orders")
            second.signal(signal.SIGINT)
            assert await second.wait_for_exit() == 0
        first.signal(signal.SIGINT)
        assert await first.wait_for_exit() == 0
