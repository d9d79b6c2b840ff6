"""Claims: kinds of entries take turns, checks continue while entries are claimed, and each kind has its own room."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from streamconsumer.processor import Defer, current_message
from streamconsumer.processor.consumer.claimer import ClaimedPage, ClaimPage
from streamconsumer.processor.message import Entry, Origin
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.recovery_loop import RecoveryLoop
from tests.processor.eventually import eventually
from tests.processor.group import Group


class EndlessClaimer:
    """Claimer that always finds entries of dead consumers and due entries."""

    is_watching = True

    def __init__(self, dead_consumers: int = 1, *, is_trimmed: bool = False) -> None:
        self.claims: list[str] = []
        self.checks = 0
        self.wakeup = asyncio.Event()
        self._names = [*(f"dead {number}" for number in range(dead_consumers)), "due"]
        self._is_trimmed = is_trimmed

    async def claim(self, name: str, count: int) -> ClaimedPage:
        await asyncio.sleep(0.001)
        self.claims.append(name)
        if self._is_trimmed:
            return ClaimedPage([], has_more=True)
        entries = [Entry.redelivered(f"{len(self.claims)}-{number}", (), 1) for number in range(count)]
        for entry in entries:
            entry.origin = Origin.DUE if name == "due" else Origin.CLAIMED
        return ClaimedPage(entries, has_more=True)

    async def find_claimable(self) -> list[ClaimPage]:
        self.checks += 1
        return [ClaimPage(partial(self.claim, name), "due" if name == "due" else "dead") for name in self._names]

    async def share_dead(self) -> None:
        pass

    def seconds_until_turn(self) -> float:
        return 0.1


def table(run: Any, concurrency: int = 1) -> InFlightTable:
    return InFlightTable(run, concurrency=concurrency, metrics=Metrics())


@asynccontextmanager
async def claiming(in_flight: InFlightTable, claimer: Any) -> AsyncIterator[None]:
    """Run the claims."""
    consumer: Any = SimpleNamespace(claimer=claimer)
    options: dict[str, Any] = {"log_context": "", "metrics": Metrics()}
    recovery = RecoveryLoop(consumer, in_flight, may_claim=lambda: True, batch_count=5, **options)
    task = asyncio.create_task(recovery._claim_loop(claimer))
    yield
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("is_trimmed", [False, True], ids=["entries", "trimmed entries"])
async def test_checks_continue_while_claims_return_entries(is_trimmed: bool) -> None:
    async def run(_entry: Entry) -> None:
        await asyncio.sleep(0)

    claimer = EndlessClaimer(is_trimmed=is_trimmed)
    async with claiming(table(run), claimer):
        await eventually(lambda: claimer.checks >= 3)
    assert len(claimer.claims) > 2 * claimer.checks, "several pages are claimed between two checks"


async def test_many_dead_consumers_do_not_delay_the_checks_of_a_busy_pod() -> None:
    async def run(_entry: Entry) -> None:
        await asyncio.Event().wait()

    claimer, in_flight = EndlessClaimer(dead_consumers=60), table(run, concurrency=2)
    async with claiming(in_flight, claimer):
        await eventually(lambda: claimer.checks >= 5, within=5)
    in_flight.close()


async def test_next_free_slot_starts_an_entry_of_a_dead_consumer() -> None:
    """While all slots are busy, other pods can claim the entries. New entries wait although they are in memory."""
    running: dict[str, asyncio.Event] = {}

    async def run(entry: Entry) -> None:
        running[entry.message_id] = asyncio.Event()
        await running[entry.message_id].wait()

    in_flight, claimer = table(run, concurrency=2), EndlessClaimer()
    in_flight.admit([Entry(f"0-{number}", ()) for number in range(4)])
    await eventually(lambda: len(running) == 2)
    async with claiming(in_flight, claimer):
        await eventually(lambda: claimer.checks >= 3)
        assert claimer.claims == []
        running["0-0"].set()
        await eventually(lambda: len(running) == 3)
        assert claimer.claims == ["dead 0"]
        assert [*running] == ["0-0", "0-1", "1-0"]
    in_flight.close()
    for event in running.values():
        event.set()
    await eventually(lambda: not in_flight.running)


async def test_due_and_new_entries_get_free_slots_in_turns() -> None:
    started: list[Origin] = []

    async def run(entry: Entry) -> None:
        started.append(entry.origin)
        await asyncio.sleep(0.02)

    in_flight, claimer = table(run), EndlessClaimer(dead_consumers=0)
    in_flight.admit([Entry(f"0-{number}", ()) for number in range(10)])
    async with claiming(in_flight, claimer):
        await eventually(lambda: len(started) >= 20)
    in_flight.close()
    await eventually(lambda: not in_flight.running)
    assert 8 <= started[2:20].count(Origin.NEW) <= 10


async def test_new_entry_may_wait_for_busy_slots_while_due_entries_take_them() -> None:
    """A pod whose handlers run for long leaves new entries to other pods."""
    now, started, release = 0.0, [], asyncio.Event()

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        await release.wait()

    in_flight = InFlightTable(run, concurrency=1, metrics=Metrics(), clock=lambda: now)
    in_flight.admit([Entry("0-0", ())])
    await eventually(lambda: started)
    assert not in_flight.read_count(5)
    in_flight.reserve(frozenset({"due"}))
    assert in_flight.read_count(5) == 1
    now = 2.0
    assert not in_flight.read_count(5)
    in_flight.close()
    release.set()
    await eventually(lambda: not in_flight.running)


def suspect(number: int) -> Entry:
    entry = Entry.redelivered(f"9-{number}", (), 2)
    entry.origin, entry.is_suspect = Origin.CLAIMED, True
    return entry


async def test_waiting_suspect_stops_neither_reads_nor_claims() -> None:
    """Only one suspect runs at a time. The other slots handle other entries meanwhile."""
    started: list[str] = []

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        await asyncio.Event().wait()

    in_flight = table(run, concurrency=4)
    in_flight.admit([suspect(number) for number in range(3)])
    await eventually(lambda: started)
    assert in_flight.has_capacity.is_set()
    assert in_flight.read_count(5) == in_flight.claim_count(5, is_due=True) == in_flight.claim_count(5, is_due=False)
    in_flight.admit([Entry(f"1-{number}", ()) for number in range(3)])
    await eventually(lambda: len(started) == 4)
    in_flight.close()


async def test_suspect_starts_although_entries_are_left_to_read() -> None:
    """The pod lets its other entries run out, and reads again as soon as the suspect is running."""
    release, started = asyncio.Event(), []

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        await release.wait()

    in_flight = table(run, concurrency=1)
    in_flight.prefetch_limit = 5
    in_flight.admit([Entry("1-0", ())])
    in_flight.admit([suspect(0)])
    await eventually(lambda: started == ["1-0"])
    assert not in_flight.has_capacity.is_set()
    assert not in_flight.claim_count(5, is_due=True)
    assert in_flight.claim_count(5, is_due=False)
    release.set()
    await eventually(lambda: started == ["1-0", "9-0"])
    await eventually(in_flight.has_capacity.is_set)
    in_flight.close()


async def test_new_entries_start_in_turns_with_a_backlog_of_due_ones(group: Group) -> None:
    """Due entries always wait, and the handlers are too slow for the pod to buffer entries."""
    starts: list[str] = []
    deferred: set[str] = set()

    async def handle(data: dict[str, str]) -> None:
        if data["n"] == "due" and current_message().message_id not in deferred:
            deferred.add(current_message().message_id)
            await asyncio.sleep(0.02)
            raise Defer(timedelta(seconds=3))
        starts.append(data["n"])
        await asyncio.sleep(0.7)

    await group.start(handle, concurrency=2, batch=2)
    await group.add(40, {"n": "due"})
    await eventually(lambda: len(starts) > 4)
    await group.add(40, {"n": "new"})
    await eventually(lambda: "new" in starts)
    first = starts.index("new")
    await eventually(lambda: len(starts) >= first + 20)
    assert 9 <= starts[first : first + 20].count("new") <= 11


async def test_claimed_entry_starts_before_the_backlog(group: Group) -> None:
    """The only slot is always busy, so the reader and the claims compete for it."""
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        await asyncio.sleep(0.3)
        handled.append(data["n"])

    await group.create_group()
    await group.add(1, {"n": "of a dead pod"})
    [dead] = await group.read_as("pod-z", 1)
    await group.add(60)
    await group.start(handle, batch=1, min_idle=1)
    await eventually(lambda: handled)
    await group.claim([dead], "pod-z", idle_ms=3_600_000)
    await eventually(lambda: "of a dead pod" in handled)
    assert handled.index("of a dead pod") < 20
