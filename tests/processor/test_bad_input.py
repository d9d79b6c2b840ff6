"""Bad input from servers, Secrets and producers: one clear message, and recovery once the input is correct."""

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


async def wait_until_not_ready(processor: RedisStreamProcessor, *words: str) -> None:
    await eventually(lambda: all(word in reason(processor) for word in words))
    assert not processor.health.readiness()[0]


async def wait_until_ready(processor: RedisStreamProcessor) -> None:
    await eventually(lambda: processor.health.readiness()[0])


# -- the server -----------------------------------------------------------------------------------------------------


async def test_processor_waits_for_a_server_that_is_not_up_yet(redis_server: RedisServer) -> None:
    group = Group(redis_server)
    redis_server.kill()
    handler = Recorder()
    processor = await group.start(handler)
    await wait_until_not_ready(processor, "stream 'orders', group 'billing'", "Error 111")
    assert processor.is_running
    redis_server.start()
    await wait_until_ready(processor)
    await group.add()
    await handler.wait_until_finished(1)
    await group.close()


async def test_wrong_password_is_reported_without_the_password(
    start_redis: StartRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start_redis({"requirepass": PASSWORD})
    group = Group(server)
    handler = Recorder()
    wrong = group.manager(server.url.replace(PASSWORD, "wrong-" + PASSWORD))
    processor = await group.start(handler, manager=wrong)
    await wait_until_not_ready(processor, "the user name or the password is wrong", "Secret")
    await group.client.config_set("requirepass", "wrong-" + PASSWORD)
    await wait_until_ready(processor)
    await group.client.aclose()
    group.client = Redis.from_url(f"redis://:wrong-{PASSWORD}@{server.host}:{server.port}", decode_responses=True)
    await group.add()
    await handler.wait_until_finished(1)
    await group.close()
    assert PASSWORD not in caplog.text + reason(processor)


async def test_missing_password_is_reported(start_redis: StartRedis) -> None:
    server = start_redis({"requirepass": PASSWORD})
    group = Group(server, f"redis://{server.host}:{server.port}/0")
    processor = await group.start(Recorder())
    await wait_until_not_ready(processor, "the server requires a password")
    await group.close()


async def test_revoked_permission_is_reported_until_it_is_granted_again(any_group: Group) -> None:
    client, server = any_group.client, any_group.server
    await client.acl_setuser("shop", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"])
    handler = Recorder()
    manager = any_group.manager(f"redis://shop:pw@{server.host}:{server.port}/0")
    processor = await any_group.start(handler, manager=manager, poll=0.2)
    await wait_until_ready(processor)
    await client.acl_setuser("shop", enabled=True, categories=["+@all"], commands=["-xreadgroup"])
    await wait_until_not_ready(processor, "lacks a permission", "ACL SETUSER", "xreadgroup")
    await client.acl_setuser("shop", enabled=True, categories=["+@all"], commands=["+xreadgroup"])
    await any_group.add()
    await handler.wait_until_finished(1)
    await wait_until_ready(processor)


async def test_changed_password_is_reported_at_the_next_connection(group: Group) -> None:
    processor = await group.start(Recorder(), poll=0.2)
    await group.wait_until_reading()
    await group.client.config_set("requirepass", PASSWORD)
    await group.client.client_kill_filter(_type="normal", skipme=True)
    await wait_until_not_ready(processor, "the server requires a password")
    await group.client.config_set("requirepass", "")
    await wait_until_ready(processor)


async def test_key_of_another_type_is_reported_until_it_is_deleted(any_group: Group) -> None:
    await any_group.client.set(STREAM, "not a stream")
    handler = Recorder()
    processor = await any_group.start(handler)
    await wait_until_not_ready(processor, "contains another type of value", "`stream`")
    await any_group.client.delete(STREAM)
    await wait_until_ready(processor)
    await any_group.add(3)
    await handler.wait_until_finished(3)
    await any_group.wait_settled()


async def test_stream_replaced_by_another_type_during_a_read_is_reported(any_group: Group) -> None:
    """An acknowledgement is in the same request: both commands fail, and neither error may be read as a later reply."""
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, poll=0.2)
    await any_group.add()
    await handler.wait_until_received(1)
    await any_group.client.set(STREAM, "not a stream")
    handler.gate.set()
    await wait_until_not_ready(processor, "contains another type of value")
    await any_group.client.delete(STREAM)
    await wait_until_ready(processor)
    ids = await any_group.add(20)
    await handler.wait_until_finished(21)
    await any_group.wait_settled()
    assert handler.ids[1:] == ids


async def test_backlog_is_handled_while_the_server_is_out_of_memory(group: Group) -> None:
    """Redis rejects commands that add data, not those that remove it. A full server needs its consumers most."""
    ids = await group.add(200)
    await group.create_group()
    await group.client.config_set("maxmemory", "1")
    handler = Recorder()
    await group.start(handler)
    await handler.wait_until_finished(200)
    await group.wait_settled()
    assert handler.ids == ids
    await group.client.config_set("maxmemory", "0")


async def test_errors_of_a_failing_server_are_logged_at_growing_intervals(caplog: pytest.LogCaptureFixture) -> None:
    group = Group(RedisServer(), f"redis://127.0.0.1:{free_port()}/0")
    processor = await group.start(Recorder())
    await eventually(lambda: processor.metrics.redis_errors >= 5)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) <= 3
    await processor.stop_listening()
    await group.client.aclose()


