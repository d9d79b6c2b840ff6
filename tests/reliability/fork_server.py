"""Fork server: a process that has imported all modules of a pod and forks itself for each pod.

A forked pod runs the same code as `python -m streamconsumer processor`, in its own environment. It starts within 20 ms
instead of half a second, which makes thousands of kill -9 affordable. Linux only: a pod is addressed by a pidfd, so
that no signal can reach another process that got its pid.

    fork server  ← one JSON line per pod: {"environment": {…}, "folder": …}
                 → its pid
"""

import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn, Self

ROOT = Path(__file__).parents[2]
PRODUCT_PAUSES = "--product-pauses"


class Pod:
    """Pod process that can be killed, frozen and stopped."""

    def __init__(self, pid: int, name: str, folder: Path) -> None:
        self.pid, self.name, self.folder = pid, name, folder
        self._fd = os.pidfd_open(pid)
        self._lock = threading.Lock()

    @property
    def output(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._fd >= 0 and not self.wait_for_exit(0)

    def wait_for_exit(self, within: float) -> bool:
        """Return whether the process ended within `within` seconds."""
        if self._fd < 0:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(within * 1000))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Does nothing if the process has ended."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)

    def remove(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait_for_exit(10)
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1


class ForkServer:
    """Starts pods. Kills all of them when the context is left."""

    def __init__(self, source: Path = ROOT, *, shortens_pauses: bool = True) -> None:
        """Import the modules of a pod from the checkout `source`, which can contain another version.

        If `shortens_pauses` is False, the pods keep the pauses of the product, and an outage can take longer than a
        test.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.fork_server", *([] if shortens_pauses else [PRODUCT_PAUSES])],
            cwd=source,
            env={**os.environ, "PYTHONPATH": f"{source / 'src'}{os.pathsep}{source}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()

    def start(self, name: str, folder: Path, environment: dict[str, str]) -> Pod:
        order = {"name": name, "folder": str(folder), "environment": {"PATH": os.environ["PATH"], **environment}}
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return Pod(int(self._process.stdout.readline()), name, folder)

    def close(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _serve() -> None:
    from streamconsumer import processor

    for module in pkgutil.walk_packages(processor.__path__, "streamconsumer.processor."):
        importlib.import_module(module.name)
    importlib.import_module("streamconsumer.event_loop")
    importlib.import_module("tests.reliability.scripted_handler")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # exit codes are not read, so the kernel reaps ended processes
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_as_pod(order)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)


def _shorten_pauses() -> None:
    """Make poison messages and outages end within the time of a test."""
    from streamconsumer.processor.pipeline import circuit_breaker, reconnect

    circuit_breaker.COUNT_TRIALS_AFTER_SECONDS, reconnect.MAX_PAUSE_SECONDS = 2.0, 0.2


def _run_as_pod(order: dict[str, dict[str, str]]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(order["environment"])
        folder = str(order["folder"])
        os.chdir(folder)
        log_file = os.open(f"{order['name']}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        no_input = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((no_input, 0), (log_file, 1), (log_file, 2)):
            os.dup2(source, target)
        from tests.reliability import kill_points

        kill_points.install()
        if PRODUCT_PAUSES not in sys.argv:
            _shorten_pauses()
        from streamconsumer.cli import main

        code = main(["processor"], standalone_mode=False) or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
