"""Collector that only counts spans, in a separate process.

`python -m benchmarks.otlp_sink SECONDS` prints its port, then the number of spans for each line on its standard input.
Each reply is delayed by SECONDS.
"""

import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ROOT = Path(__file__).parents[1]


class _SinkHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    spans = 0
    delay_seconds = 0.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/traces"):
            body = b""  # metrics and log records are accepted and ignored
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            # The comparison counts one span per message, so `ack` spans are ignored.
            spans = (span for scope in resource.scope_spans for span in scope.spans)
            type(self).spans += sum(span.name.startswith("process") for span in spans)
        time.sleep(self.delay_seconds)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log no requests."""


class OtlpSink:
    """Client side of the collector process."""

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self._delay_seconds = delay_seconds

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.otlp_sink", str(self._delay_seconds)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.endpoint = f"http://127.0.0.1:{self._read_number()}"
        return self

    def count(self) -> int:
        """Return the number of message spans since the last call."""
        assert self._process.stdin
        self._process.stdin.write("count\n")
        return self._read_number()

    def _read_number(self) -> int:
        assert self._process.stdout
        return int(self._process.stdout.readline())

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    _SinkHandler.delay_seconds = float(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _SinkHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    for _ in sys.stdin:
        print(_SinkHandler.spans, flush=True)
        _SinkHandler.spans = 0


if __name__ == "__main__":
    main()
