"""Where running servers keep their state, and how nothing of it outlives them.

A run is a folder that belongs to one Python process, which holds a lock on it for as long as it
lives. The kernel drops the lock even after kill -9, so whoever starts the next run can tell a dead
run from a live one, end the processes that it recorded and remove what it left. A kept run (from
`python -m tests.cluster up`) belongs to nobody and stays until it is removed by name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tests.cluster import cgroups
from tests.cluster.errors import BenchError

OWNER_LOCK = "owner.lock"
KEPT_MARK = "kept"


def cache_directory() -> Path:
    """The project's cache: binaries, images and running state."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "streamconsumer"


def runs_directory() -> Path:
    return cache_directory() / "run"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, waiting for whoever has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Run:
    """One folder of running state."""

    def __init__(self, path: Path, owner: IO[str] | None) -> None:
        self.path = path
        self._owner = owner

    @classmethod
    def begin(cls, kind: str) -> Run:
        """Make a folder owned by this process, after removing what dead processes left."""
        with locked(runs_directory() / "lock"):
            remove_dead_runs()
            path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=runs_directory()))
            return cls(path, _try_lock(path / OWNER_LOCK))

    @classmethod
    def keep(cls, name: str) -> Run:
        """Make a folder that stays when this process ends; its older namesake is removed."""
        with locked(runs_directory() / "lock"):
            remove_dead_runs()
            path = runs_directory() / name
            remove(path)
            path.mkdir()
            (path / KEPT_MARK).touch()
            return cls(path, None)

    @classmethod
    def kept(cls, name: str) -> Run:
        """The folder of a kept run that another process began."""
        path = runs_directory() / name
        if not (path / KEPT_MARK).exists():
            raise BenchError(f"no kept {name} in {path}: python -m tests.cluster up --size {name}")
        return cls(path, None)

    def end(self) -> None:
        """End every process of this run and remove its folder."""
        remove(self.path)
        if self._owner:
            self._owner.close()


def _try_lock(path: Path) -> IO[str] | None:
    """The open, locked file; None while another process holds it, or when it has just ended and removed its folder."""
    try:
        lock = path.open("w")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def remove_dead_runs() -> None:
    """Remove every run whose owner died without ending it."""
    for path in runs_directory().iterdir():
        if not path.is_dir() or (path / KEPT_MARK).exists():
            continue
        owner = _try_lock(path / OWNER_LOCK)
        if owner:
            remove(path)
            owner.close()


def remove(path: Path) -> None:
    """End the processes recorded in a run's folder, then remove all that they left."""
    for record in path.glob("*.pid"):
        kill_recorded(record)
    cgroups.remove(path.name)
    shutil.rmtree(path, ignore_errors=True)


def record_process(record: Path, pid: int) -> None:
    record.write_text(f"{pid}\n{started_at(pid)}\n")


def recorded_pid(record: Path) -> int | None:
    """The recorded process while it lives; a pid that was given to another process is not it."""
    try:
        pid, start = record.read_text().split("\n")[:2]
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if start and started_at(int(pid)) == start else None


def kill_recorded(record: Path, timeout: float = 10.0) -> None:
    """Kill -9 a recorded process and wait until it is gone; all state here is throw-away."""
    pid = recorded_pid(record)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: recorded_pid(record) is None, timeout)


def started_at(pid: int) -> str:
    """When a process started, empty when it is gone or only waits to be reaped."""
    if not Path("/proc/self/stat").exists():
        return _started_at_by_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, threads, start = fields[0], int(fields[17]), fields[19]
    # The first thread waits as a zombie for the others, which still hold files and ports.
    return "" if state in "ZX" and threads <= 1 else start


def _started_at_by_ps(pid: int) -> str:
    shown = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, start = shown.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else start.strip()


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.02) -> bool:
    """Whether something came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
