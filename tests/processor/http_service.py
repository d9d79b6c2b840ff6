"""HTTP service that receives messages: a real server in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.processor.eventually import eventually

QueuedResponse = web.Response | Callable[[], Awaitable[web.Response]]


@dataclass(frozen=True)
class Request:
    """Received request."""

    method: str
    path: str
    headers: dict[str, str]
    """Headers with lower-case names."""

    body: str
    connection: int
    """Number that identifies the TCP connection."""


@dataclass
class Service:
    """Responds with `responses` in order, then with 204."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    responses: list[QueuedResponse] = field(default_factory=list)
    concurrent: int = 0
    max_concurrent: int = 0

    async def wait_for_requests(self, count: int) -> list[Request]:
        """Wait for `count` requests. Returns all of them."""
        await eventually(lambda: len(self.requests) >= count)
        return self.requests

    async def handle(self, request: web.Request) -> web.Response:
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            body = await request.text()
            self.requests.append(Request(request.method, request.path, headers, body, id(request.transport)))
            response = self.responses.pop(0) if self.responses else web.Response(status=204)
            return response if isinstance(response, web.Response) else await response()
        finally:
            self.concurrent -= 1


@asynccontextmanager
async def run_http_service() -> AsyncIterator[Service]:
    """Run a service on a free port. Every path is served; `url` ends with /orders."""
    service = Service()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    service.url = f"http://127.0.0.1:{port}/orders"
    yield service
    await runner.cleanup()


async def never_respond() -> web.Response:
    """Never respond."""
    await asyncio.sleep(3600)
    raise AssertionError
