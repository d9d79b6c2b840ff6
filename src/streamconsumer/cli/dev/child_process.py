"""A child process of a session, which does not outlive it."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

_LONGEST_LINE = 4 * 2**20

_SCRIPT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: kill -9 of the parent ends the child too
os.execv(sys.argv[1], sys.argv[1:])
"""


async def spawned(
    *command: str, folder: Path, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start the command in the folder, with its output on one pipe."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-IS", "-c", _SCRIPT, *command),
        env=environment,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LONGEST_LINE,
        start_new_session=True,  # the terminal's Ctrl-C is for dev, which drains the pods
    )
