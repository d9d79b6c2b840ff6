"""HTTP server for `/livez`, `/readyz` and `/metrics` of a pod.

The server runs in its own thread with an event loop of its own. It can therefore report a handler that blocks the event
loop of the pod. The pod is alive if its event loop has run within the last `STUCK_AFTER`. The pod is ready while it can
read entries. The body of a probe response is plain text that contains the reason.
"""

import asyncio
import threading
from datetime import timedelta

from prometheus_client import CollectorRegistry

from streamconsumer.http_server import HttpServer, Response, metrics_route, text_response
from streamconsumer.processor.forked_children import close_socket_in_children
from streamconsumer.processor.runtime import DEFAULT_RUNTIME, Runtime

STUCK_AFTER = timedelta(seconds=60)
"""If the event loop sends no heartbeat for this time, `/livez` reports that the pod is not alive."""

HEARTBEAT_INTERVAL = timedelta(seconds=1)
"""Interval between heartbeats of the event loop."""

STUCK_READ_AFTER = timedelta(seconds=90)
"""A running read counts as stuck if it takes longer than `poll_interval` plus this time. A read of an idle consumer
takes up to 65 s. A custom stream manager may wait for `poll_interval`."""


class Health:
    """Health of the consume loop. The event loop updates the health, and the thread of the probe server reads it."""

    def __init__(self, stuck_after: timedelta = STUCK_AFTER, runtime: Runtime = DEFAULT_RUNTIME) -> None:
        self._stuck_after, self._clock = stuck_after, runtime.clock
        self._last_heartbeat = self._clock()
        self._not_ready_reason = "starting"
        self.problems: dict[str, str] = {}
        """Reasons why the pod is not ready although it can read. Each key is the component that reports the reason."""
        self.failures: dict[str, str] = {}
        """Reasons why the pod is not alive although its event loop runs. Each key is the component that reports the
        reason."""

    def heartbeat(self) -> None:
        """Record that the event loop is running."""
        self._last_heartbeat = self._clock()

    def mark_ready(self) -> None:
        """Record that the pod can read entries."""
        self._not_ready_reason = ""

    def mark_not_ready(self, reason: str) -> None:
        """Record the reason why the pod cannot read entries."""
        self._not_ready_reason = reason

    def set_problem(self, component: str, reason: str) -> None:
        """Record the reason why a component makes the pod not ready. An empty reason ends the problem."""
        if reason:
            self.problems[component] = reason
        else:
            self.problems.pop(component, None)

    def liveness(self) -> tuple[bool, str]:
        """Return whether the pod is alive, and the reason."""
        seconds = self._clock() - self._last_heartbeat
        if failures := list(self.failures.values()):
            return False, failures[0]
        if seconds < self._stuck_after.total_seconds():
            return True, "ok"
        return False, f"the event loop has not run for {seconds:.0f} s; the handler probably blocks it"

    def readiness(self) -> tuple[bool, str]:
        """Return whether the pod can read entries, and the reasons."""
        reasons = "; ".join(filter(None, [self._not_ready_reason, *self.problems.values()]))
        return not reasons, reasons or "ok"


class LivenessMonitor:
    """Sends heartbeats while the event loop runs and no read is stuck.

    The liveness probe therefore does not fail if handlers are slow or Redis is unavailable."""

    def __init__(self, health: Health, poll_interval_seconds: float, runtime: Runtime = DEFAULT_RUNTIME) -> None:
        self._clock = runtime.clock
        self._health, self._stuck_after_seconds = health, poll_interval_seconds + STUCK_READ_AFTER.total_seconds()
        self.reading_since: float | None = None
        """Time at which the current read started, in monotonic seconds. None while no read is running."""

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            if self.reading_since is None or self._clock() - self.reading_since < self._stuck_after_seconds:
                self._health.heartbeat()
            await asyncio.sleep(HEARTBEAT_INTERVAL.total_seconds())


class ProbeServer:
    """HTTP server that serves the probes and the metrics from its own thread. If `port` is 0, the server uses a free
    port.

    The attribute `port` contains the port that is in use. Raises OSError if the port cannot be used.
    """

    def __init__(self, health: Health, registry: CollectorRegistry, host: str, port: int) -> None:
        routes = {
            "/livez": lambda: _probe_response(*health.liveness()),
            "/readyz": lambda: _probe_response(*health.readiness()),
            "/metrics": metrics_route(registry),
        }
        self._server = HttpServer(routes, host, port)
        self.port = self._server.port
        close_socket_in_children(self._server, HttpServer.find_socket)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Start serving in a background thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and close the socket."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._server.start())
        self._loop.run_forever()
        self._server.stop()
        self._loop.run_until_complete(asyncio.sleep(0))  # closes the connections
        self._loop.close()


def _probe_response(is_healthy: bool, reason: str) -> Response:
    return text_response(200 if is_healthy else 503, reason)
