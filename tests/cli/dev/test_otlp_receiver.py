"""OTLP receiver of `dev` with the exporter of the SDK."""

import threading
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from streamconsumer.cli.dev.otlp_receiver import run_receiver
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
