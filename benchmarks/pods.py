"""Pods without a cluster: `streamconsumer processor` as a child process, configured by environment variables."""

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
    """Return the variables that the operator would set. Other settings keep their defaults."""
    values = {
        "redis_url": redis_url,
        "http_host": "127.0.0.1",
        "http_port": "0",
        "termination_log": os.devnull,
        **settings,
    }
    return {f"STREAMCONSUMER_{name.upper()}": value for name, value in values.items()}


class Pod:
    """Processor process. The file `output` contains its standard output and standard error."""

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
        """Wait until the pod reads the stream. Raises ProgramFailed if it exits or takes too long."""
        started = wait_until(
            lambda: self.process.poll() is not None or '"processor started"' in self.output.read_text(), START_TIMEOUT
        )
        if not started or self.process.poll() is not None:
            raise ProgramFailed(f"pod {self.name} is not reading; its output:\n{self.output.read_text()[-2000:]}")
        return self

    def kill(self) -> float:
        """Kill the pod with SIGKILL. Returns the time just before, in seconds since 1970."""
        now = time.time()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return now

    def stop(self) -> float:
        """Send SIGTERM, as the kubelet does. Returns the seconds until the process has exited."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_TIMEOUT)
        took = time.perf_counter() - began
        if code:
            raise ProgramFailed(f"pod {self.name} exited with {code}; its output:\n{self.output.read_text()[-2000:]}")
        return took

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that all threads have used since the start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._folder.cleanup()
