"""Runs a command that takes the consumer group of a server as its target: `dead-letters` and `group delete`."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import dataclass

from tests.cli import forked
from tests.cli.dev.dev_process import SOURCES
from tests.cli.forked import CommandResult
from tests.processor.group import GROUP, STREAM


@dataclass(frozen=True)
class TargetCommand:
    """A command, given as its words."""

    words: tuple[str, ...]

    async def start(self, *arguments: str, url: str = "", stdin: int = DEVNULL, **environment: str) -> Process:
        """Start the command in a new interpreter, for tests that signal it or give it a terminal."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streamconsumer", *self._command_line(arguments, url)),
            env=_minimal(environment),
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
        )

    async def run(self, *arguments: str, url: str = "", **environment: str) -> CommandResult:
        """Run the command until it exits, for the group on this server if `url` is given."""
        line = self._command_line(arguments, url)
        result = await asyncio.to_thread(forked.run, *line, environment=_minimal(environment))
        assert "Traceback" not in result.err, result.err
        return result

    def _command_line(self, arguments: tuple[str, ...], url: str) -> list[str]:
        target = ("--redis-url", url, "--stream", STREAM, "--group", GROUP) if url else ()
        return [*self.words, *arguments, *target]


def _minimal(environment: dict[str, str]) -> dict[str, str]:
    """Return these variables and the few that each command needs, without the others of this process."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), **environment}
