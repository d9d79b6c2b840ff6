"""Creation and cleanup of groups when other programs have written invalid values."""

from collections.abc import Sequence
from typing import Any

import pytest

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.redis_monitor import group_admin
from streamconsumer.operator.redis_monitor.monitored_stream import PollTarget
from streamconsumer.operator.redis_monitor.probe import GroupRef
from streamconsumer.redis_client import scripts
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import Command
from streamconsumer.redis_client.replies import UnexpectedReply
from tests.model.examples import manifest, stored

SCRIPT_NAMES: dict[str, str] = {text: name for name, text in vars(scripts).items() if name.isupper()}
GROUP_REF = GroupRef("orders", "billing", "dead-letters")


class FakeServer:
    """Server with one fixed reply for each command, or for each script by its name."""

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.executed: list[Command] = []

    async def execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        self.executed += commands
        return [self.replies[SCRIPT_NAMES.get(command[1], str(command[0]))] for command in commands]


async def test_only_consumers_named_like_pods_of_the_deployment_are_deleted() -> None:
    found = [b"orders-consumer-abc-abcde", b"orders-consumer-abc-fghij", b"orders-consumer-of-another", b"\xff"]
    server = FakeServer(FIND_ABSENT_CONSUMERS=found, DELETE_IDLE_CONSUMER=0)
    pods = ["orders-consumer-abc-fghij"]
    deleted = await group_admin.delete_stale_consumers(server.execute, GROUP_REF, "orders-consumer", pods)
    assert deleted == ["orders-consumer-abc-abcde"]


async def test_consumer_that_has_pending_entries_again_is_not_reported_as_deleted() -> None:
    server = FakeServer(FIND_ABSENT_CONSUMERS=[b"orders-consumer-abc-abcde"], DELETE_IDLE_CONSUMER=group_admin.KEPT)
    assert await group_admin.delete_stale_consumers(server.execute, GROUP_REF, "orders-consumer", []) == []


@pytest.mark.parametrize("reply", [b"name", [1], None, [[b"name"]]])
async def test_unexpected_list_of_consumers_is_an_error(reply: Any) -> None:
    server = FakeServer(FIND_ABSENT_CONSUMERS=reply)
    with pytest.raises(UnexpectedReply):
        await group_admin.delete_stale_consumers(server.execute, GROUP_REF, "orders-consumer", [])


@pytest.mark.parametrize(
    ("last_generated_id", "position"),
    [(b"5-0", "3-0"), (b"3-0", "3-0"), (b"2-0", "0"), (b"18446744073709551615-1", "3-0")],
)
async def test_lost_group_starts_at_its_position_unless_the_stream_is_new(
    last_generated_id: bytes, position: str
) -> None:
    server = FakeServer(LAST_GENERATED_ID=last_generated_id, XGROUP=b"OK")
    await group_admin.create_group(server.execute, GROUP_REF, "$", "3-0")
    assert server.executed[-1] == ("XGROUP", "CREATE", "orders", "billing", position, "MKSTREAM")


@pytest.mark.parametrize("message_id", ["yesterday", "18446744073709551616-0", "1-0\n", "-", ""])
def test_invalid_id_in_the_status_is_ignored(message_id: str) -> None:
    """A user has edited the status."""
    consumer = StreamConsumer.parse(stored(manifest(), "uid", 1))
    assert PollTarget.from_consumer(consumer, frozenset(), message_id, pod_has_run=False).last_delivered_id is None