# -- the entries ----------------------------------------------------------------------------------------------------


async def test_entry_that_is_not_utf8_fails_alone_with_a_remedy(
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
    [error] = [vars(record)["error"] for record in caplog.records if record.message == "message cannot be decoded"]
    assert error == f"entry {binary}: b'\\xff\\xfe\\x00' is not UTF-8; set `encoding: bytes` to receive bytes"


async def test_bytes_encoding_passes_bytes_unchanged(any_group: Group) -> None:
    received: list[dict[bytes, bytes]] = []

    async def handle(data: dict[Any, Any]) -> None:
        received.append(data)

    await any_group.add(fields={b"\x00name": b"\xff\xfe\x00"})
    await any_group.start(handle, encoding="bytes")
    await eventually(lambda: received == [{b"\x00name": b"\xff\xfe\x00"}])
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
async def test_unusual_values_arrive_unchanged(any_group: Group, fields: dict[str, str]) -> None:
    handler = Recorder()
    await any_group.start(handler)
    await any_group.add(fields=fields)
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    assert handler.received[0].data == fields


async def test_repeated_field_keeps_its_last_value(group: Group) -> None:
    handler = Recorder()
    await group.start(handler)
    await group.client.execute_command("XADD", STREAM, "*", "a", "1", "a", "2")  # type: ignore[no-untyped-call] # ships no types for it
    await handler.wait_until_finished(1)
    assert handler.received[0].data == {"a": "2"}


async def test_unusual_names_of_streams_groups_and_consumers_work(redis_server: RedisServer) -> None:
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
producer_fields = st.dictionaries(
    st.sampled_from(["traceparent", "tracestate", b"traceparent", b"tracestate", "baggage"]),
    text_or_bytes | near_misses | near_misses.map(lambda text: text.encode(errors="replace")),
)


def recorder_into(spans: list[bytes], **options: Any) -> SpanRecorder:
    """Create a span recorder that stores its spans in `spans` instead of exporting them."""
    export_queue = ExportQueue(lambda _: True)
    export_queue.put = spans.append  # type: ignore[method-assign, assignment]
    assert export_queue.close(1)
    server: Callable[[], tuple[str, int | None]] = lambda: ("localhost", 6379)  # noqa: E731
    return SpanRecorder(export_queue, stream=STREAM, consumer_group=GROUP, consumer="pod-a", server=server, **options)


@given(producer_fields)
@settings(max_examples=500, deadline=None)
def test_no_trace_context_fails_a_message(data: dict[Any, Any]) -> None:
    entry, spans = Entry("1-0", ()), list[bytes]()
    telemetry = recorder_into(spans, trace_context=TraceContextSettings(baggage=["user"]))
    attempt = telemetry.start_attempt(entry, data)
    assert attempt
    assert current_traceparent()
    telemetry.end_attempt(attempt, entry, "ack")
    for span in spans:
        TracesData.FromString(ExportRequest({}, "a", "1", "b").encode([span]))


def test_too_long_trace_context_is_ignored() -> None:
    assert not extract({"traceparent": WELL_FORMED + "0" * 10_000_000})
    assert not extract({"traceparent": WELL_FORMED.encode() + b"\xff" * 600})
    assert extract({"traceparent": WELL_FORMED, "tracestate": "a=" + "b" * 10_000_000})
    assert extract({b"traceparent": WELL_FORMED.encode()})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(producer_fields.filter(bool), min_size=1, max_size=5))
def test_messages_with_any_trace_context_are_handled(redis_server: RedisServer, batch: list[dict[Any, Any]]) -> None:
    async def run() -> None:
        group = Group(redis_server)
        await group.client.flushall()
        telemetry = recorder_into([])
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


async def test_text_in_any_script_is_handled_next_to_entries_that_are_not_utf8(any_group: Group) -> None:
    """The reply is parsed as text. Each entry then checks by itself whether it is valid UTF-8."""
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
    dead_letters = await any_group.client.execute_command(  # type: ignore[no-untyped-call] # ships no types for it
        "XRANGE", group_key(STREAM, GROUP, "dead-letters"), "-", "+", NEVER_DECODE=True
    )
    original_fields = {b"\xed\xa0\x80": b"\xff", b"half": b"\xc3"}
    assert all(original_fields.items() <= fields.items() for _, fields in dead_letters)
