"""OTLP receiver for HTTP and protobuf on a free loopback port, in its own thread.

The receiver parses traces. Metrics and logs are accepted and discarded.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # ships no types
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from streamconsumer.cli.dev.trace_trees import POD_NAME, Span

PROTOBUF_CONTENT_TYPE = "application/x-protobuf"

MAX_CONNECTIONS, MAX_BODY_BYTES, MAX_LENGTH_DIGITS = 64, 16 * 2**20, 9
"""Maximum number of connections, and of bytes in the body of a request. Compressed bodies are refused, because a small
body can become a large one."""

_SPAN_KIND_PRODUCER, _STATUS_CODE_ERROR = 4, 2


@contextmanager
def run_receiver(on_spans: Callable[[list[Span]], None]) -> Iterator[str]:
    """Run the receiver and yield its endpoint. Another thread calls `on_spans` with the spans of each request."""
    server = _Server(("127.0.0.1", 0), _request_handler(on_spans))
    threading.Thread(target=server.serve_forever, args=(0.1,), name="spans", daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._free_connections = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread. A connection beyond the limit is closed; the exporter then tries again."""
        if self._free_connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection, then free its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free_connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors, because an exporter may disconnect during a request."""


def _request_handler(on_spans: Callable[[list[Span]], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdecimal()):
                return self._reject(411)
            if len(length) > MAX_LENGTH_DIGITS or int(length) > MAX_BODY_BYTES:
                return self._reject(413)
            if self.headers.get("Content-Encoding", "identity") != "identity":
                return self._reject(415)
            body = self.rfile.read(int(length))
            if self.path.rstrip("/") == "/v1/traces":
                try:
                    on_spans(parse_spans(body))
                except DecodeError:
                    return self._respond(400)
            return self._respond(200)

        def _reject(self, status: int) -> None:
            """Respond without reading the body, and close the connection."""
            self.close_connection = True
            self._respond(status)

        def _respond(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", PROTOBUF_CONTENT_TYPE)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Do not log requests."""

    return Handler


def parse_spans(body: bytes) -> list[Span]:
    """Return the spans of an ExportTraceServiceRequest. Raises DecodeError."""
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return list(_convert_spans(request))


def _convert_spans(request: Any) -> Iterator[Span]:
    for resource_spans in request.resource_spans:
        pod = str(_to_attributes(resource_spans.resource.attributes).get(POD_NAME, ""))
        for scope_spans in resource_spans.scope_spans:
            for proto in scope_spans.spans:
                span = _convert_span(proto, pod)
                if span.attributes.get("messaging.operation.type") != "settle":  # not useful in a terminal
                    yield span


def _convert_span(span: Any, pod: str) -> Span:
    attributes = _to_attributes(span.attributes)
    failed = span.status.code == _STATUS_CODE_ERROR
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_producer=span.kind == _SPAN_KIND_PRODUCER,
        is_failed=failed,
        error=str(span.status.message or attributes.get("error.type", "")) if failed else "",
        attributes=attributes,
        pod=pod,
    )


def _to_attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
