"""A collector that is slow, restarted or away, and a pod: what was recorded arrived or is counted as dropped."""

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
from tests.processor.eventually import PATIENCE_SECONDS, eventually
from tests.processor.group import STREAM, Group
from tests.processor.pod import NewPod, Pod
from tests.processor.proxy import Proxy

SMALL = {"OTEL_BSP_MAX_QUEUE_SIZE": "300", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100", "OTEL_BSP_SCHEDULE_DELAY": "50"}
"""A queue that a second's messages overflow."""

IMPATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3"}
"""Seconds in which a request is tried again."""

ANSWERS_AFTER_SECONDS = 0.7
"""Longer than a pod waits for a collector."""

ENDS_WITHIN_SECONDS = 20
"""3 s for the last spans, and the way out of a process on a busy machine; a grace period is 30 s at the least."""

MOST_MORE_MEBIBYTES = 48
"""What docs/telemetry.md states."""


@dataclass
class Run:
    """A pod and what its spans came to."""

    group: Group
    pod: Pod
    added: int = 0

    async def add(self, count: int) -> None:
        await self.group.add(count)
        self.added += count

    async def all_acknowledged(self, within: float = PATIENCE_SECONDS) -> None:
        async def done() -> bool:
            [found] = await self.group.client.xinfo_groups(STREAM)
            return bool(found["lag"] == found["pending"] == 0)

        await eventually(done, within)

    async def recorded(self) -> range:
        """One span for the pod's start, one a message, and one for each XACK; but none where a sign of life has put
        back what was acknowledged meanwhile, and it is acknowledged again."""
        commands = await self.group.commands()
        most = 1 + self.added + commands["xack"]
        return range(most - commands.get("xclaim", 0), most + 1)

    async def dropped(self) -> int:
        """What Prometheus would see."""
        address = f"http://127.0.0.1:{await self.pod.port()}/metrics"
        with await asyncio.to_thread(urlopen, address) as answer:
            told = answer.read().decode()
        [found] = re.findall(r"^streamconsumer_spans_dropped_total\{.*\} ([0-9.e+]+)$", told, re.MULTILINE)
        return int(float(found))

    async def accounted_for(self, collector: Collector, before: set[str] | None = None) -> None:
        """Wait until each span has arrived or is counted: the last acknowledgement's comes after it."""

        async def all_of_them() -> bool:
            arrived = ids(collector.spans()) | (before or set())
            return len(arrived) + await self.dropped() in await self.recorded()

        await eventually(all_of_them)

    async def ends(self) -> None:
        began = time.monotonic()
        self.pod.signal(signal.SIGTERM)
        assert await self.pod.ended(ENDS_WITHIN_SECONDS) == 0
        assert time.monotonic() - began < ENDS_WITHIN_SECONDS


async def started(group: Group, pod: Pod, endpoint: str, **environment: str) -> Run:
    pod.start(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environment})
    await pod.says("processor started")
    await group.forget_commands()
    return Run(group, pod)


def ids(spans: list[Span]) -> set[str]:
    return {span.span_id for span in spans}


@dataclass
class Loopback:
    port: int
    host: str = "127.0.0.1"


@pytest.fixture
async def slow_collector(collector: Collector) -> AsyncIterator[str]:
    """The endpoint of one that takes what it is sent, and says so late."""
    proxy = Proxy(Loopback(collector.http_port))
    proxy.delay_seconds = ANSWERS_AFTER_SECONDS
    async with proxy.running():
        yield f"http://{proxy.address}"


async def test_of_what_a_slow_collector_has_no_time_for_each_span_is_counted(
    group: Group, collector: Collector, slow_collector: str, new_pod: NewPod
) -> None:
    run = await started(group, new_pod("pod_handlers:silent", batch_count="100"), slow_collector, **SMALL)
    await run.add(3000)
    await run.all_acknowledged()
    await run.accounted_for(collector)
    dropped = await run.dropped()
    assert dropped > 1000, "there was nothing to drop: the test shows nothing"
    await run.add(50)
    await run.all_acknowledged()
    await run.ends()
    recorded = await run.recorded()
    spans = await asyncio.to_thread(collector.wait_for_spans, recorded.start - dropped)
    assert len(spans) == len(ids(spans))
    assert len(spans) + dropped in recorded


@pytest.fixture
def own_collector() -> Iterator[Collector]:
    """One that nobody else misses."""
    with Collector() as started:
        yield started


@pytest.mark.cluster
async def test_while_a_collector_is_restarted_each_span_arrives_or_is_counted(
    group: Group, own_collector: Collector, new_pod: NewPod
) -> None:
    program = own_collector.program
    run = await started(
        group, new_pod("pod_handlers:silent", batch_count="100"), own_collector.http_endpoint, **SMALL, **IMPATIENT
    )
    await run.add(200)
    await run.all_acknowledged()
    await run.accounted_for(own_collector)  # a request that loses its answer may have arrived or not
    await asyncio.to_thread(program.stop)
    before = ids(own_collector.spans())  # it begins with an empty file
    await run.add(1500)
    await run.all_acknowledged()
    program.start()
    await run.add(100)
    await run.all_acknowledged()
    await run.accounted_for(own_collector, before)
    after = ids(own_collector.spans())
    await run.ends()
    assert (await run.recorded()).start > len(before) + len(after), "nothing was dropped: the test shows nothing"
    assert before, "it was stopped before anything arrived"
    assert after, "nothing arrived after it was back"


FILL = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'id', '1234567', 'item', ARGV[2]) end"


def peak_mebibytes(pod: Pod) -> float:
    assert pod.process
    status = Path(f"/proc/{pod.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.slow
async def test_a_collector_that_never_answers_costs_no_more_memory_than_is_stated(
    group: Group, new_pod: NewPod
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        run = await started(group, new_pod("pod_handlers:silent", batch_count="1000"), endpoint)
        await run.add(1000)
        await run.all_acknowledged()
        before = peak_mebibytes(run.pod)
        await group.client.eval(FILL, 1, STREAM, 200_000, "a" * 60)
        await run.all_acknowledged(60)
        grown = peak_mebibytes(run.pod) - before
        assert await run.dropped() > 100_000
        await run.ends()
    assert grown < MOST_MORE_MEBIBYTES
