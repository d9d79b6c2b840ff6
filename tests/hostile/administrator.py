"""An administrator who runs the commands of the CLI over the resources of hostile tenants."""

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.operator.namespace import Namespace

TIMEOUT_SECONDS = 120.0
TERMINAL_CONTROLS = ("\x1b", "\x9b", "\x07", "\u202e", "\u2066")


@dataclass(frozen=True)
class Ran:
    """A command that has ended, or that was killed after the time limit."""

    command: str
    code: int
    output: str
    """Standard output, standard error and the files of the report."""
    seconds: float
    peak_mebibytes: float

    def problems(self, canaries: Sequence[str]) -> list[str]:
        """Return the ways in which the tenants have harmed the administrator."""
        found = [f"leaks {canary}" for canary in canaries if canary in self.output]
        found += [f"prints {control!r}" for control in TERMINAL_CONTROLS if control in self.output]
        if "Traceback" in self.output:
            found.append("ends in a traceback: " + self.output[self.output.rindex("Traceback") :][-1500:])
        if self.code < 0:
            found.append(f"was killed by signal {-self.code} after {self.seconds:.0f} s")
        if self.peak_mebibytes > 512:
            found.append(f"needs {self.peak_mebibytes:.0f} MiB")
        return [f"{self.command} {problem}" for problem in found]


def run_command(namespace: Namespace, folder: Path, *arguments: str, prefix: Sequence[str] = ()) -> Ran:
    """Run `streamconsumer` with the administrator's kubeconfig. `prefix` is a command that runs it."""
    output, began = folder / f"command-{time.monotonic_ns()}", time.monotonic()
    environment = {**os.environ, **namespace.cluster.environment, "COLUMNS": "100"}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "streamconsumer", *arguments],
            env=environment,
            stdout=file,
            stderr=file,
            cwd=folder,
        )
    peak, deadline = 0.0, began + TIMEOUT_SECONDS
    while process.poll() is None:
        peak = max(peak, _peak_mebibytes(process.pid))
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.05)
    text = output.read_text(errors="replace")
    return Ran(" ".join(arguments[:2]), process.returncode, text, time.monotonic() - began, peak)


def _peak_mebibytes(pid: int) -> float:
    """Return the largest resident memory of a process so far, or 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def run_report(namespace: Namespace, folder: Path, *arguments: str) -> Ran:
    """Run `streamconsumer report`, and add the content of its archive to the output."""
    archive = folder / f"report-{time.monotonic_ns()}.tar.gz"
    ran = run_command(namespace, folder, "report", *arguments, "-o", str(archive))
    return Ran(ran.command, ran.code, ran.output + _content(archive), ran.seconds, ran.peak_mebibytes)


def _content(archive: Path) -> str:
    if not archive.exists():
        return ""
    with tarfile.open(archive) as bundle:
        files = [bundle.extractfile(member) for member in bundle.getmembers() if member.isfile()]
        return "\n".join(file.read().decode(errors="replace") for file in files if file)
