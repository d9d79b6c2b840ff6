"""What a server, a Secret or a producer may get wrong: one clear sentence, and back to work once it is right."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from redis.asyncio import Redis

from streamconsumer.model.processor_settings import TraceContextSettings
from streamconsumer.processor import RedisStreamProcessor
from streamconsumer.processor.message import Entry
from streamconsumer.processor.telemetry import SpanRecorder, current_traceparent
from streamconsumer.processor.telemetry.export_queue import ExportQueue
from streamconsumer.processor.telemetry.otlp_encoding import ExportRequest
from streamconsumer.processor.telemetry.trace_context import extract
from streamconsumer.redis_client.keys import group_key
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder

PASSWORD = "correct-horse-battery-staple"


def reason(processor: RedisStreamProcessor) -> str:
    return processor.health.readiness()[1]


async def is_not_ready(processor: RedisStreamProcessor, *words: str) -> None:
    await eventually(lambda: all(word in reason(processor) for word in words))
    assert not processor.health.readiness()[0]


async def is_ready(processor: RedisStreamProcessor) -> None:
    await eventually(lambda: processor.health.readiness()[0])


# -- the server -----------------------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_yet_is_waited_for(redis_server: RedisServer) -> None:
    group = Group(redis_server)
    redis_server.kill()
    handler = Recorder()
    processor = await group.start(handler)
    await is_not_ready(processor, "stream 'orders', group 'billing'", "Error 111")
    assert processor.is_running
    redis_server.start()
    await is_ready(processor)
    await group.add()
    await handler.wait_until_finished(1)
    await group.close()


async def test_a_wrong_password_is_told_without_telling_it(
    start_redis: StartRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start_redis({"requirepass": PASSWORD})
    group = Group(server)
    handler = Recorder()
    wrong = group.manager(server.url.replace(PASSWORD, "wrong-" + PASSWORD))
    processor = await group.start(handler, manager=wrong)
    await is_not_ready(processor, "the user name or the password is wrong", "Secret")
    await group.client.config_set("requirepass", "wrong-" + PASSWORD)
    await is_ready(processor)
    await group.client.aclose()
    group.client = Redis.from_url(f"redis://:wrong-{PASSWORD}@{server.host}:{server.port}", decode_responses=True)
    await group.add()
    await handler.wait_until_finished(1)
    await group.close()
    assert PASSWORD not in caplog.text + reason(processor)


async def test_a_missing_password_is_told(start_redis: StartRedis) -> None:
    server = start_redis({"requirepass": PASSWORD})
    group = Group(server, f"redis://{server.host}:{server.port}/0")
    processor = await group.start(Recorder())
    await is_not_ready(processor, "the server requires a password")
    await group.close()


async def test_a_permission_that_is_taken_away_and_given_back_is_told(any_group: Group) -> None:
    client, server = any_group.client, any_group.server
    await client.acl_setuser("shop", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"])
    handler = Recorder()
    manager = any_group.manager(f"redis://shop:pw@{server.host}:{server.port}/0")
    processor = await any_group.start(handler, manager=manager, poll=0.2)
    await is_ready(processor)
    await client.acl_setuser("shop", enabled=True, categories=["+@all"], commands=["-xreadgroup"])
    await is_not_ready(processor, "lacks a permission", "ACL SETUSER", "xreadgroup")
    await client.acl_setuser("shop", enabled=True, categories=["+@all"], commands=["+xreadgroup"])
    await any_group.add()
    await handler.wait_until_finished(1)
    await is_ready(processor)


async def test_a_password_that_changes_while_it_runs_is_noticed_at_the_next_connection(group: Group) -> None:
    processor = await group.start(Recorder(), poll=0.2)
    await group.wait_until_reading()
    await group.client.config_set("requirepass", PASSWORD)
    await group.client.client_kill_filter(_type="normal", skipme=True)
    await is_not_ready(processor, "the server requires a password")
    await group.client.config_set("requirepass", "")
    await is_ready(processor)


async def test_a_key_of_another_type_is_told_and_its_removal_noticed(any_group: Group) -> None:
    await any_group.client.set(STREAM, "not a stream")
    handler = Recorder()
    processor = await any_group.start(handler)
    await is_not_ready(processor, "the key is not a stream", "`stream`")
    await any_group.client.delete(STREAM)
    await is_ready(processor)
    await any_group.add(3)
    await handler.wait_until_finished(3)
    await any_group.wait_settled()


async def test_a_stream_that_is_replaced_by_another_type_while_it_is_read_is_told(any_group: Group) -> None:
    """With an acknowledgement on its way: two errors come at once, and none may be taken for the next answer."""
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, poll=0.2)
    await any_group.add()
    await handler.wait_until_received(1)
    await any_group.client.set(STREAM, "not a stream")
    handler.gate.set()
    await is_not_ready(processor, "the key is not a stream")
    await any_group.client.delete(STREAM)
    await is_ready(processor)
    ids = await any_group.add(20)
    await handler.wait_until_finished(21)
    await any_group.wait_settled()
    assert handler.ids[1:] == ids


async def test_a_server_out_of_memory_goes_on_being_drained(group: Group) -> None:
    """Redis refuses what adds, not what takes away: a full server needs its consumers most."""
    ids = await group.add(200)
    await group.create_group()
    await group.client.config_set("maxmemory", "1")
    handler = Recorder()
    await group.start(handler)
    await handler.wait_until_finished(200)
    await group.wait_settled()
    assert handler.ids == ids
    await group.client.config_set("maxmemory", "0")


async def test_a_failing_server_is_logged_now_and_then_not_every_time(caplog: pytest.LogCaptureFixture) -> None:
    group = Group(RedisServer(), f"redis://127.0.0.1:{free_port()}/0")
    processor = await group.start(Recorder())
    await eventually(lambda: processor.metrics.redis_errors >= 5)
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) <= 3
    await processor.stop_listening()
    await group.client.aclose()


# -- the entries ----------------------------------------------------------------------------------------------------


async def test_an_entry_that_is_not_text_fails_alone_and_says_what_to_do(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    before = await any_group.add()
    [binary] = await any_group.add(fields={"blob": b"\xff\xfe\x00"})
    after = await any_group.add()
    handler = Recorder()
    processor = await any_group.start(handler)
    await handler.wait_until_finished(2)
    await any_group.wait_until_reading()
    await any_group.wait_settled()
    assert handler.ids == before + after
    assert processor.metrics.failed == processor.metrics.dead_lettered == 1
    [told] = [vars(each)["error"] for each in caplog.records if each.message == "message cannot be decoded"]
    assert told == f"entry {binary}: b'\\xff\\xfe\\x00' is not UTF-8; set `encoding: bytes` to receive bytes"


async def test_bytes_are_handed_on_as_they_are_where_asked_for(any_group: Group) -> None:
    seen: list[dict[bytes, bytes]] = []

    async def handle(data: dict[Any, Any]) -> None:
        seen.append(data)

    await any_group.add(fields={b"\x00name": b"\xff\xfe\x00"})
    await any_group.start(handle, encoding="bytes")
    await eventually(lambda: seen == [{b"\x00name": b"\xff\xfe\x00"}])
    await any_group.wait_settled()


@pytest.mark.parametrize(
    "fields",
    [
        {"": ""},
        {"empty": ""},
        {"line": "a\r\nb\x00c"},
        {"$5": "*3\r\n$4\r\nXACK\r\n"},
        {"größe": "日本語 🎉"},
        {"big": "x" * 5_000_000},
        {f"field-{number}": str(number) for number in range(2000)},
    ],
    ids=["empty-name", "empty-value", "control", "protocol", "unicode", "5-MB", "2000-fields"],
)
async def test_odd_values_arrive_as_they_were_sent(any_group: Group, fields: dict[str, str]) -> None:
    handler = Recorder()
    await any_group.start(handler)
    await any_group.add(fields=fields)
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    assert handler.received[0].data == fields


async def test_a_field_that_occurs_twice_keeps_its_last_value(group: Group) -> None:
    handler = Recorder()
    await group.start(handler)
    await group.client.execute_command("XADD", STREAM, "*", "a", "1", "a", "2")  # type: ignore[no-untyped-call] # ships no types for it
    await handler.wait_until_finished(1)
    assert handler.received[0].data == {"a": "2"}


async def test_odd_names_of_streams_groups_and_consumers_work(redis_server: RedisServer) -> None:
    stream, group_name, consumer = "orders {eu}:\n 日本", "billing 'x'", "pod a\t1"
    group = Group(redis_server)
    handler = Recorder()
    processor = RedisStreamProcessor(group.manager(), stream, group_name, consumer)
    processor.set_message_callback(handler)
    await processor.start_listening()
    await group.client.xadd(stream, {"n": "1"})
    await handler.wait_until_finished(1)
    await processor.stop_listening()
    assert int((await group.client.xpending(stream, group_name))["pending"]) == 0
    await group.close()


# -- the producer's context -------------------------------------------------------------------------------------------

WELL_FORMED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
text_or_bytes = st.text() | st.binary() | st.just(WELL_FORMED)
near_misses = st.builds(
    lambda text, at, by: text[:at] + by + text[at + 1 :],
    st.just(WELL_FORMED),
    st.integers(0, len(WELL_FORMED)),
    st.text(max_size=3),
)
fields_of_a_producer = st.dictionaries(
    st.sampled_from(["traceparent", "tracestate", b"traceparent", b"tracestate", "baggage"]),
    text_or_bytes | near_misses | near_misses.map(lambda text: text.encode(errors="replace")),
)


def unsent(spans: list[bytes], **options: Any) -> SpanRecorder:
    """What is recorded is kept."""
    outbox = ExportQueue(lambda _: True)
    outbox.put = spans.append  # type: ignore[method-assign, assignment]
    assert outbox.close(1)
    server: Callable[[], tuple[str, int | None]] = lambda: ("localhost", 6379)  # noqa: E731
    return SpanRecorder(outbox, stream=STREAM, consumer_group=GROUP, consumer="pod-a", server=server, **options)


@given(fields_of_a_producer)
@settings(max_examples=500, deadline=None)
def test_no_context_whatever_it_is_fails_a_message(data: dict[Any, Any]) -> None:
    entry, spans = Entry("1-0", ()), list[bytes]()
    telemetry = unsent(spans, trace_context=TraceContextSettings(baggage=["user"]))
    attempt = telemetry.start_attempt(entry, data)
    assert attempt
    assert current_traceparent()
    telemetry.end_attempt(attempt, entry, "ack")
    for span in spans:
        TracesData.FromString(ExportRequest({}, "a", "1", "b").encode([span]))


def test_a_context_that_is_too_long_is_not_even_read() -> None:
    assert not extract({"traceparent": WELL_FORMED + "0" * 10_000_000})
    assert not extract({"traceparent": WELL_FORMED.encode() + b"\xff" * 600})
    assert extract({"traceparent": WELL_FORMED, "tracestate": "a=" + "b" * 10_000_000})
    assert extract({b"traceparent": WELL_FORMED.encode()})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(fields_of_a_producer.filter(bool), min_size=1, max_size=5))
def test_messages_with_any_context_are_handled(redis_server: RedisServer, batch: list[dict[Any, Any]]) -> None:
    async def run() -> None:
        group = Group(redis_server)
        await group.client.flushall()
        telemetry = unsent([])
        for fields in batch:
            encoded = {
                (name.encode() if isinstance(name, str) else name): (
                    value.encode(errors="replace") if isinstance(value, str) else value
                )
                for name, value in fields.items()
            }
            await group.add(fields=encoded)
        handler = Recorder()
        await group.start(handler, encoding="bytes", settings={"telemetry": telemetry})
        await handler.wait_until_finished(len(batch))
        await group.wait_settled()
        await group.close()

    asyncio.run(run())


async def test_text_in_any_script_is_handed_on_beside_what_is_no_text(any_group: Group) -> None:
    """The reply is parsed as text; whether all of it is text, each message finds out for itself."""
    texts = [{"имя": "Ёлка 🎄"}, {"plain": "ascii"}, {"名": "\u0000\ud7ff\ue000"}, {"": ""}]
    for fields in texts:
        await any_group.add(fields=fields)
        await any_group.add(fields={b"\xed\xa0\x80": b"\xff", "half": "é".encode()[:1]})
    handler = Recorder()
    processor = await any_group.start(handler)
    await handler.wait_until_finished(len(texts))
    await any_group.wait_settled()
    assert [message.data for message in handler.received] == texts
    await eventually(lambda: processor.metrics.dead_lettered == len(texts))
    letters = await any_group.client.execute_command(  # type: ignore[no-untyped-call] # ships no types for it
        "XRANGE", group_key(STREAM, GROUP, "dead-letters"), "-", "+", NEVER_DECODE=True
    )
    kept = {b"\xed\xa0\x80": b"\xff", b"half": b"\xc3"}
    assert all(kept.items() <= fields.items() for _, fields in letters), "as they were"
