"""`streamconsumer processor` as a child process: a pod without a cluster, told by its environment alone."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.cluster.errors import ProgramFailed
from tests.cluster.runs import wait_until

ROOT = Path(__file__).parents[1]
START_TIMEOUT = STOP_TIMEOUT = 30.0


def environment(redis_url: str, **settings: str) -> dict[str, str]:
    """What the operator would state: the rest is at its defaults."""
    given = {
        "redis_url": redis_url,
        "http_host": "127.0.0.1",
        "http_port": "0",
        "termination_log": os.devnull,
        **settings,
    }
    return {f"STREAMCONSUMER_{name.upper()}": value for name, value in given.items()}


class Pod:
    """One pod. What it says on standard output stands in `output`."""

    def __init__(self, redis_url: str, handler: str, name: str, **settings: str) -> None:
        self.name = name
        self._environment = environment(
            redis_url,
            handler_python=handler if ":" in handler else f"benchmarks.handlers:{handler}",
            consumer_name=name,
            **settings,
        )
        self._folder = tempfile.TemporaryDirectory(prefix="streamconsumer-bench-")
        self.output = Path(self._folder.name) / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamconsumer", "processor"],
                cwd=ROOT,
                env={**os.environ, **self._environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_started(self) -> Self:
        """Wait until it reads the stream."""
        started = wait_until(
            lambda: self.process.poll() is not None or '"processor started"' in self.output.read_text(), START_TIMEOUT
        )
        if not started or self.process.poll() is not None:
            raise ProgramFailed(f"pod {self.name} does not listen; it said:\n{self.output.read_text()[-2000:]}")
        return self

    def kill(self) -> float:
        """kill -9. Returns the time (seconds since 1970) just before."""
        now = time.time()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return now

    def stop(self) -> float:
        """SIGTERM, as the kubelet does. Returns the seconds until the process has ended."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_TIMEOUT)
        took = time.perf_counter() - began
        if code:
            raise ProgramFailed(f"pod {self.name} ended with {code}; it said:\n{self.output.read_text()[-2000:]}")
        return took

    def cpu_seconds(self) -> float:
        """What it has used so far, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._folder.cleanup()
