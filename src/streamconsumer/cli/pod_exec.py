"""Runs a command in a pod of the cluster through `kubectl exec`."""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import suppress

from streamconsumer.cli.status.collect import Manifest

EXEC_TIMEOUT_SECONDS = 60.0
"""Time limit for a command in a pod. The limit is long, because importing a handler is slow under a low CPU limit."""

MAX_OUTPUT_BYTES = 16_777_216
"""Maximum size of the output of a command. The limit is needed because a tenant controls the pod and can print any
number of bytes."""


async def run_in_pod(
    pod: Manifest, container: str, command: Sequence[str], context: str | None
) -> tuple[bytes, str] | str:
    """Run the command and return its standard output and the last line of its standard error.

    Returns the problem as text if kubectl is missing, if the command does not finish in time, or if the output is too
    large.
    """
    if (kubectl := shutil.which("kubectl")) is None:
        return "kubectl is not on the PATH of this machine"
    metadata = pod["metadata"]
    context_option = ("--context", context) if context else ()
    pod_options = ("-n", metadata["namespace"], metadata["name"], "-c", container)
    process = await asyncio.create_subprocess_exec(
        *(kubectl, *context_option, "exec", *pod_options, "--", *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(EXEC_TIMEOUT_SECONDS):
            stdout, stderr = await asyncio.gather(_read_output(process.stdout), _read_output(process.stderr))
            await process.wait()
    except TimeoutError:
        problem = f"did not finish within {EXEC_TIMEOUT_SECONDS:.0f} s"
    except OverflowError:
        problem = f"printed more than {MAX_OUTPUT_BYTES} bytes"
    else:
        return stdout, _last_line(stderr)
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    return f"the command in pod {metadata['name']} {problem}"


async def _read_output(stream: asyncio.StreamReader | None) -> bytes:
    """Return the complete output. Raises OverflowError if the output is too large."""
    assert stream is not None
    output = bytearray()
    while data := await stream.read(65_536):
        output += data
        if len(output) > MAX_OUTPUT_BYTES:
            raise OverflowError
    return bytes(output)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the command printed no error"
