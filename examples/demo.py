"""The demo that `make demo` runs: publishes orders, handles them in two local pods, and retries the orders that fail.

Needs no Docker and no cluster: `streamconsumer dev` runs in this process with an embedded Valkey, and the producer runs
in another process. Exits when all orders are handled, or 45 s after the first one. The exit code is 1 if an order is
lost or stuck.
"""

import argparse
import asyncio
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamconsumer.cli.dev.log_lines import LogLine
from streamconsumer.cli.dev.session import OTLP_ENDPOINT_VARIABLE, Session, start_session
from streamconsumer.cli.dev.terminal import Terminal
from streamconsumer.cli.dev.trace_trees import MESSAGE_ID, Span, sort_spans
from streamconsumer.cli.dev.workload import load_workloads

ORDERS = Path(__file__).parent / "orders"
STREAM = "orders"
RATE, PODS = 120, 2
DEADLINE_SECONDS = 45


class DemoTerminal(Terminal):
    """Terminal output of the demo. Shows one failure and the trace of its retry; keeps all spans for the summary."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.producer_spans: list[Span] = []
        self.attempts: dict[str, list[Span]] = defaultdict(list)
        """Spans of the handler by message ID."""

        self.pods_started = asyncio.Event()
        """Set when all pods read the stream."""

        self.totals: Counter[str] = Counter()
        """Sum of the counters that the pods log when they stop."""

        self._starting_pods = PODS
        self._failed_id = ""
        self._trace_shown = False

    def print_log_line(self, pod: str, line: LogLine, folders: Sequence[Path]) -> None:
        if line.message == "processor started":
            self._starting_pods -= 1
            if not self._starting_pods:
                self.pods_started.set()
        if line.message == "processor stopped":
            self.totals.update({name: count for name, count in line.fields.items() if isinstance(count, int)})
        if line.level in ("", "INFO"):
            return
        if line.fields.get("message_id") and not self._failed_id:
            self._failed_id = str(line.fields["message_id"])
        if line.fields.get("message_id", self._failed_id) == self._failed_id:
            super().print_log_line(pod, line, folders)

    def add_spans(self, spans: Iterable[Span], now: float) -> None:  # noqa: ARG002 - the demo delays no trace
        for span in spans:
            if message_id := span.attributes.get(MESSAGE_ID):
                self.attempts[message_id].append(span)
            else:
                self.producer_spans.append(span)
        self._print_retry()

    def tick(self, now: float) -> None:
        """Do nothing: the demo shows only one trace."""

    def _print_retry(self) -> None:
        attempts = self.attempts.get(self._failed_id, [])
        if self._trace_shown or not attempts or sort_spans(attempts)[-1].is_failed:
            return
        sends = [span for span in self.producer_spans if span.trace_id == attempts[0].trace_id]
        if sends:
            self._trace_shown = True
            self.print_message("\nthe trace of that order:", "bold")
            self.print_trace([*sends, *attempts])
            self.print_message("")


@dataclass(frozen=True)
class Backlog:
    """State of the stream and its group in Redis. A number is None if Redis does not know it."""

    length: int
    acknowledged: int = 0
    pending: int | None = None
    lag: int | None = None

    @property
    def is_empty(self) -> bool:
        return self.pending == 0 and self.lag == 0


@dataclass(frozen=True)
class Result:
    """Outcome of the demo, for the table and the exit code."""

    orders: int
    """Number of orders to publish."""

    published: int
    backlog: Backlog
    totals: Counter[str]
    """Sum of the counters of all pods."""

    attempts: list[list[Span]]
    """Spans of the handler, sorted by time, for each message."""

    @property
    def is_complete(self) -> bool:
        """True if all orders were published and acknowledged, and the group has no backlog."""
        return self.orders == self.published == self.totals["acknowledged"] and self.backlog.is_empty

    @property
    def success_counts(self) -> list[int]:
        """Number of successful attempts of each message. More than 1 is a duplicate."""
        return [sum(not span.is_failed for span in spans) for spans in self.attempts]

    @property
    def first_successes(self) -> list[Span]:
        """Spans of the messages that needed no second attempt."""
        return [spans[0] for spans in self.attempts if not spans[0].is_failed]

    def latencies_ms(self) -> list[float]:
        """Milliseconds from XADD to the end of the handler, sorted."""
        return sorted(span.end_ns / 1e6 - _added_ms(span) for span in self.first_successes)

    def throughput(self) -> float:
        """Messages per second from the first XADD to the end of the last handler, without retried messages."""
        begin, end = min(map(_added_ms, self.first_successes)), max(span.end_ns / 1e6 for span in self.first_successes)
        return 1000 * len(self.first_successes) / (end - begin)

    def retry_delays(self) -> list[float]:
        return sorted((b.start_ns - a.end_ns) / 1e9 for spans in self.attempts for a, b in pairwise(spans))

    def rows(self) -> Iterator[tuple[str, str]]:
        latencies, retries = self.latencies_ms(), self.retry_delays()
        yield "published", str(self.published)
        yield "handled", f"{sum(count > 0 for count in self.success_counts)} in {PODS} pods"
        yield "acknowledged", str(self.totals["acknowledged"])
        yield (
            "failed and retried",
            f"{self.totals['failed']}" + (f", after {retries[0]:.1f} to {retries[-1]:.1f} s" if retries else ""),
        )
        yield "handled twice", str(sum(count > 1 for count in self.success_counts))
        yield "pending", str(self.backlog.pending)
        yield "lag", str(self.backlog.lag)
        if latencies:
            yield "throughput", f"{self.throughput():.0f}/s (published at {RATE}/s)"
            yield (
                "XADD → handled",
                f"p50 {_quantile(latencies, 50):.1f} ms, p99 {_quantile(latencies, 99):.1f} ms",
            )


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish orders, handle them and count the outcomes.")
    parser.add_argument("--count", type=int, default=600, help="number of orders")
    arguments = parser.parse_args()
    begin = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    result = asyncio.run(_demo(console, arguments.count))
    table = Table(show_header=False, title="orders", title_justify="left", title_style="bold")
    for row in result.rows():
        table.add_row(*row)
    console.print(table)
    conclusion = (
        ("nothing lost, nothing stuck", "bold green") if result.is_complete else ("LOST OR STUCK", "bold white on red")
    )
    console.print(Text.assemble(conclusion, f", {time.monotonic() - begin:.0f} s"))
    return 0 if result.is_complete else 1


async def _demo(console: Console, count: int) -> Result:
    terminal = DemoTerminal(console)
    terminal.print_message(
        f"publishing {count} orders at {RATE}/s for the StreamConsumer in examples/orders/consumer.yaml", "bold"
    )
    workloads = load_workloads([ORDERS / "consumer.yaml"])
    workloads[0].deployment["spec"]["replicas"] = PODS
    async with start_session(workloads, terminal) as session:
        await terminal.pods_started.wait()
        producer = await _start_producer(session, count)
        try:
            backlog = await _wait_for_orders(session, producer, terminal)
        finally:
            if producer.returncode is None:
                producer.terminate()
        published = backlog.length if await producer.wait() == 0 else 0
    return Result(
        count, published, backlog, terminal.totals, [sort_spans(spans) for spans in terminal.attempts.values()]
    )


async def _start_producer(session: Session, count: int) -> asyncio.subprocess.Process:
    arguments = ("--url", session.redis_url, "--count", str(count), "--rate", str(RATE))
    # The receiver of the spans is on loopback, where a proxy of the shell cannot reach it.
    environment = {**os.environ, OTLP_ENDPOINT_VARIABLE: session.endpoint, "NO_PROXY": "*", "no_proxy": "*"}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(ORDERS / "publish.py"), *arguments), env=environment
    )


async def _wait_for_orders(session: Session, producer: asyncio.subprocess.Process, terminal: DemoTerminal) -> Backlog:
    """Print the progress every second until the group has no backlog or the deadline has passed."""
    acknowledged, begin = 0, time.monotonic()
    async with Redis.from_url(session.redis_url) as redis:
        while True:
            await asyncio.sleep(1)
            backlog = await _backlog(redis)
            seconds, rate = time.monotonic() - begin, backlog.acknowledged - acknowledged
            terminal.print_message(
                f"{seconds:3.0f} s  {backlog.length:4} published  {backlog.acknowledged:4} acknowledged"
                f"  {rate:4}/s  lag {backlog.lag}, pending {backlog.pending}",
                "dim",
            )
            if (producer.returncode is not None and backlog.is_empty) or seconds > DEADLINE_SECONDS:
                return backlog
            acknowledged = backlog.acknowledged


async def _backlog(redis: Redis) -> Backlog:
    length = await redis.xlen(STREAM)
    [group] = await redis.xinfo_groups(STREAM)
    read, pending = group["entries-read"] or 0, group["pending"]
    return Backlog(length, read - pending, pending, group["lag"])


def _added_ms(span: Span) -> int:
    """Return the time of XADD. Redis stores it in the entry ID."""
    return int(str(span.attributes[MESSAGE_ID]).partition("-")[0])


def _quantile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
