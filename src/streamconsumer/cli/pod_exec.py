"""Runs a command in a pod of the cluster through `kubectl exec`."""

import asyncio
import shutil
from collections.abc import Sequence

from streamconsumer.cli.status.collect import Manifest

EXEC_TIMEOUT_SECONDS = 60.0
"""For a pod: importing a handler may take long where the CPU is limited."""


async def run_in_pod(
    pod: Manifest, container: str, command: Sequence[str], context: str | None
) -> tuple[bytes, str] | str:
    """The standard output and the last line of the standard error, or the reason why there is no answer."""
    if (kubectl := shutil.which("kubectl")) is None:
        return "kubectl is not on PATH here"
    metadata = pod["metadata"]
    named = ("--context", context) if context else ()
    where = ("-n", metadata["namespace"], metadata["name"], "-c", container)
    process = await asyncio.create_subprocess_exec(
        *(kubectl, *named, "exec", *where, "--", *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(EXEC_TIMEOUT_SECONDS):
            said, complaint = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"pod {metadata['name']} gave no answer within {EXEC_TIMEOUT_SECONDS:.0f} s"
    return said, _last_line(complaint)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
