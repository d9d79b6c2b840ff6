"""A consumer reads its own pending entries again, page by page, without those that it has in flight."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from streamconsumer.processor.consumer import replay
from streamconsumer.processor.consumer.large_entries import Claimed
from streamconsumer.processor.consumer.pending_entries import Dead, PendingEntry
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.consumer.replay import uncount_lost_read
from streamconsumer.processor.message import CLAIMED, Entry
from streamconsumer.processor.metrics import Metrics
from tests.processor.group import GROUP, STREAM, Group


class Restarted:
    """Consumer pod-a after a restart. It has not read anything yet."""

    def __init__(self, group: Group) -> None:
        self.in_flight: list[str] = []
        self.consumer = RedisConsumer(
            group.manager(),
            STREAM,
            GROUP,
            "pod-a",
            block=timedelta(seconds=1),
            metrics=Metrics(),
            in_flight_ids=lambda: self.in_flight,
        )
        self.replay = self.consumer.replay

    async def read_page(self, last_delivered_id: str = "9999999999999-0") -> list[str]:
        """Read one page. Returns the ids of its entries, which are in flight from then on."""
        entries = await self.replay.read_page(last_delivered_id)
        assert {entry.origin for entry in entries} <= {CLAIMED}
        ids = [entry.message_id for entry in entries]
        self.in_flight += ids
        return ids


@pytest.fixture
async def restarted(group: Group) -> AsyncIterator[Restarted]:
    await group.create_group()
    restarted = Restarted(group)
    yield restarted
    await restarted.consumer.bounded_reads.close()


async def test_own_pending_entries_are_read_page_by_page(
    restarted: Restarted, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "PAGE_SIZE", 2)
    await group.add(8)
    ids = await group.read_as("pod-a", 5)
    await group.read_as("pod-b")
    assert restarted.replay.is_pending
    assert [await restarted.read_page() for _ in range(3)] == [ids[:2], ids[2:4], ids[4:]]
    assert not restarted.replay.is_pending
    restarted.in_flight.clear()
    restarted.replay.request()
    assert restarted.replay.is_pending
    assert await restarted.read_page() == ids[:2], "the replay starts again"


async def test_page_is_not_larger_than_a_read(restarted: Restarted, group: Group) -> None:
    await group.add(5)
    ids = await group.read_as("pod-a")
    restarted.consumer.read_size.max_count = 3
    assert await restarted.read_page() == ids[:3]


async def test_entries_in_flight_and_acknowledged_ones_are_left_out(restarted: Restarted, group: Group) -> None:
    await group.add(4)
    in_flight, acknowledged, settled_meanwhile, left = await group.read_as("pod-a")
    restarted.in_flight = [in_flight]
    buffer, claim = restarted.consumer.ack_buffer, restarted.consumer.claim
    buffer.add(acknowledged)
    buffer.take_batch()

    async def claim_and_settle(pending: Sequence[PendingEntry], dead: Dead) -> Claimed:
        assert [each.message_id for each in pending] == [settled_meanwhile, left]
        claimed = await claim(pending, dead)
        buffer.record_acked(settled_meanwhile)
        return claimed

    restarted.consumer.claim = claim_and_settle  # type: ignore[assignment,method-assign]
    assert await restarted.read_page() == [left]


async def test_replay_continues_after_the_last_entry_that_fitted_into_the_reply(
    restarted: Restarted, group: Group
) -> None:
    await group.add(3)
    ids = await group.read_as("pod-a")
    claim = restarted.consumer.claim

    async def claim_two(pending: Sequence[PendingEntry], dead: Dead) -> Claimed:
        return await claim(pending[:2], dead)

    restarted.consumer.claim = claim_two  # type: ignore[assignment,method-assign]
    assert await restarted.read_page() == ids[:2]
    assert restarted.replay.is_pending
    assert await restarted.read_page() == ids[2:]
    assert not restarted.replay.is_pending


async def test_entries_that_did_not_start_are_read_again(restarted: Restarted, group: Group) -> None:
    await group.add(4)
    ids = await group.read_as("pod-a")
    await group.claim([ids[1]], "pod-b")
    await group.client.xdel(STREAM, ids[2])
    entries: list[Entry] = await restarted.replay.read_again(ids)
    assert [(entry.message_id, entry.deliveries) for entry in entries] == [(ids[0], 1), (ids[3], 1)]


@pytest.mark.parametrize(
    ("deliveries", "last_delivered_id", "expected"),
    [(1, "5-9", 1), (1, "5-10", 1), (1, "4-99", 0), (2, "4-99", 2), (0, "4-99", 0)],
)
def test_entry_that_did_not_reach_the_process_has_no_attempt(
    deliveries: int, last_delivered_id: str, expected: int
) -> None:
    assert uncount_lost_read(PendingEntry("5-9", deliveries), last_delivered_id) == PendingEntry("5-9", expected)
