"""Spans of one message across attempts, processes, dead letters and replays, in a real collector."""

import asyncio
import signal
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import Defer, Effects, Message, Reject, current_message, inject, sending
from streamconsumer.processor.telemetry.trace_identity import DeterministicIds
from tests.cluster.collector import Collector
from tests.processor.dead_letters.dead_letter_factory import dead_letter_store
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.recorder import Recorder, fail_first_delivery
from tests.processor.telemetry.telemetry_kit import (
    NewTelemetryKit,
    TelemetryKit,
    linked_span_ids,
    only_link,
    wait_for_named_spans,
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
PROCESS, ACK, CLAIM = f"process {STREAM}", f"ack {STREAM}", f"claim {STREAM}"


def fail_twice(error: BaseException) -> Any:
    return lambda message: error if message.deliveries < 3 else None


@pytest.mark.parametrize("fields", [{"traceparent": SAMPLED}, {"n": "1"}], ids=["a producer's trace", "none"])
async def test_attempt_links_to_the_previous_attempt_and_has_its_outcome(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector, fields: dict[str, str]
) -> None:
    await group.add(fields=fields)
    await group.start(Recorder(fail_twice(RuntimeError("no"))), settings={"telemetry": telemetry_kit.telemetry})
    attempts = await wait_for_named_spans(collector, PROCESS, 3)
    assert len({span.trace_id for span in attempts}) == 1
    assert len({span.span_id for span in attempts}) == 3
    assert [span.attributes["streamconsumer.outcome"] for span in attempts] == ["retry", "retry", "ack"]
    assert [span.attributes.get("streamconsumer.delivery.count") for span in attempts] == [None, 2, 3]
    assert [linked_span_ids(span, "previous_attempt") for span in attempts] == [
        [],
        [attempts[0].span_id],
        [attempts[1].span_id],
    ]


async def test_retry_in_another_pod_links_to_the_previous_attempt(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    """The second process knows only the delivery count in Redis."""
    group.delivery = Delivery()
    [message_id] = await group.add(fields={"traceparent": SAMPLED})
    first, second = new_telemetry_kit(), new_telemetry_kit(consumer="pod-b")
    handler = Recorder(fail_first_delivery(RuntimeError("no")))
    processor = await group.start(handler, settings={"telemetry": first.telemetry})
    await handler.wait_until_received(1)
    await processor.stop_listening()  # releases the waiting entry
    await group.start(Recorder(), "pod-b", settings={"telemetry": second.telemetry})
    before, after = await wait_for_named_spans(collector, PROCESS, 2)
    assert (before.attributes["messaging.client.id"], after.attributes["messaging.client.id"]) == ("pod-a", "pod-b")
    assert linked_span_ids(after, "previous_attempt") == [before.span_id]
    assert before.attributes["messaging.message.id"] == after.attributes["messaging.message.id"] == message_id


async def test_claim_links_to_the_attempt_of_a_killed_process(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector, new_pod: NewPod
) -> None:
    """The span of a killed attempt is never exported. Only a log line and child spans show its id."""
    await group.add(fields={"seconds": "60", "traceparent": SAMPLED})
    pod = new_pod("pod_handlers:slow").start(environment=collector.environment)
    [line] = await pod.wait_for_log("started")
    await group.start(Recorder(), "pod-b", min_idle=1, settings={"telemetry": telemetry_kit.telemetry})
    pod.signal(signal.SIGKILL)
    [claim] = await wait_for_named_spans(collector, CLAIM)
    assert (claim.kind, claim.attributes["messaging.operation.type"]) == ("CLIENT", "receive")
    assert claim.attributes["streamconsumer.claimed_from"] == "pod-a"
    link = only_link(claim, "attempt")
    assert (link.trace_id, link.span_id) == (TRACE, line["span_id"])
    [retry] = await wait_for_named_spans(collector, PROCESS)
    assert linked_span_ids(retry, "previous_attempt") == [line["span_id"]]
    assert linked_span_ids(retry, "claim") == [claim.span_id]
    assert retry.attributes["streamconsumer.claimed_from"] == "pod-a"
    assert retry.trace_id == TRACE


async def test_dead_letter_is_a_child_of_the_last_attempt_and_its_replay_links_to_it(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    await group.add(fields={"traceparent": SAMPLED})
    rejected: list[Message] = []

    def handle(data: dict[str, str]) -> None:
        if not rejected:
            rejected.append(current_message())
            raise Reject

    processor = await group.start(handle, settings={"telemetry": telemetry_kit.telemetry})
    await eventually(lambda: processor.metrics.dead_lettered == 1)
    store = dead_letter_store(group)
    [dead_letter] = [each async for each in store.find()]
    new_id = await store.replay(dead_letter)
    failed, replayed = await wait_for_named_spans(collector, PROCESS, 2)
    [send] = await wait_for_named_spans(collector, "send {orders}:billing:dead-letters")
    assert failed.attributes["streamconsumer.outcome"] == "dead_letter"
    assert (send.kind, send.attributes["messaging.operation.type"]) == ("PRODUCER", "send")
    assert (send.trace_id, send.parent_span_id) == (TRACE, failed.span_id)
    assert linked_span_ids(send, "") == [PARENT]
    assert linked_span_ids(send, "attempt") == [failed.span_id]
    assert dead_letter.failure.traceparent == f"00-{TRACE}-{failed.span_id}-01"
    assert replayed.attributes["messaging.message.id"] == new_id
    assert linked_span_ids(replayed, "dead_letter") == [send.span_id]
    assert replayed.span_id != failed.span_id


async def test_uncounted_attempt_has_its_own_span(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    await group.add()
    times: list[int] = []

    def handle(data: dict[str, str]) -> None:
        times.append(1)
        if len(times) < 3:
            raise Defer(timedelta(milliseconds=10))

    await group.start(handle, settings={"telemetry": telemetry_kit.telemetry})
    attempts = await wait_for_named_spans(collector, PROCESS, 3)
    assert len({span.span_id for span in attempts}) == 3
    assert linked_span_ids(attempts[2], "previous_attempt") == [attempts[1].span_id]
    assert [span.attributes["streamconsumer.outcome"] for span in attempts] == ["defer", "defer", "ack"]
    assert not [span for span in attempts if "error.type" in span.attributes]


async def test_ack_is_a_child_of_one_attempt_or_links_to_many(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    [message_id] = await group.add(fields={"traceparent": SAMPLED})
    await group.start(Recorder(), settings={"telemetry": telemetry_kit.telemetry})
    [process] = await wait_for_named_spans(collector, PROCESS)
    [ack] = await wait_for_named_spans(collector, ACK)
    assert (ack.kind, ack.attributes["messaging.operation.type"]) == ("CLIENT", "settle")
    assert (ack.trace_id, ack.parent_span_id) == (TRACE, process.span_id)
    assert ack.attributes["messaging.message.id"] == message_id
    await group.add(50, {"traceparent": SAMPLED})
    processes = (await wait_for_named_spans(collector, PROCESS, 51))[1:]
    await group.wait_settled()
    assert telemetry_kit.telemetry.flush()
    await asyncio.to_thread(collector.wait_for_spans, telemetry_kit.telemetry.sent)
    acks = (await wait_for_named_spans(collector, ACK))[1:]
    counts = [ack.attributes.get("messaging.batch.message_count", 1) for ack in acks]
    assert sum(counts) == 50
    batch_acks = [ack for ack in acks if "messaging.batch.message_count" in ack.attributes]
    assert {link.span_id for ack in batch_acks for link in ack.links} | {ack.parent_span_id for ack in acks} - {""} == {
        span.span_id for span in processes
    }


async def test_message_with_effects_keeps_no_span_for_its_acknowledgement(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    """A span kept for an acknowledgement that never comes would leak memory."""
    await group.add(20)

    async def handle(data: dict[str, str]) -> Effects:
        return Effects().increment("{orders}:total")

    await group.start(handle, settings={"telemetry": telemetry_kit.telemetry})
    spans = await wait_for_named_spans(collector, PROCESS, 20)
    assert {span.attributes["streamconsumer.outcome"] for span in spans} == {"effects"}
    await group.wait_settled()
    assert telemetry_kit.telemetry._unacknowledged == {}


async def test_claim_of_an_interrupted_batch_links_to_the_producers(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    """The span id of a batch cannot be computed from one of its messages."""
    await group.create_group()
    await group.add(2, {"traceparent": SAMPLED})
    await group.read_as("stranger", 2)

    async def handle(batch: list[dict[str, str]]) -> None:
        pass

    telemetry = new_telemetry_kit(is_batch=True).telemetry
    await group.start(handle, min_idle=1, settings={"telemetry": telemetry, "batch": True})
    [claim] = await wait_for_named_spans(collector, CLAIM)
    assert {(link.trace_id, link.span_id) for link in claim.links} == {(TRACE, PARENT)}
    spans = await wait_for_named_spans(collector, PROCESS)
    assert {span_id for span in spans for span_id in linked_span_ids(span, "claim")} == {claim.span_id}


async def test_unsampled_message_has_no_span_of_any_kind(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    telemetry = new_telemetry_kit(
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    ).telemetry
    await group.add(3, {"traceparent": NOT_SAMPLED})
    await group.add(3)
    await group.create_group()
    await group.read_as("stranger", 3)
    handler = Recorder(lambda message: Reject() if message.deliveries == 1 else None)
    await group.start(handler, min_idle=1, settings={"telemetry": telemetry})
    await group.wait_settled()
    assert len(handler.finished) == 3
    assert telemetry.flush()
    await asyncio.sleep(0.4)  # the collector's own delays
    assert collector.spans() == []


async def test_time_in_the_stream_is_measured_by_the_servers_clock(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this machine may be wrong by an hour."""
    import time

    hour_ns, real = 3_600_000_000_000, time.time_ns
    await group.add()
    await asyncio.sleep(0.3)
    monkeypatch.setattr(time, "time_ns", lambda: real() + hour_ns)
    await group.start(Recorder(), settings={"telemetry": telemetry_kit.telemetry})
    [span] = await wait_for_named_spans(collector, PROCESS)
    assert 0.25 < span.attributes["streamconsumer.queue.stream_time"] < 600
    assert 0 <= span.attributes["streamconsumer.queue.buffer_time"] < 5


async def test_time_in_the_stream_is_missing_when_the_id_is_not_a_time(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    await group.client.xadd(STREAM, {"n": "1"}, id="1-1")
    await group.start(Recorder(), settings={"telemetry": telemetry_kit.telemetry})
    [span] = await wait_for_named_spans(collector, PROCESS)
    assert "streamconsumer.queue.stream_time" not in span.attributes


def test_deterministic_ids_are_the_same_in_every_process_and_release() -> None:
    """A pod must find the attempt of a dead pod that ran the previous release."""
    ids = DeterministicIds(STREAM, GROUP)
    assert ids.trace_id("1-0").hex() == "f0945f02fb199f93e707ffafec242409"
    assert ids.attempt_span_id("1-0", 1).hex() == "65ecd86a76ec7888"
    assert ids.dead_letter_span_id("1-0", 0).hex() == "52f01f4bc3a9a157"
    assert DeterministicIds(STREAM, "other").attempt_span_id("1-0", 1) != ids.attempt_span_id("1-0", 1)


# -- producing --------------------------------------------------------------------------------------------------------


def test_inject_keeps_the_context_that_a_message_already_has() -> None:
    with sending(STREAM, {"traceparent": SAMPLED, "n": "1"}) as carried:
        assert carried == {"traceparent": SAMPLED, "n": "1"}
    assert inject({"n": "1"}) == {"n": "1"}


async def test_send_and_process_spans_share_a_trace(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: telemetry_kit.provider)
    with sending(STREAM, {"n": "1"}) as carried:
        await group.client.xadd(STREAM, {**carried})
    telemetry_kit.provider.force_flush()
    await group.start(Recorder(), settings={"telemetry": telemetry_kit.telemetry})
    [send] = await wait_for_named_spans(collector, f"send {STREAM}")
    [process] = await wait_for_named_spans(collector, PROCESS)
    assert (process.trace_id, process.parent_span_id) == (send.trace_id, send.span_id)
    assert (send.kind, send.attributes["messaging.operation.name"]) == ("PRODUCER", "send")
