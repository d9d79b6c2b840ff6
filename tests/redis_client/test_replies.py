"""Parsers of untrusted replies: documented values, and an error for all others."""

import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError, ResponseError

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import MAX_COUNT, MAX_ID_PART, UnexpectedReply

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.binary(max_size=40),
    st.text(string.digits + "-_+ ٣", max_size=400).map(str.encode),
    st.just(ResponseError("ERR inside")),
)
REPLIES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=6), max_leaves=30)

PARSERS: list[Callable[[Any], Any]] = [
    lambda reply: replies.count(reply, "XLEN"),
    lambda reply: replies.optional_count(reply, "XLEN"),
    lambda reply: replies.text(reply, "XLEN"),
    lambda reply: replies.entry_id(reply, "XLEN"),
    lambda reply: replies.entries(reply, "XRANGE"),
    lambda reply: replies.numbers(reply, "HGETALL"),
    replies.to_dict,
    replies.server_time_microseconds,
    replies.stream_entries,
]


@pytest.mark.parametrize("parse", PARSERS)
@settings(max_examples=30)  # of each of the parsers
@given(reply=REPLIES)
def test_any_reply_is_parsed_or_refused(parse: Callable[[Any], Any], reply: Any) -> None:
    message = ""
    try:
        parse(reply)
    except UnexpectedReply as error:
        message = str(error)
    assert message == "" or message.isprintable()
    assert len(message) < 600


@pytest.mark.parametrize("reply", [0, MAX_COUNT, b"0", b"9223372036854775807"])
def test_count_in_the_documented_range_is_accepted(reply: Any) -> None:
    assert replies.count(reply, "XLEN") == int(reply)


@pytest.mark.parametrize(
    "reply", [-1, MAX_COUNT + 1, True, 1.0, float("nan"), None, b"", b"1_0", b" 1", b"+1", "1", [], b"9" * 400, 10**400]
)
def test_other_count_is_refused(reply: Any) -> None:
    with pytest.raises(UnexpectedReply, match=r"reply to XLEN: found .*, expected a number from 0 to"):
        replies.count(reply, "XLEN")


@pytest.mark.parametrize("reply", [None, -1, b"-1"])
def test_missing_lag_is_unknown(reply: Any) -> None:
    assert replies.optional_count(reply, "XINFO GROUPS") is None


@pytest.mark.parametrize("reply", [b"0-0", f"{MAX_ID_PART}-{MAX_ID_PART}".encode()])
def test_entry_id_in_the_documented_range_is_accepted(reply: bytes) -> None:
    assert replies.entry_id(reply, "XRANGE") == reply.decode()


@pytest.mark.parametrize(
    "reply",
    [
        f"{MAX_ID_PART + 1}-0".encode(),
        b"1",
        b"1-",
        b"-1",
        b"1-1-1",
        b"1-x",
        b"\xd9\xa1-\xd9\xa1",
        b"1-1\n",
        1,
        None,
        "1-1",
    ],
)
def test_other_entry_id_is_refused(reply: Any) -> None:
    with pytest.raises(UnexpectedReply):
        replies.entry_id(reply, "XRANGE")


@pytest.mark.parametrize("reply", [[b"name"], [b"name", 1, b"name", 2], [1, 2], [[b"name"], 2], {b"name": 1}, b"ab"])
def test_fields_with_odd_length_or_odd_names_are_refused(reply: Any) -> None:
    with pytest.raises(UnexpectedReply):
        replies.to_dict(reply)


def test_missing_field_is_named() -> None:
    with pytest.raises(UnexpectedReply, match="expected a field version"):
        replies.field({b"server": b"redis"}, "version", "HELLO")


def test_text_that_is_not_utf_8_is_escaped() -> None:
    assert replies.text(b"pod-\xff", "XINFO CONSUMERS") == "pod-\\xff"


def test_unexpected_reply_is_an_error_of_redis() -> None:
    """The loops of the processor retry after such an error, and the commands report it without a traceback."""
    assert issubclass(UnexpectedReply, RedisError)
