"""/livez, /readyz and /metrics of a pod, from a thread of its own: they answer while a handler blocks the loop,
and so can tell that it does.

Alive: the loop has turned within `STUCK_AFTER`. Ready: it reads. Plain text, the reason in the body.
"""

import asyncio
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

STUCK_AFTER = timedelta(seconds=60)

HEARTBEAT_INTERVAL = timedelta(seconds=1)

STUCK_READ_AFTER = timedelta(seconds=30)
"""A read that is out this long beyond `poll_interval` is stuck: the connection's own limit is far below."""


class Health:
    """What the loop says of itself. Written by the loop, read by the thread."""

    def __init__(self, stuck_after: timedelta = STUCK_AFTER) -> None:
        self._stuck_after = stuck_after
        self._last_heartbeat = time.monotonic()
        self._not_ready_reason = "starting"

    def heartbeat(self) -> None:
        """The loop turns."""
        self._last_heartbeat = time.monotonic()

    def mark_ready(self) -> None:
        """Entries are being read."""
        self._not_ready_reason = ""

    def mark_not_ready(self, reason: str) -> None:
        """They are not, because."""
        self._not_ready_reason = reason

    def liveness(self) -> tuple[bool, str]:
        silent = time.monotonic() - self._last_heartbeat
        if silent < self._stuck_after.total_seconds():
            return True, "ok"
        return False, f"the loop has not turned for {silent:.0f} s; does the handler block the event loop?"

    def readiness(self) -> tuple[bool, str]:
        return not self._not_ready_reason, self._not_ready_reason or "ok"


class LivenessMonitor:
    """Alive while the event loop turns and no read is stuck: a handler may take its time, Redis may be away."""

    def __init__(self, health: Health, poll_interval_seconds: float) -> None:
        self._health, self._stuck_after_seconds = health, poll_interval_seconds + STUCK_READ_AFTER.total_seconds()
        self.reading_since: float | None = None
        """When the read that is out was begun (monotonic seconds)."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self.reading_since is None or time.monotonic() - self.reading_since < self._stuck_after_seconds:
                self._health.heartbeat()
            await asyncio.sleep(HEARTBEAT_INTERVAL.total_seconds())


class ProbeServer:
    """The HTTP server. Port 0 takes a free one; `port` tells which."""

    def __init__(self, health: Health, registry: CollectorRegistry, host: str, port: int) -> None:
        self._server = _HttpServer((host, port), _handler_class(health, registry))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True


def _handler_class(health: Health, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/livez":
                    self._verdict(*health.liveness())
                case "/readyz":
                    self._verdict(*health.readiness())
                case "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                case _:
                    self._verdict(good=False, text="not found; try /livez, /readyz or /metrics", otherwise=404)

        def _verdict(self, good: bool, text: str, otherwise: int = 503) -> None:
            self._answer(200 if good else otherwise, f"{text}\n".encode(), "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Probes are not news."""

    return Handler
