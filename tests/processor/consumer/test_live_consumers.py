"""A live consumer keeps its messages, whatever silences it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.pod import NewPod, Pod
from tests.processor.recorder import Recorder

pytestmark = pytest.mark.slow

SECONDS = 8


async def cut_all_connections(group: Group, _pod: Pod) -> None:
    await group.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
    await asyncio.sleep(5)


async def cut_a_connection_every_second(group: Group, _pod: Pod) -> None:
    for number in range(SECONDS):
        clients = [client for client in await group.client.client_list() if client["name"]]
        await group.client.client_kill_filter(_id=clients[number % len(clients)]["id"])
        await asyncio.sleep(1)


async def pause_writes(group: Group, _pod: Pod) -> None:
    await group.client.client_pause(SECONDS * 1000, all=False)
    await asyncio.sleep(SECONDS + 2)


async def reach_maxclients(group: Group, _pod: Pod) -> None:
    connected = (await group.client.info("clients"))["connected_clients"]
    await group.client.config_set("maxclients", connected)
    await asyncio.sleep(SECONDS)
    await group.client.config_set("maxclients", 10_000)


async def stop_the_server(group: Group, _pod: Pod) -> None:
    group.server.pause()
    await asyncio.sleep(SECONDS)
    group.server.resume()
    await asyncio.sleep(3)


async def freeze_the_pod(_group: Group, pod: Pod) -> None:
    pod.signal(signal.SIGSTOP)
    await asyncio.sleep(SECONDS)
    pod.signal(signal.SIGCONT)
    await asyncio.sleep(2)


async def hold_the_interpreter_lock(_group: Group, pod: Pod) -> None:
    """The handler of the second kind of message holds the lock."""
    await pod.wait_for_log("holding")
    await asyncio.sleep(SECONDS + 2)


FAULTS = (
    *(cut_all_connections, cut_a_connection_every_second, pause_writes, reach_maxclients, stop_the_server),
    *(freeze_the_pod, hold_the_interpreter_lock),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_messages_of_a_live_pod_start_once(
    group: Group, new_pod: NewPod, fault: Callable[[Group, Pod], Awaitable[None]]
) -> None:
    count = 100
    await group.add(count, {"seconds": "25"})
    pod = new_pod("pod_handlers:slow_or_holding", concurrency=str(count + 1), batch_count="100").start()
    await pod.wait_for_log("started", times=count)
    peer = Recorder()
    processor = await group.start(peer, "pod-b", concurrency=count)
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    claimer = consumer.claimer
    assert claimer is not None
    await eventually(lambda: claimer._observer.has_seen("pod-a"))
    if fault is hold_the_interpreter_lock:
        await processor.stop_listening()  # the pod reads the message
        await group.add(1, {"holds": str(SECONDS)})
        await pod.wait_for_log("holding")
        await processor.start_listening()
    await fault(group, pod)
    await group.wait_settled(60)
    assert not peer.received
    assert len(pod.find_log("started")) == count
