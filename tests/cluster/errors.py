"""What can go wrong on the bench.

    BenchError
    ├── MissingTool     the machine lacks a program; tests skip loudly, or fail where CI is set
    └── ProgramFailed   a program was there, but did not do what it was started for

Every message says what was found, what was expected and what to do about it.
"""

from __future__ import annotations


class BenchError(Exception):
    """The bench could not do what it was asked for."""


class MissingTool(BenchError):
    """A program that this part of the bench needs is not on this machine."""


class ProgramFailed(BenchError):
    """A program that the bench started ended, hung or refused."""
