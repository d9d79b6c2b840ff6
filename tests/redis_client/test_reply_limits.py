"""Decoder of untrusted replies: same values as hiredis, and errors for replies above the limits."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import MAX_REPLY_BYTES, PipelineClient
from streamconsumer.redis_client.reply_limits import (
    INCOMPLETE,
    MAX_DEPTH,
    ReplyDecoder,
    ReplyLimits,
    ReplyTooLarge,
)

LIMIT = 10_000


def decode(chunks: Sequence[bytes], limits: ReplyLimits | None = None) -> list[Any]:
    """Return the complete replies in the chunks."""
    decoder = ReplyDecoder(limits or ReplyLimits(10**7))
    replies = []
    for chunk in chunks:
        decoder.feed(chunk)
        while (reply := decoder.next_reply()) is not INCOMPLETE:
            replies.append(reply)
    assert not decoder.has_data
    return replies


def encode(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    return b"*%d\r\n%s" % (len(value), b"".join(map(encode, value)))


integers = st.integers(-(2**63), 2**63 - 1)
values = st.recursive(
    st.none() | integers | st.binary(max_size=30), lambda inner: st.lists(inner, max_size=4), max_leaves=20
)


@given(st.lists(values, min_size=1, max_size=4), st.integers(1, 40))
def test_decoder_returns_the_values_of_hiredis_for_any_division_of_the_data(replies: list[Any], size: int) -> None:
    data = b"".join(map(encode, replies))
    reader = hiredis.Reader(notEnoughData=INCOMPLETE)
    reader.feed(data)
    assert decode([data[start : start + size] for start in range(0, len(data), size)]) == replies
    assert [reader.gets() for _ in replies] == replies


def test_error_replies_become_exceptions_also_inside_an_array() -> None:
    top, inside = decode([b"-WRONGTYPE no stream\r\n*2\r\n-ERR bad\r\n+OK\r\n"])
    assert isinstance(top, ResponseError)
    assert str(top) == "WRONGTYPE no stream"
    assert isinstance(inside[0], ResponseError)
    assert inside[1] == b"OK"


def test_error_text_is_cut() -> None:
    (error,) = decode([b"-ERR " + b"x" * 20_000 + b"\r\n"])
    assert len(str(error)) < 1000


TOO_LARGE = {
    "declared bulk string": b"$500000000\r\n",
    "largest bulk string": b"$9223372036854775807\r\n",
    "declared array": b"*2000000000\r\n",
    "nested declared arrays": b"*100\r\n*100\r\n*1000000000\r\n",
    "many empty arrays": b"*150\r\n" + b"*0\r\n" * 149 + b"*50\r\n",
    "endless simple string": b"+" + b"x" * 70_000,
    "long simple string": b"+" + b"x" * 20_000 + b"\r\n",
    "endless error": b"-" + b"x" * 70_000,
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE)
def test_reply_above_the_limit_is_refused_before_it_is_complete(data: bytes) -> None:
    with pytest.raises(ReplyTooLarge):
        decode([data], ReplyLimits(LIMIT))


NOT_RESP_2 = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "null of RESP 3": b"_\r\n",
    "boolean": b"#t\r\n",
    "double": b",1.5\r\n",
    "big number": b"(" + b"9" * 400 + b"\r\n",
    "map": b"%1000000000\r\n",
    "set": b"~1\r\n:1\r\n",
    "push": b">100000000\r\n",
    "attribute": b"|1\r\n+a\r\n+b\r\n",
    "verbatim string": b"=15\r\ntxt:Some string\r\n",
    "streamed string": b"$?\r\n;4\r\nHell\r\n",
    "integer of 400 digits": b":" + b"9" * 400 + b"\r\n",
    "integer above 64 bits": b":9223372036854775808\r\n",
    "integer with underscore": b":1_000\r\n",
    "integer with space": b": 1\r\n",
    "empty integer": b":\r\n",
    "negative length": b"$-5\r\n",
    "negative array": b"*-7\r\n",
    "zero with sign": b"*-0\r\n",
    "bulk string without end": b"$3\r\nabcXX\r\n",
    "endless length": b"$" + b"0" * 100,
    "deep nesting": b"*1\r\n" * (MAX_DEPTH + 1) + b":1\r\n",
    "deepest nesting": b"*1\r\n" * 100_000,
}


@pytest.mark.parametrize("data", NOT_RESP_2.values(), ids=NOT_RESP_2)
def test_data_that_is_not_resp_2_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidResponse) as error:
        decode([data])
    assert len(str(error.value)) < 200


def test_total_size_of_several_replies_is_limited() -> None:
    limits = ReplyLimits(LIMIT)
    limits.limit_total(2 * LIMIT)
    reply = encode(b"x" * (LIMIT - 100))
    assert len(decode([reply, reply], limits)) == 2
    with pytest.raises(ReplyTooLarge):
        decode([reply], limits)
    limits.limit_total(2 * LIMIT)
    assert len(decode([reply], limits)) == 1


@asynccontextmanager
async def pipeline_client(replies: Sequence[bytes], *, unsolicited: bytes = b"") -> AsyncIterator[PipelineClient]:
    """Client of a server that sends the given bytes for each received chunk of commands, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"LIB-VER")
            writer.write(b"+OK\r\n+OK\r\n")
            for reply in replies:
                await reader.readuntil(b"PING\r\n")
                writer.write(reply + unsolicited)
            await reader.read()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        settings = RedisSettings(url=f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        client = PipelineClient(RedisCredentials(settings), "orders", 20)
        try:
            yield client
        finally:
            await client.close()


async def test_client_names_server_command_and_limit_when_a_reply_is_too_large() -> None:
    async with pipeline_client([b"$2000000\r\n"]) as client:
        result = await client.execute([("PING",)])
        assert isinstance(result, RedisErrorInfo)
        assert result.code == "ReplyTooLarge"
        assert "127.0.0.1:" in result.message
        assert f"PING: the reply exceeds the limit of {MAX_REPLY_BYTES} bytes" in result.message


async def test_client_reconnects_when_the_server_sends_a_reply_without_a_command() -> None:
    async with pipeline_client([b"+first\r\n"], unsolicited=b"+second\r\n") as client:
        assert await client.execute([("PING",)]) == [b"first"]
        assert await client.execute([("PING",)]) == [b"first"]


async def test_client_reports_a_server_that_does_not_use_the_protocol() -> None:
    async with pipeline_client([b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as client:
        result = await client.execute([("PING",)])
        assert isinstance(result, RedisErrorInfo)
        assert "the server does not use the Redis protocol; check host and port" in result.message
        assert "Bad Request" not in result.message, "a tenant must not read the replies of other services"


def test_too_large_reply_is_a_connection_error() -> None:
    assert issubclass(ReplyTooLarge, RedisConnectionError)
