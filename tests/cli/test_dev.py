"""`streamconsumer dev` for real: an embedded Valkey, pods as processes, signals."""

import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from streamconsumer.cli.dev.pods import delays
from tests.cli.dev_process import DevProcess, gone
from tests.cli.manifests import consumer, secret, written
from tests.processor.service import serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

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


@pytest.fixture
def dev(tmp_path: Path) -> DevProcess:
    return DevProcess(tmp_path / "consumer.yaml", temporary=tmp_path / "tmp")


async def test_a_handler_beside_its_manifest_handles_drains_and_leaves_nothing_behind(
    dev: DevProcess, tmp_path: Path
) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    written(tmp_path, consumer())
    async with dev:
        url = await dev.redis_url()
        await dev.line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            assert "handled 1 by orders-consumer-" in await dev.line("handled")
        family = dev.descendants()
        assert len(family) == 3, "the guard, Valkey, one pod"
        dev.signal(signal.SIGINT)
        assert await dev.ended() == 0
        await gone(family)
        assert dev.left_behind() == []
    assert dev.lines[-1] == "orders: 1 acknowledged, 0 failed, 0 retried, 0 dead-lettered, pending 0, lag 0"


async def test_a_handler_in_the_resource_fails_is_tried_again_and_its_trace_is_shown(
    dev: DevProcess, tmp_path: Path
) -> None:
    source = f"{HANDLE}    if current_message().deliveries == 1: raise ValueError('not yet')\n"
    written(tmp_path, consumer(handler={"source": source}, delivery={"backoff": {"minDelay": "10ms"}}))
    async with dev:
        url = await dev.redis_url()
        await dev.line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1, "traceparent": f"00-{'4b' * 16}-{'a3' * 8}-01"})
            failed = await dev.line("message failed")
            assert failed.endswith("error=ValueError: not yet  at=handler_source.py:6")
            await dev.line("process orders ✓ .* delivery 2")
            assert any(re.search("process orders ✗ .* ValueError: not yet$", line) for line in dev.lines)
        dev.signal(signal.SIGTERM)
        assert await dev.ended() == 0
    assert dev.lines[-1] == "orders: 1 acknowledged, 1 failed, 1 retried, 0 dead-lettered, pending 0, lag 0"


async def test_a_message_that_is_rejected_is_told_of_as_a_dead_letter(dev: DevProcess, tmp_path: Path) -> None:
    refuse = "from streamconsumer.processor import Reject\n\ndef handle(order):\n    raise Reject('no such customer')\n"
    written(tmp_path, consumer(handler={"source": refuse}))
    async with dev:
        url = await dev.redis_url()
        await dev.line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            told = await dev.line("message is a dead letter")
            assert "reason=Rejected  error=Reject: no such customer" in told
        dev.signal(signal.SIGTERM)
        assert await dev.ended() == 0
    assert dev.lines[-1] == "orders: 0 acknowledged, 1 failed, 0 retried, 1 dead-lettered, pending 0, lag 0"


async def test_a_service_is_the_program_on_its_port_here(dev: DevProcess, tmp_path: Path) -> None:
    async with serving() as service:
        port = int(service.url.rpartition(":")[2].partition("/")[0])
        written(tmp_path, consumer(handler={"http": {"service": "billing", "port": port, "path": "/orders"}}))
        async with dev:
            url = await dev.redis_url()
            await dev.line("processor started")
            async with client(url) as redis:
                await redis.xadd("orders", {"id": 1})
                [request] = await service.received(1)
            dev.signal(signal.SIGINT)
            assert await dev.ended() == 0
    assert (request.path, request.body) == ("/orders", '{"id": "1"}')
    assert dev.lines[-1] == "orders: 1 acknowledged, 0 failed, 0 retried, 0 dead-lettered, pending 0, lag 0"


