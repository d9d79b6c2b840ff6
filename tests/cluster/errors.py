"""Errors of the test bench.

    BenchError
    ├── MissingTool     this machine has no such program; the test is skipped, or fails if CI is set
    ├── BuildFailed     go build failed; no test runs
    └── ProgramFailed   a program exited, hung or rejected a request

Every message names what was found, what was expected and the remedy.
"""

from __future__ import annotations


class BenchError(Exception):
    """The bench cannot do what a test asked for."""


class MissingTool(BenchError):
    """A program that the test needs is not on this machine."""


class BuildFailed(BenchError):
    """A program could not be built. The message contains the end of the compiler's output."""


class ProgramFailed(BenchError):
    """A program that the bench started has exited, hangs or rejects a request."""
