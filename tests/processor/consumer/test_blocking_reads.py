"""How long reads block, how a long read ends early, and how a server that ignores BLOCK is detected."""

import asyncio
import logging
import socket
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor import RedisStreamProcessor, Retry
from streamconsumer.processor.consumer import liveness
from streamconsumer.processor.consumer.blocking_reads import (
    MAX_EARLY_READS,
    MAX_LIMITED_READS,
    BlockDuration,
    BlockingReads,
)
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.proxy import Proxy, ServerAddress
from tests.processor.recorder import Recorder, fail_first_delivery

ENTRIES = [["orders", []]]


def consumer_of(processor: RedisStreamProcessor) -> RedisConsumer:
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    return consumer


def reads_of(processor: RedisStreamProcessor) -> BlockingReads:
    return consumer_of(processor).blocking_reads


async def start_long_read(group: Group, handler: Any, name: str = "pod-a", **arguments: Any) -> RedisStreamProcessor:
    """Start a processor whose first read blocks for a minute."""
    settings = {"concurrency": arguments.pop("concurrency", 1)}
    processor = group.processor(handler, name, settings=settings, **arguments)
    await processor.start_listening()
    reads = reads_of(processor)
    reads.duration.seconds = 60.0
    await consumer_of(processor).interrupt_read()  # the present read is short
    reads.duration.seconds = 60.0
    await eventually(lambda: reads._is_waiting)
    return processor


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged problems, without the warning about persistence."""
    return [each.message for each in caplog.records if each.levelno > logging.INFO and "to disk" not in each.message]


# -- durations ---------------------------------------------------------------------------------------------------------


def test_reads_of_an_idle_consumer_block_for_up_to_a_minute() -> None:
    duration = BlockDuration(timedelta(seconds=5))
    durations = []
    for _ in range(6):
        durations.append(duration.seconds)
        assert not duration.record(None, duration.seconds)
    assert durations == [5, 10, 20, 40, 60, 60]
    assert duration.is_long


def test_a_received_entry_makes_the_next_read_short() -> None:
    duration = BlockDuration(timedelta(seconds=5))
    duration.record(None, 5)
    assert not duration.record(ENTRIES, 1)
    assert duration.seconds == 5
    assert not duration.is_long


def test_a_long_poll_interval_does_not_make_the_first_read_long() -> None:
    assert BlockDuration(timedelta(seconds=60)).seconds == 5
    assert BlockDuration(timedelta(seconds=0.5)).seconds == 0.5


def test_a_read_that_another_consumer_ended_is_early_but_does_not_count_as_ignored_block() -> None:
    duration = BlockDuration(timedelta(seconds=5))
    for _ in range(MAX_EARLY_READS):
        duration.record(None, 5)
        assert duration.record(None, 8)
    assert duration.is_supported


def test_ten_immediate_empty_reads_show_that_block_is_ignored() -> None:
    duration = BlockDuration(timedelta(seconds=5))
    for number in range(MAX_EARLY_READS):
        assert duration.is_supported
        assert duration.record(None, 0.01) == (number < MAX_EARLY_READS - 1)
    assert not duration.is_supported
    duration.record(ENTRIES, 0.01)
    assert duration.is_supported


def test_reads_are_shorter_than_a_read_that_a_proxy_cut() -> None:
    duration = BlockDuration(timedelta(seconds=5))
    while duration.seconds < 40:
        duration.record(None, duration.seconds)
    duration.on_lost(30)
    for _ in range(10):
        assert duration.seconds <= 20
        duration.record(None, duration.seconds)
    assert duration.seconds == 20


def test_a_cut_after_less_time_than_a_read_survived_is_no_cut_by_a_proxy() -> None:
    duration = BlockDuration(timedelta(seconds=5))
    for _ in range(5):
        duration.record(None, duration.seconds)
    duration.on_lost(30)
    assert duration.seconds == 5
    for _ in range(5):
        duration.record(None, duration.seconds)
    assert duration.seconds == 60


def test_reads_are_clearly_shorter_than_a_cut_although_a_read_survived_almost_as_long() -> None:
    duration = BlockDuration(timedelta(seconds=5))
    for elapsed in (5, 10):
        duration.record(None, elapsed)
    duration.record(ENTRIES, 14.9)
    duration.on_lost(15)
    for _ in range(5):
        duration.record(None, duration.seconds)
    assert duration.seconds == 13.5


def test_reads_become_long_again_after_a_single_cut() -> None:
    """An administrator may have restarted the server while the first reads were running."""
    duration = BlockDuration(timedelta(seconds=5))
    duration.record(None, 5)
    duration.on_lost(7)
    for _ in range(MAX_LIMITED_READS - 1):
        duration.record(None, duration.seconds)
    assert duration.seconds == 5
    for _ in range(5):
        duration.record(None, duration.seconds)
    assert duration.seconds == 60


# -- reads -------------------------------------------------------------------------------------------------------------


async def test_an_idle_consumer_sends_ever_fewer_reads_and_still_gets_new_entries_immediately(group: Group) -> None:
    handler = Recorder()
    processor = await group.start(handler, poll=0.1)
    await eventually(lambda: reads_of(processor).duration.seconds >= 1.6)
    assert processor.metrics.reads < 15
    await group.add(1)
    await handler.wait_until_finished(1)
    await eventually(lambda: reads_of(processor).duration.seconds < 1.6)


LOSSES: dict[str, tuple[Any, ...]] = {
    "XGROUP DESTROY": ("XGROUP", "DESTROY", STREAM, GROUP),
    "DEL": ("DEL", STREAM),
    "FLUSHALL": ("FLUSHALL",),
    "RENAME": ("RENAME", STREAM, "elsewhere"),
    "SWAPDB": ("SWAPDB", 0, 1),
}


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("is_used", [False, True], ids=["unused", "used"])
async def test_all_consumers_recover_from_the_loss_of_the_group_during_long_reads(
    any_group: Group, loss: str, is_used: bool
) -> None:
    """Redis 6.2 does not end the blocked reads. The consumer whose turn it is to check detects the loss."""
    pods = 6
    handlers = [Recorder(gate=False) for _ in range(pods)]
    processors = [
        await start_long_read(any_group, each, f"pod-{number}", batch=1) for number, each in enumerate(handlers)
    ]
    if is_used:
        await any_group.add(1)
        await eventually(lambda: any(handler.received for handler in handlers))
        for handler in handlers:
            handler.gate.set()
        await any_group.wait_settled()
        for handler in handlers:
            handler.gate.clear()
            handler.received.clear()
    await any_group.client.execute_command(*LOSSES[loss])  # type: ignore[no-untyped-call] # ships no types
    await eventually(any_group.group_exists)
    await any_group.add(5 * pods)
    await eventually(lambda: all(handler.received for handler in handlers))
    for handler in handlers:
        handler.gate.set()
    await any_group.wait_settled()
    assert sum(processor.metrics.redis_errors for processor in processors) == 0


async def test_group_is_recreated_without_permission_to_end_reads(any_group: Group) -> None:
    user = ("ACL", "SETUSER", "shop", "on", ">pw", "~*", "+@all", "-client")
    await any_group.client.execute_command(*user)  # type: ignore[no-untyped-call] # ships no types
    any_group.url = f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0"
    handler = Recorder()
    processor = await any_group.start(handler)
    await any_group.wait_until_reading()
    reads_of(processor).duration.seconds = 60.0
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await eventually(any_group.group_exists)
    await any_group.add(1)
    await handler.wait_until_finished(1)
    assert processor.metrics.redis_errors == 0


class HoldingProxy(Proxy):
    """Proxy that delivers no reply with entries of the stream after `holds` was set."""

    holds = False

    async def _forward_replies(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if self.holds and STREAM.encode() in data:
                    self.holds = False
                    await source.read()  # until the connection ends
                    break
                target.write(data)
        target.close()


@pytest.mark.parametrize("forbidden", ["-client|unblock", "-client|id"])
async def test_entry_that_is_delivered_while_a_pod_stops_is_released(group: Group, forbidden: str) -> None:
    """The connection of the read is dropped, because CLIENT UNBLOCK is not available."""
    user = ("ACL", "SETUSER", "shop", "on", ">pw", "~*", "+@all", forbidden)
    await group.client.execute_command(*user)  # type: ignore[no-untyped-call] # ships no types
    proxy = HoldingProxy(group.server)
    async with proxy.running():
        url = f"redis://shop:pw@{proxy.address}/0"
        processor = await group.start(Recorder(), manager=group.manager(url))
        await group.wait_until_reading()
        proxy.holds = True
        await group.add(1)
        await eventually(group.pending)
        began = time.monotonic()
        await processor.stop_listening()
        assert time.monotonic() - began < 1
        peer = Recorder()
        await group.start(peer, "pod-b")
        await peer.wait_until_finished(1)
        assert time.monotonic() - began < 15, "not only after min_idle"
        await group.close()


class IdleTimeoutProxy(Proxy):
    """Proxy that cuts a connection on which no data has flown for `seconds`, as load balancers do."""

    def __init__(self, server: ServerAddress, seconds: float) -> None:
        super().__init__(server)
        self._seconds = seconds

    async def _forward_replies(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                async with asyncio.timeout(self._seconds):
                    data = await source.read(1 << 16)
                if not data:
                    break
                target.write(data)
        self.cuts += 1
        target.close()


async def test_reads_through_a_proxy_that_cuts_idle_connections_become_shorter(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with IdleTimeoutProxy(group.server, 1.5).running() as proxy:
        handler = Recorder()
        processor = await group.start(handler, poll=0.2, manager=group.manager(proxy.url))
        await eventually(lambda: "connection was lost while waiting" in caplog.text)
        await asyncio.sleep(5)  # several reads
        assert caplog.text.count("connection was lost while waiting") == 1
        assert processor.metrics.redis_errors == 0
        assert not problems(caplog)
        await group.add(1)
        await handler.wait_until_finished(1)
        await group.close()


class HalfOpenProxy(Proxy):
    """Proxy that hides the loss of a connection from the server, as a network that drops packets does."""

    def __init__(self, server: ServerAddress) -> None:
        super().__init__(server)
        self._clients: set[asyncio.StreamWriter] = set()

    async def _forward_requests(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)

    async def _forward_replies(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        self._clients.add(target)
        await super()._forward_replies(source, target)

    def cut_clients(self) -> None:
        """Cut the connections of the clients. The server keeps its connections."""
        for writer in self._clients:
            writer.transport.abort()
        self._clients.clear()


async def test_entries_are_not_delivered_to_a_lost_connection(any_group: Group) -> None:
    """The server still has the read of the lost connection. Entries of that read would stay pending until min_idle."""
    proxy = HalfOpenProxy(any_group.server)
    async with proxy.running():
        handler = Recorder()
        processor = await start_long_read(any_group, handler, manager=any_group.manager(proxy.url))
        lost = consumer_of(processor).registration.identities["reader"]

        async def reads_again() -> bool:
            reader = consumer_of(processor).registration.identities["reader"]
            clients = await any_group.client.client_list()
            blocked = {client["id"] for client in clients if "b" in client["flags"]}
            return reader is not None and reader != lost and str(reader.client_id) in blocked

        await any_group.wait_until_reading()
        proxy.cut_clients()
        await eventually(reads_again)
        await any_group.add(1)
        await handler.wait_until_finished(1)
        await any_group.close()


async def test_entries_of_a_lost_reply_end_a_long_read(group: Group) -> None:
    """The connection to the proxy is alive, so that keepalive detects nothing."""
    proxy = HoldingProxy(group.server)
    async with proxy.running():
        handler = Recorder()
        await start_long_read(group, handler, manager=group.manager(proxy.url))
        await group.wait_until_reading()
        proxy.holds = True
        await group.add(1)
        await handler.wait_until_finished(1)
        await group.close()


@pytest.mark.parametrize("stops", [False, True], ids=["reads", "stops"])
async def test_pod_does_not_crash_a_server_that_delays_writes(any_group: Group, stops: bool) -> None:
    """CLIENT UNBLOCK for a delayed read crashes Redis 6.2 and 7.0."""
    handler = Recorder()
    processor = await any_group.start(handler, poll=0.5)
    await any_group.wait_until_reading()
    await any_group.client.execute_command("CLIENT", "PAUSE", 4000, "WRITE")  # type: ignore[no-untyped-call] # ships no types
    await asyncio.sleep(3)  # the delayed read is overdue
    if stops:
        await processor.stop_listening()
        handler = Recorder()
        await any_group.start(handler, "pod-b")
    await any_group.add(1)
    await handler.wait_until_finished(1)
    assert any_group.server.is_running


class RewritingProxy(Proxy):
    """Proxy that replaces bytes in requests."""

    def __init__(self, server: ServerAddress, old: bytes, new: bytes) -> None:
        super().__init__(server)
        self._old, self._new = old, new

    async def _forward_requests(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data.replace(self._old, self._new))
        target.transport.abort()


async def test_read_that_the_server_does_not_end_is_ended(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    """Redis 7.2.0 to 7.2.4 start the BLOCK duration again whenever another consumer receives the entry."""
    rewriting = RewritingProxy(group.server, b"BLOCK\r\n$3\r\n500\r\n", b"BLOCK\r\n$5\r\n99999\r\n")
    async with rewriting.running() as proxy:
        processor = await group.start(Recorder(), poll=0.5, manager=group.manager(proxy.url))
        await eventually(lambda: reads_of(processor).duration.is_long)
        assert not problems(caplog)
        await group.close()


async def test_processor_polls_if_the_server_ignores_block(group: Group) -> None:
    handler = Recorder()
    async with RewritingProxy(group.server, b"BLOCK\r\n$3\r\n500\r\n", b"BLOCK\r\n$1\r\n1\r\n").running() as proxy:
        processor = await group.start(handler, poll=0.5, manager=group.manager(proxy.url))
        await eventually(lambda: not processor._pipeline.consumer.is_blocking)
        reads = processor.metrics.reads
        await asyncio.sleep(2)
        assert processor.metrics.reads - reads <= 6
        await group.add(3)
        await handler.wait_until_finished(3)


async def test_pause_grows_if_the_server_refuses_block(group: Group) -> None:
    """Reads of own pending entries still succeed, because these reads do not block."""
    async with RewritingProxy(group.server, b"BLOCK\r\n", b"BLOCX\r\n").running() as proxy:
        processor = await group.start(Recorder(), poll=0.5, manager=group.manager(proxy.url))
        await eventually(lambda: processor._reconnect_backoff.consecutive_failures >= 5)
        assert "syntax error" in processor.health.readiness()[1].lower()


async def test_busy_consumer_does_not_receive_entries_by_a_long_read(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry has taken the only slot while the read was blocked."""
    handler, peer = Recorder(fail_first_delivery(Retry("later", after=timedelta(seconds=1)))), Recorder()
    processor = await group.start(handler)
    monkeypatch.setattr(processor._pipeline.prefetch, "limit", lambda: 0)  # as if the handler were slow
    await group.wait_until_reading()
    await group.add(1)
    await handler.wait_until_received(1)
    await group.wait_until_reading()
    reads_of(processor).duration.seconds = 60.0
    handler.gate.clear()
    await handler.wait_until_received(2)
    await eventually(lambda: not reads_of(processor)._is_waiting)
    [beyond] = await group.add(1)
    await group.start(peer, "pod-b")
    await peer.wait_until_finished(1)
    assert peer.ids == [beyond]
    handler.gate.set()


