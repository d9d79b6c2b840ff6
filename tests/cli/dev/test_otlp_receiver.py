"""OTLP receiver of `dev` with the exporter of the SDK."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from streamconsumer.cli.dev.otlp_receiver import MAX_CONNECTIONS, run_receiver
from streamconsumer.cli.dev.trace_trees import Span


class SpanLog:
    """Records the spans of a receiver."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.received = threading.Event()

    def add(self, spans: list[Span]) -> None:
        self.spans += spans
        self.received.set()


@pytest.fixture
def span_log() -> SpanLog:
    return SpanLog()


@pytest.fixture
def endpoint(span_log: SpanLog) -> Iterator[str]:
    with run_receiver(span_log.add) as endpoint:
        yield endpoint


def test_receiver_returns_complete_spans_of_the_sdk_exporter(endpoint: str, span_log: SpanLog) -> None:
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces")
    provider = TracerProvider(resource=Resource({"k8s.pod.name": "orders-x"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("send orders", kind=SpanKind.PRODUCER):
        span = tracer.start_span("process orders", attributes={"messaging.message.id": "1-0"})
        span.set_status(Status(StatusCode.ERROR, "ValueError: no"))
        span.end()
    provider.shutdown()
    process, send = span_log.spans
    assert (process.name, process.parent_id, process.pod) == ("process orders", send.span_id, "orders-x")
    assert (process.is_failed, process.error) == (True, "ValueError: no")
    assert process.attributes["messaging.message.id"] == "1-0"
    assert send.is_producer
    assert not send.is_failed


def _post(url: str, body: bytes, content_type: str) -> int:
    try:
        with urlopen(Request(url, body, {"Content-Type": content_type})) as response:
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code


def test_invalid_request_is_rejected_and_the_next_is_served(endpoint: str, span_log: SpanLog) -> None:
    traces = f"{endpoint}/v1/traces"
    assert _post(traces, b"\xff\xff\xff", "application/x-protobuf") == 400
    assert _post(traces, b"{}", "application/json") == 400
    assert _post(traces, b"", "application/x-protobuf") == 200
    assert span_log.received.is_set()


def test_metrics_and_logs_are_accepted_and_discarded(endpoint: str, span_log: SpanLog) -> None:
    assert _post(f"{endpoint}/v1/metrics", b"x", "application/x-protobuf") == 200
    assert not span_log.spans


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: 99999999999999999999", 413),
        ("Content-Length: 16777217", 413),
        ("Content-Length: -1", 411),
        ("Content-Length: ²", 411),
        ("Transfer-Encoding: chunked", 411),
        ("Content-Length: 5\r\nContent-Encoding: gzip", 415),
    ],
)
def test_body_without_a_usable_length_is_refused_without_reading_it(endpoint: str, headers: str, status: int) -> None:
    with _connect(endpoint) as client:
        client.sendall(f"POST /v1/traces HTTP/1.1\r\nHost: dev\r\n{headers}\r\n\r\n".encode("latin-1"))
        response = b""
        while part := client.recv(4096):
            response += part
    assert response.startswith(f"HTTP/1.1 {status} ".encode())


def test_connections_beyond_the_limit_are_closed(endpoint: str, span_log: SpanLog) -> None:
    clients = [_connect(endpoint) for _ in range(MAX_CONNECTIONS)]
    with _connect(endpoint) as beyond:
        assert beyond.recv(1) == b""
    assert threading.active_count() < MAX_CONNECTIONS + 20
    for client in clients:
        client.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(URLError, ConnectionError):
            assert _post(f"{endpoint}/v1/traces", b"", "application/x-protobuf") == 200
            break
    assert time.monotonic() < deadline
    assert span_log.spans == []


def _connect(endpoint: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=20)
