"""Starts child processes that end when the `dev` process ends."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

_MAX_LINE_LENGTH = 4 * 2**20

_EXEC_SCRIPT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: kill -9 of the parent also ends the child
os.execv(sys.argv[1], sys.argv[1:])
"""


async def spawn(
    *command: str, folder: Path, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start the command with `folder` as its working directory. Standard output and standard error share one pipe."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-IS", "-c", _EXEC_SCRIPT, *command),
        env=environment,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_MAX_LINE_LENGTH,
        start_new_session=True,  # Ctrl-C in the terminal sends SIGINT only to `dev`, which then drains the pods
    )