async def test_a_batch_handler_takes_lists(dev: DevProcess, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text("def handle(batch):\n    print('handled', [each['id'] for each in batch])\n")
    written(tmp_path, consumer(handler={"python": "orders:handle", "batch": True}))
    async with dev:
        url = await dev.redis_url()
        await dev.line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            assert "handled ['1']" in await dev.line("handled")
        dev.signal(signal.SIGINT)
        assert await dev.ended() == 0
    assert dev.lines[-1] == "orders: 1 acknowledged, 0 failed, 0 retried, 0 dead-lettered, pending 0, lag 0"


async def test_a_missing_handler_is_shown_and_found_once_it_is_there(dev: DevProcess, tmp_path: Path) -> None:
    written(tmp_path, consumer())
    async with dev:
        shown = await dev.line("exited with 78")
        assert "(configuration): HandlerUnusable: handler 'orders:handle': module 'orders' not found" in shown
        (tmp_path / "orders.py").write_text(HANDLE)
        assert "next try in 1 s" in await dev.line("next try")
        await dev.line("processor started")
        dev.signal(signal.SIGINT)
        assert await dev.ended() == 0


async def test_a_second_signal_ends_the_drain_at_once(dev: DevProcess, tmp_path: Path) -> None:
    endless = "import asyncio\nasync def handle(data):\n    print('began')\n    await asyncio.sleep(600)\n"
    written(tmp_path, consumer(handler={"source": endless}, drainTimeout="10m"))
    async with dev:
        url = await dev.redis_url()
        await dev.line("processor started")
        async with client(url) as redis:
            await redis.xadd("orders", {"id": 1})
            await dev.line("began")
            family = dev.descendants()
            dev.signal(signal.SIGINT)
            await dev.line("draining")
            dev.signal(signal.SIGINT)
            assert await dev.ended() == 0
        await gone(family)
        assert dev.left_behind() == []
    assert dev.lines[-1].endswith("pending 1, lag 0")


async def test_kill_9_leaves_nothing_behind_either(dev: DevProcess, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    written(tmp_path, consumer(replicas=2))
    async with dev:
        for _ in range(2):
            await dev.line("processor started")
        family = dev.descendants()
        assert len(family) == 4, "the guard, Valkey, two pods"
        dev.signal(signal.SIGKILL)
        await dev.ended()
        await gone(family)
        assert dev.left_behind() == []


async def test_several_consumers_share_one_embedded_server_and_secrets_say_which_database(
    dev: DevProcess, tmp_path: Path
) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    reference = {"urlSecretRef": {"name": "r", "key": "url"}}
    second = consumer("parcels", stream="parcels", redis=reference)
    written(tmp_path, consumer(), second, secret("r", url="rediss://user:pass@127.0.0.1:1/3"))
    async with dev:
        first_url = await dev.redis_url()
        second_url = await dev.redis_url()
        assert second_url == first_url.removesuffix("/0") + "/3"
        for _ in range(2):
            await dev.line("processor started")
        async with client(second_url) as redis:
            await redis.xadd("parcels", {"id": 9})
            assert "parcels-consumer-" in await dev.line("handled 9")
        dev.signal(signal.SIGINT)
        assert await dev.ended() == 0
    assert not any("pass" in line for line in dev.lines)
    assert [line.partition(":")[0] for line in dev.lines[-2:]] == ["orders", "parcels"]


async def test_a_redis_that_answers_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(HANDLE)
    written(tmp_path, consumer())
    first = DevProcess(tmp_path / "consumer.yaml", "--replicas", "0", temporary=tmp_path / "first")
    async with first:
        url = await first.redis_url()
        await first.line("0 pods")
        written(tmp_path, consumer(redis={"url": url}))
        second = DevProcess(tmp_path / "consumer.yaml", "--no-spans", temporary=tmp_path / "second")
        async with second, client(url) as redis:
            assert await second.line("answers and is used") == f"{url} answers and is used"
            assert "tracing=False" in await second.line("processor started")
            await redis.xadd("orders", {"id": 5})
            await second.line("handled 5")
            second.signal(signal.SIGINT)
            assert await second.ended() == 0
            assert await redis.xlen("orders") == 1
        first.signal(signal.SIGINT)
        assert await first.ended() == 0


def test_restarts_back_off_as_a_kubelet_does() -> None:
    waits = delays()
    assert [next(waits).total_seconds() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
