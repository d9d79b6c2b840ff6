"""A session: an embedded server where none answers, a receiver of spans, the pods; all of it ended together.

Order of the end: pods drain first, while Redis and the receiver still stand; then the summary is asked for;
then the rest goes.
"""

import asyncio
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

from redis.exceptions import RedisError

from streamconsumer.cli.dev import figures
from streamconsumer.cli.dev.environment import of_this_machine
from streamconsumer.cli.dev.figures import Backlog
from streamconsumer.cli.dev.guard import Guard
from streamconsumer.cli.dev.pods import TERMINATION_LOG, LocalPod
from streamconsumer.cli.dev.receiver import Receiver
from streamconsumer.cli.dev.server import EmbeddedServer, answers
from streamconsumer.cli.dev.terminal import Terminal
from streamconsumer.cli.dev.traces import Span
from streamconsumer.cli.dev.workload import Workload
from streamconsumer.cli.reach import what_keeps
from streamconsumer.model.environment import from_env, variable
from streamconsumer.model.settings import ProcessorSettings, RedisAccess
from streamconsumer.processor.stream import StreamManager, without_credentials

URL, REDIS = variable("redis", "url"), variable("redis", "")
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

Environment = dict[str, str | None]

_CONNECT_SECONDS = 1.0
_ASK_SECONDS = 2.0
_TICK_SECONDS = 0.25
_MEASURE_SECONDS = 1.0
_LAST_SPANS_SECONDS = 0.2
"""After the pods have flushed, what the receiver's threads still hold arrives within this."""


def run(workloads: Sequence[Workload], *, replicas: int | None, show_spans: bool) -> int:
    """Run until SIGINT or SIGTERM; a second one kills. The exit code."""
    return asyncio.run(_run(workloads, replicas, show_spans))


async def _run(workloads: Sequence[Workload], replicas: int | None, show_spans: bool) -> int:
    terminal = Terminal()
    session = Session(workloads, terminal, replicas=replicas, show_spans=show_spans)
    stop = _signalled(session.hurry)
    async with session:
        await stop.wait()
        terminal.say("draining; a second signal kills", "bold")
    return 0


def _signalled(hurry: asyncio.Event) -> asyncio.Event:
    """The first signal sets the event returned, a second one `hurry`."""
    stop = asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    return stop


class Running:
    """One workload with its pods and the Redis they really use."""

    def __init__(
        self, workload: Workload, files: Mapping[str, Path], redis: RedisAccess, environment: Environment
    ) -> None:
        self.workload, self.files, self.redis = workload, files, redis
        self.environment = environment
        """What is decided for all its pods, over what each resolves for itself. None takes one away."""

        self.pods: list[LocalPod] = []

    @property
    def url(self) -> str:
        return _url(self.redis)

    @property
    def done(self) -> Counter[str]:
        return sum((pod.done for pod in self.pods), Counter[str]())

    async def backlog(self) -> Backlog:
        """What is left; nothing known where Redis does not say."""
        spec = self.workload.consumer.spec
        manager = StreamManager.from_settings(self.redis, spec.stream)
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await figures.backlog(manager, spec.stream, spec.consumer_group)
        except (RedisError, OSError, TimeoutError):
            return Backlog()
        finally:
            await manager.aclose()


