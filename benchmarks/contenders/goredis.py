"""Bare loop of go-redis: the same two commands in a compiled language. Built on first use.

Without Go, the benchmarks run without this contender, and the results state it.
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
    """Return the contender, built into the project's cache. Raises MissingTool without Go."""
    text = b"".join((MODULE / name).read_bytes() for name in SOURCES)
    program = cache_directory() / "bin" / f"goredis-{hashlib.sha256(text).hexdigest()[:12]}"
    with locked(program.with_name(".goredis.lock")):
        if not program.exists():
            _build(program)
    return Contender("goredis", "go-redis, bare loop, XACK and next read in one pipeline", program=program)


def _build(program: Path) -> None:
    if not shutil.which("go"):
        raise MissingTool("go is not on PATH: install Go 1.26 or newer to include go-redis in the run")
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
        raise BenchError(f"building benchmarks/go failed; the end of its output:\n{built.stderr[-3000:]}")
    unfinished.rename(program)
