"""Parser of a probe: any reply gives a result that Kubernetes can store."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from streamconsumer.model.status import StreamReason
from streamconsumer.operator.redis_monitor.probe import GroupRef, ProbeResult, parse_probe, with_position
from streamconsumer.redis_client.pipeline_client import classify_errors
from streamconsumer.redis_client.replies import MAX_COUNT

GROUP_REF = GroupRef("orders", "billing", "dead-letters")
GROUP, LENGTH, PENDING = [3, 1, b"5-0", 5, 7], 12, [b"1-0", 3, b"orders-consumer-abc-abcde 3"]

SCALARS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=30),
    st.sampled_from(
        [b"1-1", b"9" * 400, b"a 1 b", b"a b", ResponseError("ERR no such key"), ResponseError("NOPERM no")]
    ),
)
REPLIES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=6), max_leaves=20)


def probe(state: Any, dead_letters: Any = 2) -> ProbeResult:
    return parse_probe(GROUP_REF, [classify_errors(reply, "redis:6379") for reply in (state, dead_letters)])


@given(state=REPLIES | st.tuples(REPLIES, REPLIES, REPLIES).map(list), dead_letters=REPLIES)
def test_any_reply_gives_a_result(state: Any, dead_letters: Any) -> None:
    result = probe(state, dead_letters)
    numbers = (result.stats.model_dump() if result.stats else {}).values()
    assert all(0 <= number <= MAX_COUNT for number in numbers if isinstance(number, int))
    assert result.group_ready.message.isprintable()
    assert len(result.group_ready.message) < 1000


def test_documented_replies_give_the_statistics() -> None:
    result = probe([GROUP, LENGTH, PENDING])
    assert result.stats is not None
    assert (result.stats.pending, result.stats.lag, result.stats.length, result.stats.dead_letters) == (3, 7, 12, 2)
    assert result.pending_by_consumer == {"orders-consumer-abc-abcde": 3}
    assert (result.owned_pending, result.oldest_pending_id, result.entries_read) == (3, "1-0", 5)


def test_unknown_lag_stays_unknown() -> None:
    result = probe([[3, 1, b"5-0", -1, -1], LENGTH, PENDING])
    assert result.stats is not None
    assert (result.stats.lag, result.stats.lag_known, result.entries_read) == (None, False, None)


@pytest.mark.parametrize(
    "state",
    [
        b"surprise",
        None,
        7,
        [],
        [GROUP, LENGTH],
        [GROUP, -1, PENDING],
        [[3, 1, b"5", 5, 7], LENGTH, PENDING],
        [[b"x", 1, b"5-0", 5, 7], LENGTH, PENDING],
        [[3, -7, b"5-0", 5, 7], LENGTH, PENDING],
        [GROUP, LENGTH, b"pending"],
        [GROUP, LENGTH, [b"oldest", 3, b""]],
        [GROUP, LENGTH, [b"1-0", None, b""]],
        [GROUP, LENGTH, [b"1-0", 3, b"name"]],
        [GROUP, LENGTH, [b"1-0", 3, b"name x"]],
    ],
)
def test_unexpected_reply_is_named_in_the_condition(state: Any) -> None:
    result = probe(state)
    assert (result.redis_reachable.status, result.stats) == ("True", None)
    assert (result.group_ready.status, result.group_ready.reason) == ("False", StreamReason.UNEXPECTED_REPLY)
    assert ": found " in result.group_ready.message


def test_part_without_permission_is_unknown() -> None:
    denied = ResponseError("NOPERM User shop has no permissions to run the 'xlen' command")
    result = probe([GROUP, denied, denied])
    assert result.stats is not None
    assert (result.stats.length, result.stats.pending) == (None, 3)
    assert "grant +xlen +xpending with ACL SETUSER" in result.group_ready.message


@pytest.mark.parametrize("error", ["ERR unknown command 'EVAL'", "NOPERM this user has no permissions"])
def test_refused_script_is_no_missing_group(error: str) -> None:
    result = probe(ResponseError(error))
    assert (result.group_ready.status, result.group_ready.reason) == ("Unknown", StreamReason.NO_PERMISSION)
    assert "reading the group needs the permission +eval" in result.group_ready.message
    assert result.group_ready.reason is not StreamReason.GROUP_MISSING


def test_other_error_of_the_script_is_no_missing_group() -> None:
    """A service that has reached a limit, for example. The operator would otherwise start a pod to create the group."""
    result = probe(ResponseError("ERR max requests limit exceeded"))
    assert (result.group_ready.status, result.group_ready.reason) == ("False", StreamReason.UNEXPECTED_REPLY)
    assert "max requests limit exceeded" not in result.group_ready.message, "the server may be hidden from the author"
    assert result.group_ready.reason is not StreamReason.GROUP_MISSING


@pytest.mark.parametrize(
    ("length", "position", "start_from", "lag"),
    [
        (0, None, "0", 0),
        (0, "5-0", "0", 0),
        (0, None, "7-0", 0),
        (3, None, "0", 3),
        (3, "5-0", "0", None),
        (3, None, "7-0", None),
        (0, None, "$", None),
        (3, None, "$", None),
        (None, None, "0", None),
    ],
)
def test_unread_entries_without_a_group_are_known_only_if_no_pod_decides_the_position(
    length: int | None, position: str | None, start_from: str, lag: int | None
) -> None:
    no_xlen = ResponseError("NOPERM no")
    result = with_position(probe([None, no_xlen if length is None else length, None]), position, start_from)
    assert result.stats is not None
    assert (result.stats.lag, result.stats.lag_known) == (lag, lag is not None)
    assert result.stats.last_delivered_id == position


@pytest.mark.parametrize("error", ["ERR no such key", "NOGROUP no such group"])
def test_lost_stream_or_group_is_a_missing_group(error: str) -> None:
    assert probe(ResponseError(error)).group_ready.reason is StreamReason.GROUP_MISSING
