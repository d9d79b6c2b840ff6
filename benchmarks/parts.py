"""Cost of single steps on this machine, in microseconds per message. Each step runs in its own loop.

The figures show which steps are worth optimizing, independent of the current design of the processor.
"""

import asyncio
import gc
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import hiredis
import uvloop

from benchmarks.contenders import ENTRY
from benchmarks.contenders.protocol import pack_command

BATCH = 100
TURNS, TRIES = 200, 5
"""Each figure is the minimum of several tries, because noise only adds time."""

IDS = [f"1764000000000-{number}".encode() for number in range(BATCH)]
FIELDS = [each.encode() for pair in ENTRY.items() for each in pair]


def prices() -> list[tuple[str, float]]:
    """Return each step with its cost in microseconds per message."""
    plain = [(told, _best(step)) for told, step in _PLAIN.items()]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return plain + [(told, runner.run(_best_async(step))) for told, step in _ASYNC.items()]


def _best(step: Callable[[], object]) -> float:
    best = float("inf")
    gc.disable()
    for _ in range(TRIES):
        began = time.perf_counter()
        for _ in range(TURNS):
            step()
        best = min(best, time.perf_counter() - began)
    gc.enable()
    return best / TURNS / BATCH * 1e6


async def _best_async(step: Callable[[], Awaitable[object]]) -> float:
    best = float("inf")
    for _ in range(TRIES):
        began = time.perf_counter()
        for _ in range(TURNS):
            await step()
        best = min(best, time.perf_counter() - began)
    return best / TURNS / BATCH * 1e6


# -- steps, each for a batch of 100 messages ------------------------------------------------------------------------


def _reply() -> bytes:
    """Return an XREADGROUP reply as Redis encodes it."""

    def bulk(value: bytes) -> bytes:
        return b"$%d\r\n%s\r\n" % (len(value), value)

    entries = [b"*2\r\n%s*6\r\n%s" % (bulk(each), b"".join(map(bulk, FIELDS))) for each in IDS]
    return b"*1\r\n*2\r\n%s*%d\r\n%s" % (bulk(b"bench"), BATCH, b"".join(entries))


REPLY = _reply()
_reader = hiredis.Reader()
_current: ContextVar[object] = ContextVar("current")
_table: dict[bytes, object] = {}
_bounds = tuple(0.005 * 2**power for power in range(14))


def _parse() -> None:
    _reader.feed(REPLY)
    _reader.gets()


def _pack() -> None:
    pack_command([b"XACK", b"bench", b"bench", *IDS])


def _decode() -> None:
    names, values = FIELDS[::2], FIELDS[1::2]
    for each in IDS:
        each.decode()
        {name.decode(): value.decode() for name, value in zip(names, values, strict=True)}


def _variables() -> None:
    for each in IDS:
        _current.reset(_current.set(each))


def _clock() -> None:
    for _ in IDS:
        time.perf_counter()
        time.perf_counter()


def _in_and_out() -> None:
    for each in IDS:
        if each not in _table:
            _table[each] = each
    for each in IDS:
        del _table[each]


def _bucket() -> None:
    for _ in IDS:
        bisect_left(_bounds, 0.0001)


async def _nothing() -> None:
    pass


async def _await() -> None:
    for _ in IDS:
        await _nothing()


async def _tasks() -> None:
    await asyncio.wait([asyncio.create_task(_nothing()) for _ in IDS])


async def _suspended() -> None:
    await asyncio.wait([asyncio.create_task(asyncio.sleep(0)) for _ in IDS])


async def _timeouts() -> None:
    for _ in IDS:
        async with asyncio.timeout(30):
            await _nothing()


async def _timers() -> None:
    loop = asyncio.get_running_loop()
    for _ in IDS:
        loop.call_later(30, _bucket).cancel()


async def _turn() -> None:
    """Run one iteration of the event loop for the whole batch."""
    await asyncio.sleep(0)


_PLAIN: dict[str, Callable[[], object]] = {
    "parse the reply of a read of 100 (hiredis)": _parse,
    "pack the XACK of 100 (hiredis)": _pack,
    "decode the id, three names and three values": _decode,
    "into a table by id, and out of it": _in_and_out,
    "set and reset a context variable": _variables,
    "look at the clock twice": _clock,
    "find the bucket of a duration": _bucket,
}
_ASYNC: dict[str, Callable[[], Awaitable[object]]] = {
    "await a coroutine that does nothing": _await,
    "a task for it": _tasks,
    "a task that gives way once": _suspended,
    "`asyncio.timeout` around it": _timeouts,
    "a timer, set and cancelled": _timers,
    "a turn of the loop for 100 messages": _turn,
}
