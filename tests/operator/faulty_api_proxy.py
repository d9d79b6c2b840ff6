"""A proxy between the operator and a real API server that records requests and injects faults.

The proxy terminates TLS with the certificate of the API server, which names every loopback address. Requests are
forwarded unchanged.
"""

import json
import ssl
import threading
from asyncio import (
    AbstractEventLoop,
    CancelledError,
    Event,
    Server,
    StreamReader,
    StreamWriter,
    all_tasks,
    current_task,
    gather,
    new_event_loop,
    open_connection,
    run_coroutine_threadsafe,
    sleep,
    start_server,
)
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Self

from tests.cluster.api_server import ApiServer


@dataclass(frozen=True)
class Request:
    """A request of the operator."""

    method: str
    path: str
    at: float
    """The time of the request, on the monotonic clock."""

    @property
    def is_watch(self) -> bool:
        return "watch=true" in self.path

    @property
    def is_write(self) -> bool:
        return self.method != "GET"


FaultRule = Callable[[Request], str | None]
"""Returns the fault of a request. None forwards the request, and a number such as `429` is the status of the response.
`drop` closes the connection before the server receives the request, `lose` after. `hang` never responds. `page`
responds with HTML, as a proxy may do."""


HTML_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 14\r\n\r\n<h1>Hello</h1>"


@dataclass
class FaultyApiProxy:
    """The proxy. It runs in its own thread, because tests block theirs."""

    server: ApiServer
    fault_for: FaultRule = lambda _: None
    requests: list[Request] = field(default_factory=list)
    _writers: set[StreamWriter] = field(default_factory=set)
    _watch_writers: set[StreamWriter] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._loop: AbstractEventLoop = new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener: Server = run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut_watches(self) -> None:
        """Abort the connection of every watch, also in the middle of a response."""

        def cut() -> None:
            for writer in self._watch_writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig of the administrator that connects through this proxy, and return its path."""
        config = json.loads(self.server.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        path = folder / "proxied.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    async def _listen(self) -> Server:
        self._closed = Event()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server.credentials.certificate, self.server.credentials.key)
        return await start_server(self._serve, "127.0.0.1", 0, ssl=context)

    async def _close(self) -> None:
        self._closed.set()
        self._listener.close()
        serving = all_tasks() - {current_task()}
        for task in serving:
            task.cancel()
        await gather(*serving, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # close() would wait for the peer, which was killed or hangs
        await sleep(0.05)  # an aborted transport is closed in one of the next iterations of the loop

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Forward the requests of a connection in order, each over a new connection to the server."""
        self._writers.add(writer)
        with suppress(OSError, EOFError, CancelledError):
            while await self._serve_one(reader, writer):
                pass
            writer.close()
            await writer.wait_closed()
            self._writers.discard(writer)

    async def _serve_one(self, reader: StreamReader, writer: StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.decode().split("\r\n")[0].split(" ")
        body = await reader.readexactly(_length(head))
        request = Request(method, path, monotonic())
        self.requests.append(request)
        fault = self.fault_for(request)
        if fault == "drop":
            return False
        if fault == "hang":
            await self._closed.wait()
            return False
        if response := _injected_response(fault):
            writer.write(response)
            await writer.drain()
            return True
        context = ssl.create_default_context(cafile=self.server.ca)
        up, down = await open_connection("127.0.0.1", self.server.port, ssl=context)
        self._writers.add(down)
        down.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
        await down.drain()
        if request.is_watch:
            self._watch_writers.add(writer)
        await self._relay_response(up, writer, lost=fault == "lose")
        self._watch_writers.discard(writer)
        self._writers.discard(down)
        down.transport.abort()
        return False

    async def _relay_response(self, up: StreamReader, writer: StreamWriter, *, lost: bool) -> None:
        """Forward the response unchanged until the server closes the connection."""
        while piece := await up.read(65536):
            if not lost:
                writer.write(piece)
                await writer.drain()


def _length(head: bytes) -> int:
    lines = head.decode().lower().split("\r\n")
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)


def _injected_response(fault: str | None) -> bytes | None:
    """Return the response to send instead of the response of the server, or None for another fault."""
    if fault == "page":
        return HTML_RESPONSE
    return _error_response(int(fault)) if fault and fault.isdecimal() else None


def _error_response(code: int) -> bytes:
    """Return an error response in the format of the API server."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": f"injected {code}"}
    body = json.dumps(status)
    after = "Retry-After: 1\r\n" if code == 429 else ""
    head = f"HTTP/1.1 {code} Injected\r\nContent-Type: application/json\r\n{after}Content-Length: {len(body)}"
    return f"{head}\r\n\r\n{body}".encode()
