"""dev's own OTLP receiver, as real exporters meet it."""

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


class Taken:
    """Where a receiver puts its spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.arrived = threading.Event()

    def take(self, spans: list[Span]) -> None:
        self.spans += spans
        self.arrived.set()


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def endpoint(taken: Taken) -> Iterator[str]:
    with run_receiver(taken.take) as endpoint:
        yield endpoint


def test_spans_of_the_sdks_exporter_arrive_whole(endpoint: str, taken: Taken) -> None:
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces")
    provider = TracerProvider(resource=Resource({"k8s.pod.name": "orders-x"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("send orders", kind=SpanKind.PRODUCER):
        span = tracer.start_span("process orders", attributes={"messaging.message.id": "1-0"})
        span.set_status(Status(StatusCode.ERROR, "ValueError: no"))
        span.end()
    provider.shutdown()
    process, send = taken.spans
    assert (process.name, process.parent_id, process.pod) == ("process orders", send.span_id, "orders-x")
    assert (process.is_failed, process.error) == (True, "ValueError: no")
    assert process.attributes["messaging.message.id"] == "1-0"
    assert send.is_producer
    assert not send.is_failed


def _posted(url: str, body: bytes, kind: str) -> int:
    try:
        with urlopen(Request(url, body, {"Content-Type": kind})) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


def test_what_is_not_otlp_is_refused_and_the_next_request_is_served(endpoint: str, taken: Taken) -> None:
    traces = f"{endpoint}/v1/traces"
    assert _posted(traces, b"\xff\xff\xff", "application/x-protobuf") == 400
    assert _posted(traces, b"{}", "application/json") == 400
    assert _posted(traces, b"", "application/x-protobuf") == 200
    assert taken.arrived.is_set()


def test_metrics_and_logs_are_accepted_and_forgotten(endpoint: str, taken: Taken) -> None:
    assert _posted(f"{endpoint}/v1/metrics", b"x", "application/x-protobuf") == 200
    assert not taken.spans
