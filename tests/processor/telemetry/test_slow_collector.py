"""A pod with a slow, restarted or unavailable collector: each recorded span arrives or is counted as dropped."""

import asyncio
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import STREAM, Group
from tests.processor.pod import NewPod, Pod
from tests.processor.proxy import Proxy

SMALL_QUEUE = {
    "OTEL_BSP_MAX_QUEUE_SIZE": "300",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100",
    "OTEL_BSP_SCHEDULE_DELAY": "50",
}
"""Queue limits that the messages of one second exceed."""

SHORT_TIMEOUT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3"}
"""Seconds during which a request is retried."""

RESPONSE_DELAY_SECONDS = 0.7
"""Longer than the pause of reading for a fast collector."""

SHUTDOWN_TIMEOUT_SECONDS = 20
"""3 s for the last spans plus the exit of a process on a busy machine. A grace period is at least 30 s."""

MAX_LOGGED = 100_000
"""Maximum number of commands in the slow log of the server. The test logs each command."""

IN_SCRIPT = b"?:0"
"""Address of the client in the slow log if a script calls the command."""

MAX_GROWTH_MEBIBYTES = 48
"""Bound stated in docs/telemetry.md."""


@dataclass
class Run:
    """A pod, and the accounting of its spans."""

    group: Group
    pod: Pod
    added: int = 0

    async def add(self, count: int) -> None:
        await self.group.add(count)
        self.added += count

    async def wait_until_acknowledged(self, within: float = TIMEOUT_SECONDS) -> None:
        async def done() -> bool:
            [group_info] = await self.group.client.xinfo_groups(STREAM)
            return bool(group_info["lag"] == group_info["pending"] == 0)

        await eventually(done, within)

    async def recorded(self) -> range:
        """Return the possible numbers of recorded spans: one for the start, one per message and one per XACK.

        The XACK of a script, and of an entry that does not exist, has no span. A heartbeat can restore an entry that
        was just acknowledged. The second XACK
        of such an entry has no span.
        """
        logged = await self.group.client.slowlog_get(MAX_LOGGED)
        assert len(logged) < MAX_LOGGED
        commands_sent = [entry["command"] for entry in logged if entry["client_address"] != IN_SCRIPT]
        sent = [each for each in commands_sent if each.startswith(b"XACK") and not each.endswith(b" 0-0")]
        commands = await self.group.command_counts()
        maximum = 1 + self.added + len(sent)
        return range(maximum - commands.get("xclaim", 0), maximum + 1)

    async def dropped(self) -> int:
        """Return the number of dropped spans in /metrics."""
        address = f"http://127.0.0.1:{await self.pod.http_port()}/metrics"
        with await asyncio.to_thread(urlopen, address) as response:
            text = response.read().decode()
        [value] = re.findall(r"^streamconsumer_spans_dropped_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE)
        return int(float(value))

    async def wait_until_accounted_for(self, collector: Collector, before: set[str] | None = None) -> None:
        """Wait until each span has arrived or is counted as dropped. The span of the last XACK comes after the XACK."""

        async def is_complete() -> bool:
            arrived = ids(collector.spans()) | (before or set())
            return len(arrived) + await self.dropped() in await self.recorded()

        await eventually(is_complete)

    async def stop(self) -> None:
        start_seconds = time.monotonic()
        self.pod.signal(signal.SIGTERM)
        assert await self.pod.wait_for_exit(SHUTDOWN_TIMEOUT_SECONDS) == 0
        assert time.monotonic() - start_seconds < SHUTDOWN_TIMEOUT_SECONDS


async def start_run(group: Group, pod: Pod, endpoint: str, **environment: str) -> Run:
    pod.start(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environment}, new_interpreter=True)
    await pod.wait_for_log("processor started")
    await group.client.config_set("slowlog-max-len", MAX_LOGGED)
    await group.client.config_set("slowlog-log-slower-than", 0)
    await group.client.slowlog_reset()
    await group.reset_command_counts()
    return Run(group, pod)


def ids(spans: list[Span]) -> set[str]:
    return {span.span_id for span in spans}


@dataclass
class Loopback:
    port: int
    host: str = "127.0.0.1"


@pytest.fixture
async def slow_collector(collector: Collector) -> AsyncIterator[str]:
    """Endpoint of a collector that accepts spans and responds late."""
    proxy = Proxy(Loopback(collector.http_port))
    proxy.delay_seconds = RESPONSE_DELAY_SECONDS
    async with proxy.running():
        yield f"http://{proxy.address}"


async def test_slow_collector_drops_are_counted(
    group: Group, collector: Collector, slow_collector: str, new_pod: NewPod
) -> None:
    run = await start_run(group, new_pod("pod_handlers:noop", batch_count="100"), slow_collector, **SMALL_QUEUE)
    await run.add(3000)
    await run.wait_until_acknowledged()
    await run.wait_until_accounted_for(collector)
    dropped = await run.dropped()
    assert dropped > 1000, "nothing was dropped, so the test proves nothing"
    await run.add(50)
    await run.wait_until_acknowledged()
    await run.stop()
    recorded = await run.recorded()
    spans = await asyncio.to_thread(collector.wait_for_spans, recorded.start - dropped)
    assert len(spans) == len(ids(spans))
    assert len(spans) + dropped in recorded


@pytest.fixture
def own_collector() -> Iterator[Collector]:
    """Collector that the test may stop."""
    with Collector() as collector:
        yield collector


@pytest.mark.cluster
async def test_each_span_arrives_or_is_counted_while_the_collector_restarts(
    group: Group, own_collector: Collector, new_pod: NewPod
) -> None:
    program = own_collector.program
    run = await start_run(
        group,
        new_pod("pod_handlers:noop", batch_count="100"),
        own_collector.http_endpoint,
        **SMALL_QUEUE,
        **SHORT_TIMEOUT,
    )
    await run.add(200)
    await run.wait_until_acknowledged()
    await run.wait_until_accounted_for(own_collector)  # a request without a response may have arrived or not
    await asyncio.to_thread(program.stop)
    before = ids(own_collector.spans())  # the collector starts with an empty file
    await run.add(1500)
    await run.wait_until_acknowledged()
    program.start()
    await run.add(100)
    await run.wait_until_acknowledged()
    await run.wait_until_accounted_for(own_collector, before)
    after = ids(own_collector.spans())
    await run.stop()
    assert (await run.recorded()).start > len(before) + len(after), "nothing was dropped, so the test proves nothing"
    assert before, "the collector was stopped before any span arrived"
    assert after, "no span arrived after the restart"


ADD_MANY = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'id', '1234567', 'item', ARGV[2]) end"


def peak_mebibytes(pod: Pod) -> float:
    assert pod.process
    status = Path(f"/proc/{pod.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.slow
async def test_memory_is_bounded_when_the_collector_never_responds(group: Group, new_pod: NewPod) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        run = await start_run(group, new_pod("pod_handlers:noop", batch_count="1000"), endpoint)
        await run.add(1000)
        await run.wait_until_acknowledged()
        before = peak_mebibytes(run.pod)
        await group.client.eval(ADD_MANY, 1, STREAM, 200_000, "a" * 60)
        await run.wait_until_acknowledged(60)
        growth = peak_mebibytes(run.pod) - before
        assert await run.dropped() > 100_000
        await run.stop()
    assert growth < MAX_GROWTH_MEBIBYTES
