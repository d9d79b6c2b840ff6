"""Export queue: bounds, drop counts, requests, and its behaviour with slow collectors."""

import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry import SpanRecorder, otlp_sdk
from streamconsumer.processor.telemetry.exception_logs import ExceptionLogs
from streamconsumer.processor.telemetry.export_queue import (
    HEALTHY_EXPORT_SECONDS,
    MAX_QUEUE_BYTES,
    MAX_REQUEST_BYTES,
    ExportQueue,
)
from streamconsumer.processor.telemetry.spans import RecordedSpan
from tests.processor.group import GROUP, STREAM


def test_spans_are_sent_or_counted_as_dropped_when_the_queue_is_full() -> None:
    batch_sizes: list[int] = []

    def send(spans: Any) -> bool:
        batch_sizes.append(len(spans))
        return len(batch_sizes) % 2 == 1  # every second request fails

    queue = ExportQueue(send, max_size=100, batch_size=10, delay_seconds=3600)
    for _ in range(1000):
        queue.put(b"span")
        assert len(queue._queued) <= 100
    assert queue.close(5)
    assert queue.sent + queue.dropped == 1000
    assert queue.sent == sum(batch_sizes[::2])
    queue.put(b"late")
    assert queue.dropped == 1001 - queue.sent


def test_dropped_spans_are_published_while_the_queue_is_never_empty() -> None:
    """The queue of a busy pod is never empty, and an outage of the collector must be visible all the same."""
    metrics, released = Metrics(), threading.Event()
    queue = ExportQueue(
        lambda _: not released.wait(60), max_size=100, batch_size=100, delay_seconds=3600, metrics=metrics
    )
    for _ in range(1000):
        queue.put(b"span")
    assert metrics.spans_dropped == 900
    released.set()
    assert queue.close(5)
    assert metrics.spans_dropped == queue.dropped == 1000


def test_queue_is_bounded_by_bytes() -> None:
    released, span = threading.Event(), b"x" * (1 << 20)
    queue = ExportQueue(lambda _: released.wait(60), delay_seconds=3600)
    for _ in range(100):
        queue.put(span)
    assert queue.dropped == 100 - MAX_QUEUE_BYTES // len(span)
    released.set()
    assert queue.flush(5)
    queue.put(span)
    assert queue.close(5)
    assert queue.sent == MAX_QUEUE_BYTES // len(span) + 1


def test_request_is_bounded_by_bytes_and_a_larger_span_is_sent_alone() -> None:
    sizes, requests = [100, 3 << 20, 2 << 20, 5 << 20, 100, 100], []

    def send(spans: Sequence[bytes]) -> bool:
        requests.append([len(span) for span in spans])
        return True

    queue = ExportQueue(send, delay_seconds=3600)
    with queue._lock:  # so that all spans are queued before the first request
        for size in sizes:
            queue.put(b"x" * size)
    assert queue.close(5)
    assert [size for request in requests for size in request] == sizes
    assert all(sum(request) <= MAX_REQUEST_BYTES or len(request) == 1 for request in requests)
    assert [5 << 20] in requests
    assert (queue.sent, queue.dropped) == (len(sizes), 0)


def test_large_spans_are_sent_before_the_batch_size_is_reached() -> None:
    """Otherwise the queue's 32 MiB would be full within a second although the collector is idle."""
    was_sent = threading.Event()

    def send(_: Sequence[bytes]) -> bool:
        was_sent.set()
        return True

    queue = ExportQueue(send, delay_seconds=3600)
    for _ in range(4):
        queue.put(b"x" * (1 << 20))
    assert was_sent.wait(5)
    assert queue.close(5)


class LimitedCollector(ThreadingHTTPServer):
    """Collector that rejects requests beyond its limit, as OpenTelemetry's collector does."""

    daemon_threads = True
    limit = 1000

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LimitedHandler)
        self.request_sizes: list[int] = []
        self.authorizations: list[str | None] = []


