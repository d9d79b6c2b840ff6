"""Managed services and proxies that reject commands, or reply to them in their own way."""

import asyncio
import signal
from contextlib import suppress

import pytest
from redis.exceptions import ResponseError

from streamconsumer.processor import RedisStreamProcessor, StreamManager
from streamconsumer.processor.consumer.observer import Observer
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.consumer.registration import OwnRegistration
from streamconsumer.processor.message import ConsumerId
from tests.cluster.redis_servers import StartRedis
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.proxy import Proxy
from tests.processor.recorder import Recorder


class RewritingProxy(Proxy):
    """Proxy that replaces a text in each reply."""

    old, new = b"", b""

    async def _forward_replies(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data.replace(self.old, self.new))
        target.close()


def observer_of(processor: RedisStreamProcessor) -> Observer:
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    assert consumer.claimer
    return consumer.claimer._observer


@pytest.mark.slow
async def test_messages_of_a_dead_pod_are_claimed_if_a_proxy_replies_to_info(group: Group, new_pod: NewPod) -> None:
    """The script that claims reads the run id of the server, which is another one."""
    run_id = str((await group.client.info("server"))["run_id"])
    async with RewritingProxy(group.server).running() as proxy:
        assert isinstance(proxy, RewritingProxy)
        proxy.old, proxy.new = f"run_id:{run_id}".encode(), f"run_id:{'f' * len(run_id)}".encode()
        group.url = proxy.url
        await group.add(1, {"seconds": "60"})
        pod = new_pod("pod_handlers:slow").start()
        await pod.wait_for_log("started")
        peer = Recorder()
        processor = await group.start(peer, "pod-b", min_idle=4)
        await eventually(lambda: observer_of(processor).has_seen("pod-a"))
        pod.signal(signal.SIGKILL)
        await peer.wait_until_finished(1)


async def test_messages_are_handled_on_a_server_without_a_run_id(group: Group) -> None:
    async with RewritingProxy(group.server).running() as proxy:
        assert isinstance(proxy, RewritingProxy)
        proxy.old, proxy.new = b"run_id:", b"no_run:"
        group.url = proxy.url
        await group.add()
        handler = Recorder()
        await group.start(handler)
        await handler.wait_until_finished(1)


@pytest.mark.parametrize("command", ["CLIENT", "INFO", "EVALSHA"])
async def test_messages_are_handled_without_a_command(start_redis: StartRedis, command: str) -> None:
    group = Group(start_redis({"rename-command": f'{command} ""'}))
    handler, peer = Recorder(gate=False), Recorder()
    first = await group.start(handler)
    await group.add()
    await handler.wait_until_received(1)
    await group.start(peer, "pod-b")
    await group.add(3)
    await peer.wait_until_finished(3)
    handler.gate.set()
    await group.wait_settled()
    await first.stop_listening()
    await group.close()


@pytest.mark.parametrize(
    ("error", "can_list"),
    [("BUSY Redis is busy running a script", True), ("LOADING", True), ("ERR unknown command 'CLIENT'", False)],
)
async def test_temporary_error_does_not_end_the_listing_of_connections(error: str, can_list: bool) -> None:
    async def execute(*_command: object) -> None:
        raise ResponseError(error)

    observer = Observer(
        StreamManager.from_url("redis://localhost"), OwnRegistration(ConsumerId(STREAM, GROUP, "pod-a"), "token")
    )
    observer._connection.execute = execute  # type: ignore[method-assign]
    with suppress(ResponseError):
        await observer._list_clients({1})
    assert observer._can_list is can_list
