"""What others write must not fail the look at everybody who is looked at with it."""

from collections.abc import Sequence
from typing import Any

from streamconsumer.operator.redis_monitor import group_admin
from streamconsumer.operator.redis_monitor.probe import GroupRef
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import Command

PLACE = GroupRef("orders", "billing", "letters")
GROUP = [b"name", b"billing", b"consumers", 1, b"pending", 0, b"last-delivered-id", b"1-1", b"lag", 0]
NOTHING_PENDING = [0, None, None, None]


class Server:
    """Answers by the first words of a question."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.executed: list[Command] = []

    async def execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        self.executed += commands
        return [self.answers["_".join(map(str, each[:2])).lower()] for each in commands]


async def test_a_consumer_whose_sign_of_life_is_no_number_stays() -> None:
    """It is there, as far as anybody can tell."""
    gone = [b"name", b"orders-consumer-abc-abcde", b"pending", 0, b"idle", 10**9]
    server = Server(xinfo_consumers=[gone], hgetall_x=[gone[1], b"soon"], time=[b"1000", b"0"])
    server.answers[f"hgetall_{PLACE.companion_key('consumers')}"] = server.answers.pop("hgetall_x")
    assert await group_admin.delete_stale_consumers(server.execute, PLACE, "orders-consumer", []) == []
    assert [each[0] for each in server.executed] == ["XINFO", "HGETALL", "TIME"]


async def test_a_group_whose_last_place_is_no_id_begins_where_it_is_to() -> None:
    """Somebody wrote into the status."""
    info = [b"length", 1, b"last-generated-id", b"5-0"]
    server = Server(xinfo_stream=info, xgroup_create=b"OK")
    await group_admin.create_group(server.execute, PLACE, "3-0", "yesterday")
    assert server.executed[-1] == ("XGROUP", "CREATE", "orders", "billing", "3-0", "MKSTREAM")
