"""A session of `dev`: the embedded Valkey, the OTLP receiver and the pods.

At the end, the pods drain while Valkey and the receiver are still running. After the pods have drained, Valkey and the
receiver stop.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from streamconsumer.cli.dev.embedded_valkey import embedded_server
from streamconsumer.cli.dev.kubelet_env import host_env
from streamconsumer.cli.dev.local_pod import LocalPod
from streamconsumer.cli.dev.otlp_receiver import run_receiver
from streamconsumer.cli.dev.terminal import Terminal
from streamconsumer.cli.dev.trace_trees import Span
from streamconsumer.cli.dev.workload import Workload
from streamconsumer.model.env_codec import env_name

OTLP_ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

_REPLACED_PREFIXES = (env_name("redis", ""), "OTEL_EXPORTER_OTLP_")
"""Prefixes of environment variables for Redis and the collector. The session replaces each variable of the manifest
whose name has one of these prefixes."""

_TICK_INTERVAL_SECONDS = 0.25


@dataclass(frozen=True)
class Session:
    """The running pods, the Redis URL for producers, and the endpoint of the OTLP receiver."""

    redis_url: str
    endpoint: str
    pods: Sequence[LocalPod]


def run(workloads: Sequence[Workload], log_level: str | None = None) -> None:
    """Run the workloads until SIGINT, SIGTERM or SIGHUP. A second signal kills the pods."""
    asyncio.run(_run(workloads, log_level))


async def _run(workloads: Sequence[Workload], log_level: str | None) -> None:
    terminal, stop = Terminal(), asyncio.Event()
    async with start_session(workloads, terminal, log_level) as session:

        def on_signal() -> None:
            if stop.is_set():
                for pod in session.pods:
                    pod.kill()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        await stop.wait()
        terminal.print_message("draining the pods; a second signal kills them", "bold")


@asynccontextmanager
async def start_session(
    workloads: Sequence[Workload], terminal: Terminal, log_level: str | None = None
) -> AsyncIterator[Session]:
    """Run the pods of the workloads. `log_level` replaces the level in the manifests.

    At the end, the pods drain, all processes of the session stop, and the files of the session are deleted."""
    loop = asyncio.get_running_loop()

    def show_spans(spans: list[Span]) -> None:
        loop.call_soon_threadsafe(lambda: terminal.add_spans(spans, loop.time()))

    with TemporaryDirectory(prefix="streamconsumer-dev-") as name, run_receiver(show_spans) as endpoint:
        folder = Path(name)
        async with embedded_server(folder) as redis_url:
            terminal.print_message(f"embedded Valkey: {redis_url}")
            terminal.print_message(f"OTLP receiver: {OTLP_ENDPOINT_VARIABLE}={endpoint}")
            overrides = {env_name("redis", "url"): redis_url, OTLP_ENDPOINT_VARIABLE: endpoint}
            if log_level:
                overrides[env_name("log_level")] = log_level
            pods = [pod for workload in workloads for pod in _create_pods(workload, overrides, folder, terminal)]
            terminal.set_pods(pod.name for pod in pods)
            tasks = [asyncio.create_task(pod.run()) for pod in pods]
            tasks.append(asyncio.create_task(_run_ticks(terminal)))
            try:
                yield Session(redis_url, endpoint, pods)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


def _create_pods(workload: Workload, overrides: dict[str, str], folder: Path, terminal: Terminal) -> list[LocalPod]:
    spec, names = workload.consumer.spec, workload.pod_names
    count = f"{len(names)} {'pod' if len(names) == 1 else 'pods'}"
    terminal.print_message(
        f"{workload.name}: stream {spec.stream}, group {spec.consumer_group}, {workload.handler_name}, {count}"
    )
    folders = [*_write_source(workload, folder), workload.folder]
    return [
        LocalPod(name, _pod_environment(workload, name, folders) | overrides, folders, workload.grace_period, terminal)
        for name in names
    ]


def _pod_environment(workload: Workload, pod_name: str, folders: Sequence[Path]) -> dict[str, str]:
    environment = workload.environment(pod_name)
    return {
        **host_env(os.environ, folders),
        **{name: value for name, value in environment.items() if not name.startswith(_REPLACED_PREFIXES)},
        env_name("http_port"): "0",
        env_name("http_host"): "127.0.0.1",
        env_name("log_format"): "json",
        env_name("termination_log"): os.devnull,
    }


def _write_source(workload: Workload, folder: Path) -> list[Path]:
    """Write the code in `handler.source` to a new folder. Returns a list that contains the folder, or an empty list if
    there is no code."""
    if not workload.source_files:
        return []
    source = folder / f"{workload.consumer.namespace}-{workload.name}"
    source.mkdir()
    for name, text in workload.source_files.items():
        (source / name).write_text(text)
    return [source]


async def _run_ticks(terminal: Terminal) -> None:
    while True:
        await asyncio.sleep(_TICK_INTERVAL_SECONDS)
        terminal.tick(asyncio.get_running_loop().time())