async def test_postponed_retry_starts_on_time_during_a_long_read(group: Group) -> None:
    handler = Recorder(fail_first_delivery(Retry("later", after=timedelta(seconds=4))))
    processor = await start_long_read(group, handler)
    await group.add(1)
    await handler.wait_until_received(1)
    began = time.monotonic()
    await eventually(lambda: not processor._pipeline.in_flight.ids())  # the retry waits in Redis
    reads_of(processor).duration.seconds = 60.0
    await consumer_of(processor).interrupt_read()
    reads_of(processor).duration.seconds = 60.0
    await handler.wait_until_finished(1)
    assert 2 < time.monotonic() - began < 10


async def test_released_entry_ends_the_long_read_of_another_consumer(group: Group) -> None:
    handler, peer = Recorder(gate=False), Recorder()
    stopping = await group.start(handler)
    ids = await group.add(3)
    await handler.wait_until_received(1)
    await start_long_read(group, peer, "pod-b")
    stopping.force_stop()
    await stopping.stop_listening()
    await peer.wait_until_finished(2)
    assert set(peer.ids) <= set(ids)


async def test_a_server_that_stops_responding_ends_a_long_read_early(group: Group) -> None:
    """The timeout of the read alone would notice the outage only after the BLOCK duration."""
    processor = await start_long_read(group, Recorder())
    began = time.monotonic()
    group.server.pause()
    await eventually(lambda: processor.metrics.redis_errors, within=40)
    assert time.monotonic() - began < 20
    assert not processor.health.readiness()[0]
    group.server.resume()
    await eventually(lambda: processor.health.readiness()[0])


async def test_the_operating_system_watches_the_connection_of_a_read(group: Group) -> None:
    processor = await group.start(Recorder())
    await group.wait_until_reading()
    connection = consumer_of(processor)._reader._connection
    assert connection is not None
    tcp = connection._transport.get_extra_info("socket")
    assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 4
    assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000, "for a request that was dropped"


@pytest.mark.slow
async def test_group_that_has_been_idle_for_long_is_checked_as_rarely_as_before(group: Group) -> None:
    """Each consumer knows the announcements of the others, so that it runs only its own share of the checks."""
    pods = 4
    for number in range(pods):
        await group.start(Recorder(), f"pod-{number}")
    await asyncio.sleep(liveness.ABSENT_AFTER.total_seconds() + 10)
    await group.reset_command_counts()
    seconds = 30
    await asyncio.sleep(seconds)
    commands = await group.command_counts()
    expected = seconds / liveness.CHECK_INTERVAL.total_seconds()
    assert expected * 0.7 <= commands["xinfo"] <= expected * 1.2
    assert commands.get("xreadgroup", 0) <= pods * (1 + seconds / 20)
