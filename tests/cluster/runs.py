"""State of running servers in folders that are removed after their owner has died.

A run is a folder that one Python process owns by a lock on a file. The kernel releases the lock even after kill -9.
The next process that begins a run finds the dead ones by their free locks, kills their recorded processes and removes
their folders. A kept run (from `python -m tests.cluster up`) has no owner and stays until it is removed by name.
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
    """Hold the lock file at `path`. Waits while another process holds it. Raises BenchError for a read-only cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise BenchError(
            f"{path.parent}: {error.strerror}; set XDG_CACHE_HOME to a folder that this user can write"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Run:
    """Folder of state, owned by this process or kept."""

    def __init__(self, path: Path, owner: IO[str] | None) -> None:
        self.path = path
        self._owner = owner

    @classmethod
    def begin(cls, kind: str) -> Run:
        """Create a folder owned by this process, after removing those of dead processes."""
        with locked(runs_directory() / "lock"):
            remove_dead_runs()
            path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=runs_directory()))
            return cls(path, _try_lock(path / OWNER_LOCK))

    @classmethod
    def keep(cls, name: str) -> Run:
        """Create a folder that outlives this process. Removes the previous one of the same name."""
        with locked(runs_directory() / "lock"):
            remove_dead_runs()
            path = runs_directory() / name
            remove(path)
            path.mkdir()
            (path / KEPT_MARK).touch()
            return cls(path, None)

    @classmethod
    def kept(cls, name: str) -> Run:
        """Return a kept run that another process created."""
        path = runs_directory() / name
        if not (path / KEPT_MARK).exists():
            raise BenchError(f"{path}: found no kept {name}; run `python -m tests.cluster up --size {name}`")
        return cls(path, None)

    def end(self) -> None:
        """Kill every process of this run and remove its folder."""
        remove(self.path)
        if self._owner:
            self._owner.close()


def _try_lock(path: Path) -> IO[str] | None:
    """Return the open, locked file. None if another process holds the lock or has just removed the folder."""
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
    """Remove every run whose owner has died."""
    for path in runs_directory().iterdir():
        if not path.is_dir() or (path / KEPT_MARK).exists():
            continue
        owner = _try_lock(path / OWNER_LOCK)
        if owner:
            remove(path)
            owner.close()


def remove(path: Path) -> None:
    """Kill the processes recorded in a run's folder, then remove the folder and the control groups."""
    for record in path.glob("*.pid"):
        kill_recorded(record)
    cgroups.remove(path.name)
    shutil.rmtree(path, ignore_errors=True)


def record_process(record: Path, pid: int) -> None:
    record.write_text(f"{pid}\n{started_at(pid)}\n")


def recorded_pid(record: Path) -> int | None:
    """Return the recorded pid if that process is still running. None if the pid now belongs to another process."""
    try:
        pid, start = record.read_text().split("\n")[:2]
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if start and started_at(int(pid)) == start else None


def kill_recorded(record: Path, timeout: float = 10.0) -> None:
    """Kill a recorded process with SIGKILL and wait until it is gone."""
    pid = recorded_pid(record)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: recorded_pid(record) is None, timeout)


def started_at(pid: int) -> str:
    """Return the start time of a process. Empty if the process is gone or a zombie."""
    if not Path("/proc/self/stat").exists():
        return _started_at_by_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, threads, start = fields[0], int(fields[17]), fields[19]
    # The first thread stays a zombie while other threads still hold files and ports.
    return "" if state in "ZX" and threads <= 1 else start


def _started_at_by_ps(pid: int) -> str:
    shown = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, start = shown.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else start.strip()


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.02) -> bool:
    """Poll a condition. Returns False if it has not become true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
