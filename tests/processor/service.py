"""A Service that messages are sent to: a real HTTP server in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.processor.eventually import eventually

QueuedResponse = web.Response | Callable[[], Awaitable[web.Response]]


@dataclass(frozen=True)
class Request:
    """What it was sent."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""

    body: str
    connection: int
    """A number that each connection has for itself."""


@dataclass
class Service:
    """Answers in the order of `answers`, and 204 from then on."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    responses: list[QueuedResponse] = field(default_factory=list)
    concurrent: int = 0
    max_concurrent: int = 0

    async def wait_for_requests(self, count: int) -> list[Request]:
        """What it was sent, once it was so much."""
        await eventually(lambda: len(self.requests) >= count)
        return self.requests

    async def handle(self, request: web.Request) -> web.Response:
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            seen = Request(request.method, request.path, headers, await request.text(), id(request.transport))
            self.requests.append(seen)
            answer = self.responses.pop(0) if self.responses else web.Response(status=204)
            return answer if isinstance(answer, web.Response) else await answer()
        finally:
            self.concurrent -= 1


@asynccontextmanager
async def run_http_service() -> AsyncIterator[Service]:
    """On a free port, at the path /orders and every other."""
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
    """An answer that does not come."""
    await asyncio.sleep(3600)
    raise AssertionError
