"""Producer that publishes orders, each with its own trace:  python publish.py --count 200 --rate 100 --url redis://…

Needs the package redis. Sends traces if OpenTelemetry is installed and OTEL_EXPORTER_OTLP_ENDPOINT is set.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import redis

ITEMS = ["book", "lamp", "tea"]
Fields = dict[Any, Any]
Tracing = Callable[[Fields], AbstractContextManager[object]]


def main() -> None:
    arguments = _arguments()
    tracing, flush = _tracing(arguments.stream)
    server = redis.Redis.from_url(arguments.url)
    begin = time.monotonic()
    try:
        server.ping()
    except redis.ConnectionError as error:
        sys.exit(f"Redis at {arguments.url} does not answer: {error}")
    for number in range(arguments.count):
        time.sleep(max(0.0, begin + number / arguments.rate - time.monotonic()))
        order: Fields = {"id": number, "item": random.choice(ITEMS), "amount": random.randint(1, 99)}
        with tracing(order):  # adds its traceparent to the fields
            server.xadd(arguments.stream, order)
    seconds = time.monotonic() - begin
    flush()
    print(f"published {arguments.count} orders in {seconds:.1f} s, {arguments.count / seconds:.0f}/s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Publish orders to a Redis stream.")
    parser.add_argument("--url", default="redis://127.0.0.1:6379/0")
    parser.add_argument("--stream", default="orders")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rate", type=float, default=100, help="orders per second")
    return parser.parse_args()


def _tracing(stream: str) -> tuple[Tracing, Callable[[], object]]:
    """Return a context manager that traces one message, and a function that sends the last spans.

    Both do nothing without OpenTelemetry or without an endpoint.
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 - optional
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    except ImportError:
        return lambda _: nullcontext(), lambda: None
    if "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ:
        return lambda _: nullcontext(), lambda: None
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=500))
    tracer = provider.get_tracer("shop")
    names = {
        "system": "redis",
        "operation.name": "send",
        "operation.type": "send",
        "destination.name": stream,
    }
    attributes = {f"messaging.{name}": value for name, value in names.items()}

    def sending(fields: Fields) -> AbstractContextManager[object]:
        span = tracer.start_span(f"send {stream}", kind=trace.SpanKind.PRODUCER, attributes=attributes)
        TraceContextTextMapPropagator().inject(fields, trace.set_span_in_context(span))
        return trace.use_span(span, end_on_exit=True)

    return sending, provider.shutdown


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
