"""Workload: the memory of a pod with a backlog that is much larger than its bound."""

import time
from dataclasses import dataclass

from benchmarks.contenders.harness import GROUP, STREAM, peak
from benchmarks.pods import Pod
from benchmarks.results import Goal, Section
from benchmarks.runs import connect, fill, reset_server
from streamconsumer.processor.consumer.memory_limit import MAX_READ_BYTES
from streamconsumer.processor.pipeline.ready_queue import MAX_BLOCKED_BYTES
from tests.cluster.redis_servers import RedisServer

ROUNDS = 1
SECONDS = 5
MEBIBYTE = 1024 * 1024
BASE_MEBIBYTES = 64
"""MiB of a pod apart from the entries that it reads."""

HEAD = ["backlog", "batchCount", "concurrency", "handler", "peak MiB", "stated bound MiB"]


@dataclass(frozen=True)
class _Case:
    label: str
    entries: int
    mebibytes: float
    """Size of one entry in MiB."""
    batch: int
    concurrency: int
    handler: str
    ordering_key: str = ""

    @property
    def bound(self) -> float:
        """Stated bound in MiB: buffered entries as bytes and as text, and the socket buffers."""
        if self.ordering_key:
            return BASE_MEBIBYTES + MAX_BLOCKED_BYTES / MEBIBYTE + 2 * MAX_READ_BYTES / MEBIBYTE
        return BASE_MEBIBYTES + 2 * self.mebibytes * (self.batch + self.concurrency)


CASES = (
    _Case("1,000,000 entries of 100 bytes", 1_000_000, 0.0001, 10, 1, "wait_10ms"),
    _Case("1,000,000 entries of 100 bytes", 1_000_000, 0.0001, 1000, 1000, "wait_10ms"),
    _Case("400 entries of 1 MB", 400, 1, 10, 10, "wait_100ms"),
    _Case("400 entries of 1 MB", 400, 1, 100, 1, "wait_100ms"),
    _Case("400 entries of 1 MB with one ordering key", 400, 1, 100, 10, "wait_100ms", ordering_key="customer"),
)


def measure(number: int) -> Section:
    """Run each case for some seconds. The backlog is never processed completely."""
    with RedisServer() as server:
        peaks = [max(_peak(server.url, case) for _ in range(number)) for case in CASES]
        facts = f"Redis {server.version} on loopback; peak resident size of a pod within {SECONDS} s of a backlog."
    rows = [
        [case.label, str(case.batch), str(case.concurrency), case.handler, f"{mebibytes:.0f}", f"{case.bound:.0f}"]
        for case, mebibytes in zip(CASES, peaks, strict=True)
    ]
    goals = [
        Goal(f"{case.label}, batchCount {case.batch}", "under", round(case.bound), mebibytes, 0, "MiB")
        for case, mebibytes in zip(CASES, peaks, strict=True)
    ]
    return Section("memory", facts, HEAD, rows, goals)


def _peak(url: str, case: _Case) -> float:
    settings = {
        "stream": STREAM,
        "consumer_group": GROUP,
        "batch_count": str(case.batch),
        "concurrency": str(case.concurrency),
    }
    if case.ordering_key:
        settings["ordering_key"] = case.ordering_key
    with connect(url) as client:
        reset_server(client)
        if case.mebibytes < 0.1:
            fill(client, case.entries)
        else:
            for _ in range(case.entries):
                client.xadd(STREAM, {"item": b"x" * 1_000_000, "customer": b"one"})
        with Pod(url, case.handler, "one", **settings) as pod:
            pod.wait_until_started()
            time.sleep(SECONDS)
            return peak(pod.process.pid)
