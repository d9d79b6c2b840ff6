"""Values that another program has written to the companion keys of a group stop no consumer of the group."""

import signal
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor import Retry
from streamconsumer.redis_client.keys import group_key
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.recorder import Recorder, fail_first_delivery

LAST_KNOWN, POSTPONED, CONSUMERS, REGISTRATIONS = (
    group_key(STREAM, GROUP, suffix) for suffix in ("last-known", "postponed", "consumers", "registrations")
)

NOT_IDS = [b"x", b"\xff", b"1-1-1", b"99999999999999999999-0", b"-", b"1-"]

SNAPSHOTS: dict[str, dict[str, Any]] = {
    "unknown stage": {"stage": "x"},
    "schedule without cursor": {"stage": "schedule"},
    "schedule with an invalid cursor": {"stage": "schedule", "cursor": "x"},
    "delivered without bounds": {"stage": "delivered"},
    "delivered with invalid bounds": {"stage": "delivered", "cursor": "x", "until": "y"},
    "pending entries that are not ids": {"stage": "pending", "cursor": "x", "pending": b" ".join(NOT_IDS)},
    "invalid time": {"at": "x"},
    "invalid format": {"format": "x"},
    "invalid position": {"position": "x"},
    "binary values": {"position": b"\xff\x00", "at": b"\xff", "pending": b"\xff" * 1000},
}


@ON_ONE_SERVER
@pytest.mark.parametrize("fields", SNAPSHOTS.values(), ids=list(SNAPSHOTS))
@pytest.mark.parametrize("is_destroyed", [False, True], ids=["group kept", "group destroyed"])
async def test_snapshot_with_invalid_fields_is_replaced(
    any_group: Group, fields: dict[Any, Any], is_destroyed: bool
) -> None:
    handler = Recorder()
    await any_group.start(handler, poll=1)
    await any_group.add()
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    await any_group.client.hset(LAST_KNOWN, mapping=fields)
    if is_destroyed:
        await any_group.client.xgroup_destroy(STREAM, GROUP)
    await any_group.add()
    await handler.wait_until_finished(2)
    peer = await any_group.start(Recorder(), "pod-b")
    await eventually(lambda: peer.health.readiness()[0])
    [last] = await any_group.add()

    async def is_saved() -> bool:
        position, is_restoring = await any_group.client.hmget(LAST_KNOWN, "position", "stage")
        return (position, is_restoring) == (last, None)

    await eventually(is_saved)


@ON_ONE_SERVER
async def test_schedule_with_members_that_are_not_ids(any_group: Group) -> None:
    await any_group.client.zadd(POSTPONED, {member: score for score, member in enumerate(NOT_IDS)})
    handler = Recorder(fail_first_delivery(Retry("later", after=timedelta(seconds=2.5))))
    await any_group.add()
    await any_group.start(handler)
    await handler.wait_until_finished(1)
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await any_group.add()
    await handler.wait_until_finished(2)
    await any_group.wait_settled()


HUGE = "x" * 40_000_000
"""Text that exceeds the maximum size of a reply."""

LIES = {
    "id 0": (REGISTRATIONS, "liar", "1 run token 0 -"),
    "id above the maximum": (REGISTRATIONS, "liar", f"1 run token {2**63} -"),
    "many ids": (REGISTRATIONS, "liar", f"1 run token {','.join(map(str, range(1, 200_000)))} -"),
    "huge registration": (REGISTRATIONS, "liar", HUGE),
    "huge registration of this consumer": (REGISTRATIONS, "pod-b", HUGE),
    "huge name": (REGISTRATIONS, HUGE, "1"),
    "huge version": (REGISTRATIONS, "", HUGE),
    "huge announcement": (CONSUMERS, "liar", HUGE),
    "announcement in the future": (CONSUMERS, "liar", str(2**60)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("key", "field", "value"), LIES.values(), ids=list(LIES))
async def test_messages_of_a_dead_pod_are_claimed_despite_lies(
    group: Group, new_pod: NewPod, key: str, field: str, value: str
) -> None:
    await group.add(1, {"seconds": "60"})
    pod = new_pod("pod_handlers:slow").start()
    await pod.wait_for_log("started")
    await group.client.hset(key, field, value)
    peer = Recorder()
    processor = await group.start(peer, "pod-b", min_idle=4)
    await eventually(lambda: processor.health.readiness()[0])
    pod.signal(signal.SIGKILL)
    await peer.wait_until_finished(1)


@pytest.mark.slow
async def test_entries_are_released_despite_a_huge_reader(group: Group) -> None:
    handler, peer = Recorder(gate=False), Recorder()
    stopping = await group.start(handler)
    ids = await group.add(3)
    await handler.wait_until_received(1)
    await group.client.hset(REGISTRATIONS, "liar", HUGE)
    await group.start(peer, "pod-b")
    stopping.force_stop()
    await stopping.stop_listening()
    await peer.wait_until_finished(2)
    assert set(peer.ids) <= set(ids)
