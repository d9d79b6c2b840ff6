"""The HTTP server for probes and metrics under attack. Both processes use it; here, it runs in the thread of a pod."""

import errno
import logging
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from streamconsumer import http_server
from streamconsumer.event_loop import new_event_loop
from streamconsumer.http_server import MAX_ANSWERED, MAX_REQUEST_BYTES, MAX_WAITING, HttpServer, metrics_route
from streamconsumer.model.names import ANY_HOST
from streamconsumer.operator.health import Health as OperatorHealth
from streamconsumer.operator.health import serve
from streamconsumer.processor.health import Health, ProbeServer

PROBE = b"GET /livez HTTP/1.1\r\nHost: pod\r\n\r\n"


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(autouse=True)
def short_turns_of_threads() -> Iterator[None]:
    """The server and its clients share one interpreter here."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(params=["processor", "operator"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of the server, which runs in a thread, on asyncio's event loop or on uvloop."""
    if request.param == "processor":
        server = ProbeServer(Health(), CollectorRegistry(), "127.0.0.1", 0)
        server.start()
        yield server.port
        server.stop()
        return
    loop = new_event_loop()
    operator_server = loop.run_until_complete(serve(OperatorHealth(queue_depth=lambda: 0), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield operator_server.port
    loop.call_soon_threadsafe(operator_server.stop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def connect(port: int, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(data)
    return client


def read_all(client: socket.socket) -> bytes:
    """Return everything until the server closes the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def status(port: int, data: bytes = PROBE) -> int:
    """Return the status of the response, or 0 if the server closes the connection without a response."""
    with connect(port, data) as client:
        response = read_all(client)
    return int(response.split(b" ")[1]) if response else 0


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("data", "count"),
    [(b"", 3000), (b"GET /livez HT", 500), (PROBE[:-1], 500)],
    ids=["nothing", "start", "all but end"],
)
def test_probe_is_answered_while_thousands_of_connections_send_no_request(
    port: int, data: bytes, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    threads = threading.active_count()
    clients = []
    for number in range(count):
        clients.append(connect(port, data))
        if number % 250 == 0:
            assert status(port) == 200
    assert status(port) == 200
    assert threading.active_count() == threads
    assert descriptors() < count + MAX_WAITING + 200
    assert sum(map(is_open, clients)) <= MAX_WAITING
    for client in clients:
        client.close()
    assert status(port) == 200
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_connection_that_sends_byte_after_byte_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "TIMEOUT", timedelta(seconds=1))
    deadline = time.monotonic() + 20
    with connect(port) as client, suppress(ConnectionError):
        while time.monotonic() < deadline:
            client.sendall(b"G")
            time.sleep(0.05)
    assert time.monotonic() < deadline


def test_idle_connection_is_closed_before_and_after_its_response(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "TIMEOUT", timedelta(seconds=1))
    with connect(port) as idle, connect(port, PROBE) as answered:
        assert read_all(idle) == b""
        assert read_all(answered).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 20
        with suppress(ConnectionError):
            while time.monotonic() < deadline:
                answered.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (PROBE, 200),
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", 200),
        (PROBE + PROBE, 200),
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /livez/../livez HTTP/1.1\r\n\r\n", 404),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000, 405),
        (b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 405),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST_BYTES, 431),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * MAX_REQUEST_BYTES, 431),
        (b"G" * 10_000_000, 431),
        (b"GET /livez\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET  HTTP/1.1 x\r\n\r\n", 400),
        (b"\xff\x00\xfe /livez HTTP/1.1\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET http://[::1 HTTP/1.1\r\nHost: \x00\r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * MAX_REQUEST_BYTES, 431),
    ],
    ids=range(18),
)
def test_any_request_gets_one_response(
    port: int, request_: bytes, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(port) as client:
        sender = threading.Thread(target=_send, args=(client, request_))
        sender.start()
        response = read_all(client)
        sender.join()
    assert int(response.split(b" ")[1]) == expected
    assert response.count(b"HTTP/1.1 ") == 1
    assert caplog.records == []


def _send(client: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)


def test_reset_before_during_and_after_a_request_leaves_no_trace(port: int, caplog: pytest.LogCaptureFixture) -> None:
    for data in (b"", b"GET /livez", PROBE, b"GET /metrics HTTP/1.1\r\n\r\n"):
        for _ in range(50):
            client = connect(port, data)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    assert status(port) == 200
    assert caplog.records == []


def test_clients_that_do_not_read_large_responses_hold_a_limited_number_of_them() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("large", "Many samples", ["name"], registry=registry)
    for number in range(20_000):
        gauge.labels("x" * 200 + str(number)).set(1)
    server = ProbeServer(Health(), registry, "127.0.0.1", 0)
    server.start()
    clients = [connect(server.port, b"GET /metrics HTTP/1.1\r\n\r\n") for _ in range(4 * MAX_ANSWERED)]
    assert status(server.port) == 200
    deadline = time.monotonic() + 20
    held = server._server.answered._connections
    while len(held) > MAX_ANSWERED and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(held) <= MAX_ANSWERED
    for client in clients:
        client.close()
    server.stop()


def test_frequent_requests_for_metrics_get_the_same_text_until_its_cost_is_a_tenth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, clock = CollectorRegistry(), [100.0]
    collected = []

    class Slow:
        def collect(self) -> list[object]:
            collected.append(clock[0])
            clock[0] += 1
            return []

    registry.register(Slow())  # type: ignore[arg-type]
    collected.clear()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    route = metrics_route(registry)
    while clock[0] < 130:
        route()
        clock[0] += 0.5
    assert len(collected) <= 4


def test_failing_route_is_answered_with_500(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()

    class Failing:
        def collect(self) -> list[object]:
            raise ValueError("no value")

    registry._collector_to_names[Failing()] = []  # type: ignore[index]
    server = ProbeServer(Health(), registry, "127.0.0.1", 0)
    server.start()
    assert status(server.port, b"GET /metrics HTTP/1.1\r\n\r\n") == 500
    assert status(server.port) == 200
    server.stop()
    assert "failed to answer" in caplog.text


def test_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        HttpServer({}, "127.0.0.1", taken.getsockname()[1])


class NoIPv6Socket(socket.socket):
    """A socket on a system without IPv6."""

    def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *arguments, **options)


def accepts(port: int, host: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        return client.connect_ex((host, port)) == 0


def listening_server(host: str, port: int = 0) -> HttpServer:
    return HttpServer({}, host, port)


def test_default_address_accepts_ipv6_and_ipv4() -> None:
    server = listening_server(ANY_HOST)
    try:
        assert accepts(server.port, "127.0.0.1")
        assert accepts(server.port, "::1")
    finally:
        server.stop()


def test_default_address_accepts_ipv4_on_a_system_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", NoIPv6Socket)
    server = listening_server(ANY_HOST)
    monkeypatch.undo()
    try:
        assert accepts(server.port, "127.0.0.1")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("host", "is_ipv4", "is_ipv6"), [("0.0.0.0", True, False), ("127.0.0.1", True, False), ("::1", False, True)]
)
def test_other_addresses_accept_only_their_protocol(host: str, is_ipv4: bool, is_ipv6: bool) -> None:
    server = listening_server(host)
    try:
        assert (accepts(server.port, "127.0.0.1"), accepts(server.port, "::1")) == (is_ipv4, is_ipv6)
    finally:
        server.stop()


def test_port_in_use_over_ipv4_is_an_error_of_the_default_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        listening_server(ANY_HOST, other.getsockname()[1])
