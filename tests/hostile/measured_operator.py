"""An operator that records every long callback and every blocking call of its event loop.

The process uses the event loop of asyncio instead of uvloop, because only its callbacks can be measured. The records
are lines of JSON in the file that the environment variable HOSTILE_RECORDS names.

    python -m tests.hostile.measured_operator
"""

import asyncio
import gc
import json
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.operator.operator_process import LogLine, OperatorProcess

RECORDS_VARIABLE = "HOSTILE_RECORDS"
REPORTED_CPU_SECONDS = 0.02
"""Callbacks that need less processor time are not recorded."""

MAX_CALLBACK_CPU_SECONDS = 0.1
MAX_MEBIBYTES = 256
"""The memory limit of the operator's pod in the chart."""

BLOCKING_EVENTS = {
    "open",
    "os.listdir",
    "os.scandir",
    "os.system",
    "import",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "subprocess.Popen",
    "time.sleep",
}
"""Audit events of calls that can wait for a disk, a name server or another process. An import reads files."""

TLS_METHODS = ("load_verify_locations", "load_cert_chain", "load_default_certs", "set_default_verify_paths")
"""Methods that read files inside OpenSSL, where Python has no audit event."""

MEASURED_KINDS = ("callback", "garbage collection")
"""Kinds of records with a processor time. The time of a callback excludes the garbage collections in the callback."""

CODE_SUFFIXES = (".py", ".pyc", ".so")


@dataclass(frozen=True)
class Record:
    """A callback that needed much processor time, or a call that can block."""

    at: float
    """Time on the monotonic clock, which all processes share."""
    kind: str
    """`callback`, `garbage collection`, or the name of the blocking call."""
    detail: str
    cpu_seconds: float = 0


class MeasuredOperator(OperatorProcess):
    """The operator process with the measurements of its event loop."""

    command: Sequence[str] = (sys.executable, "-m", "tests.hostile.measured_operator")

    def __init__(self, kubeconfig: Path, folder: Path, **settings: object) -> None:
        super().__init__(kubeconfig, folder, **settings)
        self.records_file = self.log.with_suffix(".records")
        self.environment[RECORDS_VARIABLE] = str(self.records_file)

    def records(self, since: float = 0) -> list[Record]:
        """Return the records since a time on the monotonic clock."""
        lines = self.records_file.read_text().splitlines() if self.records_file.exists() else []
        return [record for record in (Record(**json.loads(line)) for line in lines) if record.at >= since]

    def long_callbacks(self, since: float) -> list[Record]:
        return [each for each in self.records(since) if each.cpu_seconds > MAX_CALLBACK_CPU_SECONDS]

    def blocking_calls(self, since: float) -> list[Record]:
        """Return the blocking calls, except the read of the kubeconfig by the login of kopf."""
        calls = [each for each in self.records(since) if each.kind not in MEASURED_KINDS]
        return [each for each in calls if "operator.kubeconfig" not in each.detail]

    def peak_mebibytes(self) -> float:
        """Return the largest resident memory of the process so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def is_unhandled(line: LogLine) -> bool:
    """Return True if a log line reports an error that no component has handled."""
    return "Traceback" in str(line) or line.get("severity") in ("critical", "noise")


@contextmanager
def measured_operator(kubeconfig: Path, folder: Path, **settings: object) -> Iterator[MeasuredOperator]:
    """Run a started operator for the duration of a block."""
    operator = MeasuredOperator(kubeconfig, folder, **settings)
    try:
        operator.start().wait_until_started(60)
        yield operator
    finally:
        operator.kill()


class _Recorder:
    """Measures the callbacks of one event loop. Each record is written immediately, because the process is killed."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._thread = 0
        self._in_callback = False
        self._collection_began = 0.0
        self._collection_seconds = 0.0
        """Processor time of the garbage collections in the current callback."""

    def install(self) -> None:
        self._measure_callbacks()
        gc.callbacks.append(self._on_collection)
        for method in TLS_METHODS:
            setattr(ssl.SSLContext, method, self._recorded(method, getattr(ssl.SSLContext, method)))
        sys.addaudithook(self._on_audit_event)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        self._thread = threading.get_ident()
        return asyncio.SelectorEventLoop()

    def _measure_callbacks(self) -> None:
        run = asyncio.Handle._run

        def measured(handle: asyncio.Handle) -> None:
            if threading.get_ident() != self._thread:
                run(handle)
                return
            began, self._in_callback, self._collection_seconds = time.thread_time(), True, 0.0
            try:
                run(handle)
            finally:
                self._in_callback = False
                cpu_seconds = time.thread_time() - began - self._collection_seconds
                if cpu_seconds > REPORTED_CPU_SECONDS:
                    self._write("callback", _describe(handle), cpu_seconds)

        asyncio.Handle._run = measured  # type: ignore[method-assign, assignment]

    def _on_collection(self, phase: str, details: dict[str, int]) -> None:
        if not self._blocks_the_loop:
            return
        if phase == "start":
            self._collection_began = time.thread_time()
            return
        cpu_seconds = time.thread_time() - self._collection_began
        self._collection_seconds += cpu_seconds
        if cpu_seconds > REPORTED_CPU_SECONDS:
            self._write("garbage collection", repr(details), cpu_seconds)

    def _recorded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(context: ssl.SSLContext, *arguments: Any, **options: Any) -> Any:
            from_memory = name == "load_verify_locations" and options.get("cadata") and not options.get("cafile")
            if self._blocks_the_loop and not from_memory:
                self._write(name, repr((arguments, options))[:200])
            return method(context, *arguments, **options)

        return recorded

    @property
    def _blocks_the_loop(self) -> bool:
        return self._in_callback and threading.get_ident() == self._thread

    def _on_audit_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in BLOCKING_EVENTS or not self._blocks_the_loop:
            return
        first = arguments[0] if arguments else ""
        if event == "open" and (isinstance(first, int) or str(first).endswith(CODE_SUFFIXES)):
            return  # an import, or a file descriptor that is already open
        self._in_callback = False  # the record itself must not be recorded
        self._write(event, repr(arguments)[:200])
        self._in_callback = True

    def _write(self, kind: str, detail: str, cpu_seconds: float = 0) -> None:
        line = {"at": time.monotonic(), "kind": kind, "detail": detail, "cpu_seconds": cpu_seconds}
        os.write(self._file, json.dumps(line).encode() + b"\n")


def _describe(handle: asyncio.Handle) -> str:
    """Return the coroutines of the task that the handle has continued, from the outermost to the innermost."""
    task = getattr(getattr(handle, "_callback", None), "__self__", None)
    if not isinstance(task, asyncio.Task):
        return repr(handle)[:500]
    names = list[str]()
    awaited: Any = task.get_coro()
    while awaited is not None and hasattr(awaited, "cr_await"):
        line = awaited.cr_frame.f_lineno if awaited.cr_frame else "end"
        names.append(f"{awaited.__qualname__}:{line}")
        awaited = awaited.cr_await
    return " > ".join(names)


def _run() -> None:
    from streamconsumer import event_loop
    from streamconsumer.cli import main

    recorder = _Recorder(Path(os.environ[RECORDS_VARIABLE]))
    recorder.install()
    event_loop.new_event_loop = recorder.new_event_loop  # type: ignore[assignment]
    main(["operator"], prog_name="streamconsumer")


if __name__ == "__main__":
    _run()