class Session:
    """`async with Session(…)`: everything runs inside, nothing is left after.

    `isolated` does not even look whether the manifest's own Redis and collector answer.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        terminal: Terminal,
        *,
        replicas: int | None = None,
        show_spans: bool = True,
        isolated: bool = False,
    ) -> None:
        self.hurry = asyncio.Event()
        self.running: list[Running] = []
        self.receiver: Receiver | None = None
        self._workloads, self._terminal = workloads, terminal
        self._replicas, self._show_spans, self._isolated = replicas, show_spans, isolated
        self._server: EmbeddedServer | None = None
        self._said: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []
        self._ends = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with self._ends:
            self._guard = await Guard.start()
            self._ends.push_async_callback(self._guard.stop)
            if self._show_spans:
                self._receive()
            for workload in self._workloads:
                self.running.append(await self._prepared(workload))
            self._ends.push_async_callback(self._stop_pods)
            self._start_pods()
            self._ends = self._ends.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._ends.aclose()

    # -- start -----------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        loop = asyncio.get_running_loop()

        def take(spans: list[Span]) -> None:
            with suppress(RuntimeError):  # the loop is closed: a last request after the end
                loop.call_soon_threadsafe(lambda: self._terminal.spans(spans, loop.time()))

        self.receiver = Receiver(take)
        self._ends.callback(self.receiver.stop)

    async def _prepared(self, workload: Workload) -> Running:
        """Decide what the pods get instead of what the manifest says."""
        files = self._written(workload)
        said = workload.environment("pod", files)
        redis, environment = await self._redis(said)
        return Running(workload, files, redis, environment | await self._endpoint(said))

    def _written(self, workload: Workload) -> dict[str, Path]:
        """Where the files that a pod has of Secrets are on this machine: in the session's folder, closed to others."""
        folder = Path(tempfile.mkdtemp(dir=self._guard.folder, prefix="secrets-"))
        found = {path: folder / path.strip("/").replace("/", "-") for path in workload.files()}
        for path, text in workload.files().items():
            found[path].write_text(text)
        return found

    async def _redis(self, said: dict[str, str]) -> tuple[RedisAccess, Environment]:
        """The manifest's own Redis where it answers, else the embedded one, which knows no users."""
        settings = from_env(ProcessorSettings, said)
        url = without_credentials(_url(settings.redis))
        if not self._isolated and await answers(settings.redis, settings.stream):
            self._say_once(f"{url} answers and is used")
            return settings.redis, {}
        if self._server is None:
            self._server = await EmbeddedServer.start(self._guard, self._server_lost)
            self._ends.push_async_callback(self._server.stop)
        own = self._server.url(url)
        why = "" if self._isolated else f"{url} does not answer; "
        self._say_once(f"{why}an embedded Valkey stands in for it: {own}" if why else f"embedded Valkey: {own}")
        return RedisAccess(url=own), {**{name: None for name in said if name.startswith(REDIS)}, URL: own}

    async def _endpoint(self, said: dict[str, str]) -> Environment:
        """The manifest's own collector where it answers, else our receiver, or none."""
        wanted = said.get(ENDPOINT, "")
        if wanted and not self._isolated and not await what_keeps(wanted, _CONNECT_SECONDS):
            self._say_once(f"traces go to {wanted}, which answers, and are not shown here")
            return {ENDPOINT: wanted}
        if self.receiver is None:
            return {ENDPOINT: None}
        why = f"{wanted} does not answer; " if wanted and not self._isolated else ""
        self._say_once(f"{why}traces are shown here: {ENDPOINT}={self.receiver.endpoint}")
        return {ENDPOINT: self.receiver.endpoint}

    def _server_lost(self) -> None:
        self._terminal.say("the embedded Valkey is gone, and what it held with it: start again", "bold red")

    def _start_pods(self) -> None:
        for running in self.running:
            workload = running.workload
            count = workload.replicas if self._replicas is None else self._replicas
            running.pods = [self._pod(running) for _ in range(count)]
            spec = workload.consumer.spec
            self._terminal.say(
                f"{workload.name}: stream {spec.stream}, group {spec.consumer_group}, "
                f"{workload.handler}, {_plural(count, 'pod')}"
            )
        pods = [pod for running in self.running for pod in running.pods]
        self._terminal.expect(pod.name for pod in pods)
        self._tasks = [asyncio.create_task(pod.run(self._guard)) for pod in pods]
        self._watching = [asyncio.create_task(each) for each in (self._tick(), self._measure())]

    def _pod(self, running: Running) -> LocalPod:
        workload = running.workload
        name = workload.pod_name()
        room = self._guard.folder / name
        room.mkdir()
        folders = [*_written(workload, room), workload.folder]
        environment: Environment = {
            **of_this_machine(os.environ, folders),
            **workload.environment(name, running.files),
            **running.environment,
            variable("http_port"): "0",
            variable("http_host"): "127.0.0.1",
            variable("log_format"): "json",
            variable("termination_log"): str(room / TERMINATION_LOG),
        }
        given = {key: value for key, value in environment.items() if value is not None}
        return LocalPod(name, given, folders, room, self._terminal)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._terminal.say(text)

    # -- while it runs ---------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._terminal.tick(asyncio.get_running_loop().time())

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(_MEASURE_SECONDS)
            await self.measure()

    async def measure(self) -> None:
        """Bring every pod's figures up to date."""
        await asyncio.gather(*(pod.measure() for running in self.running for pod in running.pods))

    # -- end -------------------------------------------------------------------------------------------------

    async def _stop_pods(self) -> None:
        await asyncio.gather(
            *(pod.stop(running.workload.grace, self.hurry) for running in self.running for pod in running.pods)
        )
        if self.receiver:
            await asyncio.sleep(_LAST_SPANS_SECONDS)
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._watching, return_exceptions=True)
        self._terminal.finish()
        for running in self.running:
            self._terminal.say(figures.summary(running.workload.name, running.done, await running.backlog()), "bold")


def _url(redis: RedisAccess) -> str:
    return redis.url or Path(str(redis.url_file)).read_text().strip()


def _written(workload: Workload, room: Path) -> list[Path]:
    """The folder that the ConfigMap of `handler.source` is written to, if there is one."""
    if not workload.source:
        return []
    folder = room / "source"
    folder.mkdir()
    for name, text in workload.source.items():
        (folder / name).write_text(text)
    return [folder]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
