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
ITERATIONS, TRIES = 200, 5
"""Each figure is the minimum of several tries, because noise only adds time."""

IDS = [f"1764000000000-{number}".encode() for number in range(BATCH)]
FIELDS = [text.encode() for pair in ENTRY.items() for text in pair]


def measure_steps() -> list[tuple[str, float]]:
    """Return the name and the cost of each step."""
    costs = [(name, _best(step)) for name, step in _SYNC_STEPS.items()]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return costs + [(name, runner.run(_best_async(step))) for name, step in _ASYNC_STEPS.items()]


def _best(step: Callable[[], object]) -> float:
    best = float("inf")
    gc.disable()
    for _ in range(TRIES):
        began = time.perf_counter()
        for _ in range(ITERATIONS):
            step()
        best = min(best, time.perf_counter() - began)
    gc.enable()
    return best / ITERATIONS / BATCH * 1e6


async def _best_async(step: Callable[[], Awaitable[object]]) -> float:
    best = float("inf")
    for _ in range(TRIES):
        began = time.perf_counter()
        for _ in range(ITERATIONS):
            await step()
        best = min(best, time.perf_counter() - began)
    return best / ITERATIONS / BATCH * 1e6


# -- steps, each for a batch of 100 messages ------------------------------------------------------------------------


def _reply() -> bytes:
    """Return an XREADGROUP reply as Redis encodes it."""
    fields = b"".join(map(_bulk_string, FIELDS))
    entries = [b"*2\r\n%s*6\r\n%s" % (_bulk_string(message_id), fields) for message_id in IDS]
    return b"*1\r\n*2\r\n%s*%d\r\n%s" % (_bulk_string(b"bench"), BATCH, b"".join(entries))


def _bulk_string(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


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
    for message_id in IDS:
        message_id.decode()
        {name.decode(): value.decode() for name, value in zip(names, values, strict=True)}


def _variables() -> None:
    for message_id in IDS:
        _current.reset(_current.set(message_id))


def _clock() -> None:
    for _ in IDS:
        time.perf_counter()
        time.perf_counter()


def _insert_and_delete() -> None:
    for message_id in IDS:
        if message_id not in _table:
            _table[message_id] = message_id
    for message_id in IDS:
        del _table[message_id]


def _bucket() -> None:
    for _ in IDS:
        bisect_left(_bounds, 0.0001)


async def _noop() -> None:
    pass


async def _await() -> None:
    for _ in IDS:
        await _noop()


async def _tasks() -> None:
    await asyncio.wait([asyncio.create_task(_noop()) for _ in IDS])


async def _suspended_tasks() -> None:
    await asyncio.wait([asyncio.create_task(asyncio.sleep(0)) for _ in IDS])


async def _timeouts() -> None:
    for _ in IDS:
        async with asyncio.timeout(30):
            await _noop()


async def _timers() -> None:
    loop = asyncio.get_running_loop()
    for _ in IDS:
        loop.call_later(30, _bucket).cancel()


async def _loop_iteration() -> None:
    """Run one iteration of the event loop for the whole batch."""
    await asyncio.sleep(0)


_SYNC_STEPS: dict[str, Callable[[], object]] = {
    "parse the reply of a read of 100 (hiredis)": _parse,
    "pack the XACK of 100 (hiredis)": _pack,
    "decode the ID, three names and three values": _decode,
    "add to a table by ID and remove again": _insert_and_delete,
    "set and reset a context variable": _variables,
    "read the clock twice": _clock,
    "find the bucket of a duration": _bucket,
}
_ASYNC_STEPS: dict[str, Callable[[], Awaitable[object]]] = {
    "await a coroutine that does nothing": _await,
    "create a task for the coroutine": _tasks,
    "a task that yields once": _suspended_tasks,
    "`asyncio.timeout` around the coroutine": _timeouts,
    "a timer, set and cancelled": _timers,
    "event loop iteration for 100 messages": _loop_iteration,
}
