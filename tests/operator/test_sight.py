"""What others write must not fail the look at everybody who is looked at with it."""

from collections.abc import Sequence
from typing import Any

from streamconsumer.operator.redis_monitor import group_admin
from streamconsumer.operator.redis_monitor.probe import Place
from streamconsumer.redis_client.errors_table import Fault
from streamconsumer.redis_client.pipeline_client import Question

PLACE = Place("orders", "billing", "letters")
GROUP = [b"name", b"billing", b"consumers", 1, b"pending", 0, b"last-delivered-id", b"1-1", b"lag", 0]
NOTHING_PENDING = [0, None, None, None]


class Server:
    """Answers by the first words of a question."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[Question] = []

    async def ask(self, asked: Sequence[Question]) -> list[Any] | Fault:
        self.asked += asked
        return [self.answers["_".join(map(str, each[:2])).lower()] for each in asked]


async def test_a_consumer_whose_sign_of_life_is_no_number_stays() -> None:
    """It is there, as far as anybody can tell."""
    gone = [b"name", b"orders-consumer-abc-abcde", b"pending", 0, b"idle", 10**9]
    server = Server(xinfo_consumers=[gone], hgetall_x=[gone[1], b"soon"], time=[b"1000", b"0"])
    server.answers[f"hgetall_{PLACE.beside('consumers')}"] = server.answers.pop("hgetall_x")
    assert await group_admin.forget_gone(server.ask, PLACE, "orders-consumer", []) == []
    assert [each[0] for each in server.asked] == ["XINFO", "HGETALL", "TIME"]


async def test_a_group_whose_last_place_is_no_id_begins_where_it_is_to() -> None:
    """Somebody wrote into the status."""
    info = [b"length", 1, b"last-generated-id", b"5-0"]
    server = Server(xinfo_stream=info, xgroup_create=b"OK")
    await group_admin.create(server.ask, PLACE, "3-0", "yesterday")
    assert server.asked[-1] == ("XGROUP", "CREATE", "orders", "billing", "3-0", "MKSTREAM")
