"""The bare loop of go-redis: what a compiled language makes of the same two commands. Built when it is first asked for.

A machine without Go runs the races without it, and the results say so.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.contenders import Contender
from tests.cluster.errors import BenchError, MissingTool
from tests.cluster.runs import cache_directory, locked

MODULE = Path(__file__).parents[1] / "go"
SOURCES = ("go.mod", "go.sum", "main.go")


def goredis() -> Contender:
    """The contender, built into the project's cache. Raises MissingTool without Go."""
    text = b"".join((MODULE / name).read_bytes() for name in SOURCES)
    program = cache_directory() / "bin" / f"goredis-{hashlib.sha256(text).hexdigest()[:12]}"
    with locked(program.with_name(".goredis.lock")):
        if not program.exists():
            _build(program)
    return Contender("goredis", "go-redis, bare loop, XACK and next read in one pipeline", program=program)


def _build(program: Path) -> None:
    if not shutil.which("go"):
        raise MissingTool("go is not on PATH: install Go 1.26 or newer to have go-redis in the same run")
    unfinished = program.with_name(f".{program.name}.{os.getpid()}")
    built = subprocess.run(
        ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(unfinished), "."],
        cwd=MODULE,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise BenchError(f"building benchmarks/go failed; the end of what go said:\n{built.stderr[-3000:]}")
    unfinished.rename(program)
