"""HTTP server for probes and metrics, with a bound on connections, memory and time.

Any pod of the cluster may reach the port. The server therefore reads at most `MAX_REQUEST_BYTES` from each
connection, answers one request, and closes every connection after `TIMEOUT`. If too many connections are open, the
oldest connections that have not sent a complete request are closed first. The kubelet sends the request of a probe
immediately. The server therefore answers probes even while thousands of other connections are open and send nothing.

An HTTP library would provide most limits of this server, but would not limit the number of connections. Importing
`aiohttp.web` would also cost each pod 12.6 MiB of memory (the growth of VmRSS after the import of
`streamconsumer.processor.main`).
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from streamconsumer.model import names

TIMEOUT = timedelta(seconds=10)
"""Time after which a connection is closed, regardless of its state. Kubernetes and Prometheus wait at most 10 s for a
response."""

MAX_REQUEST_BYTES = 8192
"""Maximum length of the request line and the headers."""

MAX_WAITING, MAX_ANSWERED = 256, 16
"""MAX_WAITING is the maximum number of open connections whose request is incomplete. MAX_ANSWERED is the maximum number
of open connections whose client has not read the response yet."""

METRICS_TIME_SHARE = 0.1
"""Maximum share of time that the server spends on metrics. If clients request metrics more often, the server sends the
previous response again."""

_ANY_IPV4_HOST = "0.0.0.0"  # noqa: S104 - the kubelet probes the pod's own address
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENOPROTOOPT, errno.EPROTONOSUPPORT, errno.EINVAL)
"""Errors of systems that do not support IPv6, or do not support a socket for both protocols."""

_END_OF_HEADERS = b"\r\n\r\n"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Response:
    """A response to a request."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    def encode(self, *, has_body: bool) -> bytes:
        """Return the bytes of the response. The response to HEAD has no body."""
        head = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\n"
            f"Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n"
            f"{'Allow: GET, HEAD' + chr(13) + chr(10) if self.status == 405 else ''}"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + (self.body if has_body else b"")


Routes = Mapping[str, Callable[[], Response | Awaitable[Response]]]
"""Map from each path to the function that returns the response, either directly or as a coroutine."""


def text_response(status: int, text: str) -> Response:
    """Return a response with one line of text."""
    return Response(status, f"{text}\n".encode(errors="backslashreplace"))


