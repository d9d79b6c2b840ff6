"""How much was done: a pod's own counters, and what Redis says of the group."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from streamconsumer.processor.metrics import PREFIX
from streamconsumer.processor.stream import StreamManager

_ANSWER_SECONDS = 1.0

_TOLD = {"acknowledged": "acknowledged", "failed": "failed", "retried": "retried", "dead_lettered": "dead-lettered"}
"""What a summary says of the counters."""


@dataclass(frozen=True)
class Backlog:
    """What is left of a stream for a group; None where Redis does not know."""

    length: int = 0
    pending: int | None = None
    lag: int | None = None

    @property
    def empty(self) -> bool:
        return self.pending == 0 and self.lag == 0


async def backlog(manager: StreamManager, stream: str, group: str) -> Backlog:
    """Raises what Redis raises, such as a stream that does not exist."""
    length = int(await manager.ask("XLEN", stream))
    for flat in await manager.ask("XINFO", "GROUPS", stream):
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        if found[b"name"] == group.encode():
            return Backlog(length, found[b"pending"], found.get(b"lag"))
    return Backlog(length)


def counters(exposition: str) -> Counter[str]:
    """A pod's counters by their names in the processor: `streamconsumer_failed_total{…} 3.0` is failed: 3."""
    found: Counter[str] = Counter()
    for line in exposition.splitlines():
        if line.startswith(f"{PREFIX}_") and "_total{" in line:
            name, value = line.partition("{")[0], line.rpartition(" ")[2]
            found[name.removeprefix(f"{PREFIX}_").removesuffix("_total")] += int(float(value))
    return found


async def scrape(port: int) -> Counter[str] | None:
    """The counters of the pod at the port; None if it does not answer."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            answer = await _asked(port)
    except (OSError, TimeoutError):
        return None
    return counters(answer.decode(errors="replace"))


async def _asked(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()


def summary(name: str, done: Mapping[str, int], left: Backlog) -> str:
    """`orders: 300 acknowledged, 6 failed, 6 retried, 0 dead-lettered, pending 0, lag 0`."""
    counts = (f"{done.get(counter, 0)} {word}" for counter, word in _TOLD.items())
    return f"{name}: {', '.join(counts)}, pending {_known(left.pending)}, lag {_known(left.lag)}"


def _known(number: int | None) -> str:
    return "unknown" if number is None else str(number)
