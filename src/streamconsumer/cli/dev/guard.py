"""Nothing is left behind, not even by kill -9: a shell of one megabyte waits for this process to be gone.

It knows the children from a pipe. When the pipe closes it ends them and removes the session's folder. A
parent death signal does this on Linux only, and needs code between fork and exec, which threads forbid.
"""

import asyncio
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

_SCRIPT = """
trap '' INT TERM HUP
while read -r sign pid; do
  case $sign in
    +) pids="$pids $pid " ;;
    -) pids="${pids%% $pid *} ${pids#* $pid }" ;;
  esac
done
for pid in $pids; do kill -TERM "$pid" 2>/dev/null; done
rm -rf "$1"
"""


class Guard:
    """A temporary folder and the processes of a session; both end with this process."""

    def __init__(self, folder: Path, shell: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self._shell = shell

    @classmethod
    async def start(cls) -> Self:
        folder = Path(tempfile.mkdtemp(prefix="streamconsumer-dev-"))
        command = ("sh", "-c", _SCRIPT, "streamconsumer-guard", str(folder))
        shell = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, cwd="/", start_new_session=True
        )
        return cls(folder, shell)

    def add(self, pid: int) -> None:
        self._tell(f"+ {pid}")

    def remove(self, pid: int) -> None:
        self._tell(f"- {pid}")

    async def stop(self) -> None:
        """All children have ended: end the guard too, and remove the folder."""
        with suppress(ProcessLookupError):
            self._shell.kill()
        await self._shell.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tell(self, line: str) -> None:
        if self._shell.stdin is not None:
            self._shell.stdin.write(f"{line}\n".encode())
