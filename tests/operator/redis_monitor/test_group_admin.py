"""Creation and cleanup of groups when other programs have written invalid values."""

from collections.abc import Sequence
from typing import Any

from streamconsumer.operator.redis_monitor import group_admin
from streamconsumer.operator.redis_monitor.probe import GroupRef
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import Command

GROUP_REF = GroupRef("orders", "billing", "dead-letters")


class FakeServer:
    """Server with one fixed reply per command and key."""

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.executed: list[Command] = []

    async def execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        self.executed += commands
        return [self.replies["_".join(map(str, command[:2])).lower()] for command in commands]


async def test_consumer_is_kept_when_its_announcement_is_not_a_number() -> None:
    """Its age is unknown."""
    consumer = [b"name", b"orders-consumer-abc-abcde", b"pending", 0, b"idle", 10**9]
    server = FakeServer(xinfo_consumers=[consumer], hgetall_x=[consumer[1], b"soon"], time=[b"1000", b"0"])
    server.replies[f"hgetall_{GROUP_REF.companion_key('consumers')}"] = server.replies.pop("hgetall_x")
    assert await group_admin.delete_stale_consumers(server.execute, GROUP_REF, "orders-consumer", []) == []
    assert [command[0] for command in server.executed] == ["XINFO", "HGETALL", "TIME"]


async def test_group_starts_at_start_from_when_the_status_has_an_invalid_id() -> None:
    """A user has edited the status."""
    info = [b"length", 1, b"last-generated-id", b"5-0"]
    server = FakeServer(xinfo_stream=info, xgroup_create=b"OK")
    await group_admin.create_group(server.execute, GROUP_REF, "3-0", "yesterday")
    assert server.executed[-1] == ("XGROUP", "CREATE", "orders", "billing", "3-0", "MKSTREAM")
