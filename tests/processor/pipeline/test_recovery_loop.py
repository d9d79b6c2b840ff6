"""Claims: sources take turns, a claim looks again soon, and taken-over entries do not wait behind new ones."""

import asyncio
from functools import partial
from typing import Any

from streamconsumer.processor.message import Entry, Origin
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline import recovery_loop
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.recovery_loop import RecoveryLoop
from tests.processor.eventually import eventually
from tests.processor.group import Group


class EndlessClaimer:
    """Claimer with two sources that never end."""

    def __init__(self) -> None:
        self.claims: list[str] = []

    async def claim(self, name: str, count: int) -> list[Entry]:
        await asyncio.sleep(0.001)
        self.claims.append(name)
        entries = [Entry.redelivered(f"{len(self.claims)}-{number}", (), 1) for number in range(count)]
        for entry in entries:
            entry.origin = Origin.DUE if name == "due" else Origin.CLAIMED
        return entries

    async def claim_due(self, count: int) -> list[Entry]:
        return await self.claim("due", count)

    async def find(self) -> list[Any]:
        return [partial(self.claim, "dead"), self.claim_due]


def table(run: Any, concurrency: int = 1) -> InFlightTable:
    return InFlightTable(run, concurrency=concurrency, metrics=Metrics())


def loop_over(in_flight: InFlightTable) -> RecoveryLoop:
    consumer: Any = None
    options: dict[str, Any] = {"log_context": "", "metrics": Metrics()}
    return RecoveryLoop(consumer, in_flight, may_claim=lambda: True, batch_count=5, **options)


async def test_sources_take_turns_and_a_claim_ends_although_entries_are_left(monkeypatch: Any) -> None:
    monkeypatch.setattr(recovery_loop, "MAX_CLAIM_SECONDS", 0.1)
    claimer: Any = EndlessClaimer()

    async def run(_entry: Entry) -> None:
        pass

    loop = loop_over(table(run))
    assert await loop._claim_from(claimer, claimer.find), "entries are left"
    assert len(claimer.claims) > 4
    assert claimer.claims[::2] == ["dead"] * len(claimer.claims[::2])
    assert claimer.claims[1::2] == ["due"] * len(claimer.claims[1::2])


async def test_claims_use_their_own_room_while_all_slots_are_busy(monkeypatch: Any) -> None:
    monkeypatch.setattr(recovery_loop, "CAPACITY_TIMEOUT_SECONDS", 0.01)
    release, started = asyncio.Event(), []

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        await release.wait()

    in_flight, claimer = table(run, concurrency=2), EndlessClaimer()
    in_flight.admit([Entry(f"0-{number}", ()) for number in range(4)])
    await eventually(lambda: len(started) == 2)
    claimer_like: Any = claimer
    assert not await loop_over(in_flight)._claim_from(claimer_like, claimer.find), "no room is left"
    assert claimer.claims == ["dead", "due"]
    assert len(in_flight.ids()) == 4 + 2 + 2
    in_flight.close()
    release.set()


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
