"""Clock of the simulated servers: a C library, preloaded into a real server, that reads the time from a mapped file."""

import mmap
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster.errors import MissingTool

KEEP_MEMORY = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
"""Options of the allocator jemalloc. By default, jemalloc returns unused memory to the kernel after 10 s. With virtual
time, these 10 s end so often that the kernel needs more CPU time for this than the rest of the simulation."""

SOURCE = Path(__file__).with_name("server_clock.c")


class ServerClock:
    """Clock of one server, in microseconds since 1970. Time stands still until `set` is called."""

    def __init__(self, folder: Path, microseconds: int) -> None:
        self.path = folder / "clock"
        self.path.write_bytes(struct.pack("=q", microseconds))
        with self.path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)

    def set(self, microseconds: int) -> None:
        """Set the time that the server sees from now on."""
        self._page[:8] = struct.pack("=q", microseconds)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that give this clock to a server."""
        return {
            "LD_PRELOAD": str(library()),
            "SIMULATED_CLOCK": str(self.path),
            "MALLOC_CONF": KEEP_MEMORY,
            "JE_MALLOC_CONF": KEEP_MEMORY,
        }


@cache
def library() -> Path:
    """Compile the library once per Python process. Returns its path. Raises MissingTool without a C compiler."""
    if shutil.which("cc") is None:
        raise MissingTool("cc: not found on PATH; install Debian's packages gcc and libc6-dev")
    folder = TemporaryDirectory(prefix="server-clock-")
    _folders.append(folder)
    path = Path(folder.name) / "server_clock.so"
    options = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *options, "-o", path, SOURCE, "-ldl"], check=True)
    return path


_folders: list[TemporaryDirectory[str]] = []
"""Folders that exist until the Python process ends."""