class LimitedHandler(BaseHTTPRequestHandler):
    server: LimitedCollector

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.rfile.read(size)
        self.server.request_sizes.append(size)
        self.server.authorizations.append(self.headers["Authorization"])
        self.send_response(413 if size > self.server.limit else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def limited_collector() -> Iterator[LimitedCollector]:
    with LimitedCollector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_span_too_large_for_the_collector_is_dropped_once_and_counted(
    limited_collector: LimitedCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{limited_collector.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    provider, metrics = TracerProvider(shutdown_on_exit=False), Metrics()
    queue = otlp_sdk.span_queue({"OTEL_BSP_SCHEDULE_DELAY": "3600000"}, provider, metrics)
    for value in (b"", b"x" * 2000, b""):
        queue.put(span_with_attribute(value))
        assert queue.flush(5)
    assert [size > limited_collector.limit for size in limited_collector.request_sizes] == [False, True, False]
    assert (queue.sent, queue.dropped, metrics.spans_dropped) == (2, 1, 1)
    assert queue.close(5)


def test_headers_from_the_environment_are_sent_to_the_collector(
    limited_collector: LimitedCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{limited_collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20hunter2")
    queue = otlp_sdk.span_queue(
        {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}, TracerProvider(shutdown_on_exit=False), Metrics()
    )
    queue.put(span_with_attribute(b""))
    assert queue.close(5)
    assert limited_collector.authorizations == ["Bearer hunter2"]


def span_with_attribute(value: bytes) -> bytes:
    """Return an encoded span with one attribute."""
    span = RecordedSpan(b"", bytes(16), bytes(8), 1)
    span.set_attribute("key", value)
    return span.encode()


class EncodingCounter(RecordedSpan):
    """Span that counts how often it was encoded."""

    __slots__ = ("times",)

    def encode(self, *, is_remote: bool = True) -> bytes:
        self.times = getattr(self, "times", 0) + 1
        return super().encode(is_remote=is_remote)


def test_spans_are_not_encoded_when_the_queue_is_full() -> None:
    released = threading.Event()
    queue = ExportQueue(lambda _: released.wait(60), max_size=3, delay_seconds=3600)
    telemetry = SpanRecorder(
        queue, stream=STREAM, consumer_group=GROUP, consumer="pod-a", server=lambda: ("redis", 6379)
    )
    spans = [EncodingCounter(b"", bytes(16), bytes(8), 1) for _ in range(10)]
    for span in spans:
        telemetry._export(span)
    assert [getattr(span, "times", 0) for span in spans] == [1] * 3 + [0] * 7
    assert queue.dropped == 7
    records = ExceptionLogs(queue, {})
    records.record(spans[0], NeverPrintedError(), {})
    assert queue.dropped == 8
    released.set()
    assert telemetry.flush(5)
    assert (queue.sent, queue.dropped) == (3, 8)
    assert queue.close(5)


class NeverPrintedError(Exception):
    """Error whose text must not be requested."""

    def __str__(self) -> str:
        raise AssertionError("the text was requested")


def wait_until_not_backlogged(queue: ExportQueue, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while queue.is_backlogged and time.monotonic() < deadline:
        time.sleep(0.01)
    return not queue.is_backlogged


def test_queue_is_backlogged_when_half_full_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few large spans fill the 32 MiB long before the queue has many spans."""
    monkeypatch.setattr(
        "streamconsumer.processor.telemetry.export_queue.HEALTHY_EXPORT_SECONDS", 60
    )  # also on a slow machine
    request_started, released = threading.Event(), threading.Event()

    def send(_: Sequence[bytes]) -> bool:
        request_started.set()
        return released.wait(60)

    queue = ExportQueue(send, max_size=1000, batch_size=1000, delay_seconds=3600)
    for _ in range(15):
        queue.put(b"x" * (1 << 20))
    assert request_started.wait(60), "large spans are sent immediately"
    assert not queue.is_backlogged
    for _ in range(3):
        queue.put(b"x" * (1 << 20))
    assert queue.is_backlogged
    released.set()
    assert queue.close(60)


def test_hanging_collector_delays_neither_put_nor_close() -> None:
    released = threading.Event()
    queue = ExportQueue(lambda _: released.wait(60), max_size=100, batch_size=10, delay_seconds=3600)
    start_seconds = time.monotonic()
    for _ in range(1000):
        queue.put(b"span")
    assert wait_until_not_backlogged(queue, HEALTHY_EXPORT_SECONDS + 10)
    assert not queue.close(0.2)
    assert time.monotonic() - start_seconds < 30
    assert (queue.sent, queue.dropped) == (0, 1000)
    released.set()