def metrics_route(registry: CollectorRegistry) -> Callable[[], Response]:
    """Return a route for the metrics of the registry.

    If collecting the metrics for every request would take more than METRICS_TIME_SHARE of the time, the route returns
    the previous response.
    """
    response, reusable_until = Response(200, b""), float("-inf")

    def route() -> Response:
        nonlocal response, reusable_until
        started = time.monotonic()
        if started >= reusable_until:
            response = Response(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            finished = time.monotonic()
            reusable_until = finished + (finished - started) / METRICS_TIME_SHARE
        return response

    return route


def threaded_metrics_route(registry: CollectorRegistry) -> Callable[[], Awaitable[Response]]:
    """Return a route that works like `metrics_route` but collects the metrics in a thread, because collecting thousands
    of series would block the event loop. Every collector of the registry must be thread-safe."""
    route, executor = metrics_route(registry), ThreadPoolExecutor(1, thread_name_prefix="metrics")

    async def respond() -> Response:
        return await asyncio.get_running_loop().run_in_executor(executor, route)

    return respond


def answer(request: bytes, routes: Routes) -> bytes | Awaitable[bytes]:
    """Return the response to a request. `request` contains the request line and the headers. A body is ignored."""
    words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return text_response(400, "not an HTTP/1 request").encode(has_body=True)
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        return text_response(405, "only GET and HEAD are supported").encode(has_body=True)
    route = routes.get(target.partition("?")[0])
    has_body = method == "GET"
    try:
        response = route() if route else text_response(404, f"not found; try {', '.join(routes)}")
    except Exception:  # noqa: BLE001 - a faulty collector must not end the connection without a response
        return _internal_error(has_body=has_body)
    return response.encode(has_body=has_body) if isinstance(response, Response) else _encode_later(response, has_body)


async def _encode_later(waiting: Awaitable[Response], has_body: bool) -> bytes:
    try:
        return (await waiting).encode(has_body=has_body)
    except Exception:  # noqa: BLE001 - as in `answer`
        return _internal_error(has_body=has_body)


def _internal_error(*, has_body: bool) -> bytes:
    log.exception("failed to answer an HTTP request (a probe or a request for metrics)")  # noqa: LOG004 - called in an exception handler
    return text_response(500, "internal error; see the log").encode(has_body=has_body)


class _Connection(asyncio.BufferedProtocol):
    """Connection that reads one request into a buffer of fixed size, and sends the response.

    After the response, the connection stays open until the client closes the connection or `TIMEOUT` has passed.
    """

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._buffer = bytearray(MAX_REQUEST_BYTES)
        self._received = 0
        self._is_answered = False
        """True if the request is complete. Data that follows a complete request is discarded."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports have no common base class
        self._timeout = asyncio.get_running_loop().call_later(TIMEOUT.total_seconds(), self.abort)
        self._server.waiting.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return memoryview(self._buffer)[0 if self._is_answered else self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_answered:
            return  # a body or a further request, which is discarded so that the client can read its response
        self._received += nbytes
        request, end, _ = self._buffer[: self._received].partition(_END_OF_HEADERS)
        if end:
            self._is_answered = True
            self._answer(bytes(request))
        elif self._received == MAX_REQUEST_BYTES:
            self._send(text_response(431, f"headers are longer than {MAX_REQUEST_BYTES} bytes").encode(has_body=True))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._timeout.cancel()
        self._server.waiting.discard(self)
        self._server.answered.discard(self)

    def abort(self) -> None:
        self._transport.abort()

    def _answer(self, request: bytes) -> None:
        response = answer(request, self._server.routes)
        if isinstance(response, bytes):
            self._send(response)
        else:
            self._answering = asyncio.ensure_future(response)
            self._answering.add_done_callback(lambda task: None if task.cancelled() else self._send(task.result()))

    def _send(self, response: bytes) -> None:
        if self._transport.is_closing():
            return
        self._is_answered = True
        self._server.waiting.discard(self)
        self._server.answered.add(self)
        self._transport.write(response)
        if self._transport.can_write_eof():
            self._transport.write_eof()


class _Group:
    """Connections in the order of their arrival. If there are too many connections, the oldest connection is closed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: dict[_Connection, None] = {}

    def add(self, connection: _Connection) -> None:
        self._connections[connection] = None
        if len(self._connections) > self._limit:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.abort()

    def discard(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)

    def close(self) -> None:
        for connection in [*self._connections]:
            connection.abort()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. For the host `::`, the socket accepts connections over IPv6 and IPv4. If the system
    does not support IPv6, the socket accepts connections over IPv4 only."""
    if host == names.ANY_HOST:
        try:
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        except (OSError, ValueError) as error:  # ValueError: the platform has no sockets for both protocols
            if isinstance(error, OSError) and error.errno not in _NO_IPV6:
                raise
            host = _ANY_IPV4_HOST
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(cast("tuple[str, int]", address), family=family)


class HttpServer:
    """HTTP server. If `port` is 0, the server uses a free port. The attribute `port` contains the port that is in use.

    Raises OSError if the address or the port cannot be used.
    """

    def __init__(self, routes: Routes, host: str, port: int) -> None:
        self.routes = routes
        self.waiting, self.answered = _Group(MAX_WAITING), _Group(MAX_ANSWERED)
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    def find_socket(self) -> socket.socket:
        """Return the listening socket."""
        return self._socket

    async def start(self) -> None:
        """Start serving on the running event loop."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=self._socket)

    def stop(self) -> None:
        """Close the socket and all connections. Call this method on the event loop on which `start` was called."""
        if self._server:
            self._server.close()  # also closes the socket
        else:
            self._socket.close()
        self.waiting.close()
        self.answered.close()
