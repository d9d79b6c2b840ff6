"""Effects, retention and the removal of expired consumers in a running processor."""

from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Retention
from streamconsumer.processor import Effects
from streamconsumer.processor.consumer import claimer, liveness
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder


async def test_effects_are_applied_with_the_acknowledgement(any_group: Group) -> None:
    async def total(data: dict[str, Any]) -> Effects:
        return Effects().increment("total", int(data["amount"])).add("invoices", {"amount": data["amount"]})

    for amount in range(1, 6):
        await any_group.add(fields={"amount": str(amount)})
    await any_group.start(total)
    await eventually(lambda: any_group.client.get("total"))

    async def is_total_complete() -> bool:
        return await any_group.client.get("total") == "15"

    await eventually(is_total_complete)
    await any_group.wait_settled()
    assert await any_group.client.xlen("invoices") == 5


async def test_failed_effects_fail_their_message_and_apply_nothing(group: Group) -> None:
    async def count(_data: dict[str, Any]) -> Effects:
        return Effects().increment("counter").add("list", {"a": "1"})

    await group.client.rpush("list", "another program's value")
    await group.add()
    processor = await group.start(count)
    await eventually(lambda: processor.metrics.failed)
    assert await group.client.exists("counter") == 0
    await group.client.delete("list")
    await eventually(lambda: group.client.exists("counter"))
    await group.wait_settled()
    assert await group.client.get("counter") == "1"


async def test_only_entries_acknowledged_by_all_groups_are_trimmed(
    any_group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "TRIM_INTERVAL", timedelta(milliseconds=100))
    handler = Recorder()
    await any_group.create_group()
    await any_group.client.xgroup_create(STREAM, "others", "0")
    await any_group.add(5)
    processor = await any_group.start(handler, retention=Retention(acknowledged=True))
    await handler.wait_until_finished(5)
    await any_group.wait_settled()
    reply: Any = await any_group.client.xreadgroup("others", "one", {STREAM: ">"}, 10)
    message_ids = [message_id for message_id, _ in reply[0][1]]
    await any_group.client.xack(STREAM, "others", *message_ids[:3])
    await eventually(lambda: processor.metrics.trimmed == 3)
    assert await any_group.client.xlen(STREAM) == 2
    assert processor.metrics.lost_to_trimming == 0


async def test_expired_consumer_without_entries_is_deleted(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer was killed while idle. A consumer of another program is kept."""
    monkeypatch.setattr(liveness, "EXPIRE_AFTER", timedelta(seconds=2))
    await group.create_group()
    await group.client.xgroup_createconsumer(STREAM, GROUP, "killed")
    await group.client.hset(f"{{{STREAM}}}:{GROUP}:consumers", "killed", "1")
    await group.client.xgroup_createconsumer(STREAM, GROUP, "stranger")
    await group.start(Recorder())

    async def is_expired_consumer_deleted() -> bool:
        return await group.consumers() == {"pod-a", "stranger"}

    await eventually(is_expired_consumer_deleted)
