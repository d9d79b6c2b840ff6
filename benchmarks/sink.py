"""A collector that only counts spans, as a process of its own: `python -m benchmarks.sink` says its port, then a number
for each line on its standard input. An argument says how many seconds late it answers."""

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
            body = b""  # figures and log records are taken, too
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            # `ack` spans are extra: what is compared is one span for each message.
            found = (span for scope in of_resource.scope_spans for span in scope.spans)
            type(self).spans += sum(span.name.startswith("process") for span in found)
        time.sleep(self.delay_seconds)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


class OtlpSink:
    """From outside."""

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self._delay_seconds = delay_seconds

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.sink", str(self._delay_seconds)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.endpoint = f"http://127.0.0.1:{self._read_number()}"
        return self

    def count(self) -> int:
        """How many messages' spans have come since the last time."""
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
