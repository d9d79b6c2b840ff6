"""Messages that a Service handles: what it is sent, and what its answers mean."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.handler import http_handler
from streamconsumer.processor.handler.http_handler import HttpHandler, build_request, outcome_for_status
from streamconsumer.processor.handler.outcomes import Defer, Reject, Retry
from streamconsumer.processor.message import Message
from streamconsumer.processor.telemetry import current_traceparent
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.letters import KEY
from tests.processor.pod import NewPod, Pod
from tests.processor.service import Service, never_respond, run_http_service

TRACE = f"00-{'4b' * 16}-{'a3' * 8}-01"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with run_http_service() as found:
        yield found


@pytest.fixture
async def handler(service: Service) -> AsyncIterator[HttpHandler]:
    async with closing(HttpHandler(service.url, 4, None)) as found:
        yield found


@asynccontextmanager
async def closing(handler: HttpHandler) -> AsyncIterator[HttpHandler]:
    yield handler
    await handler.aclose()


async def only_letter(group: Group) -> dict[str, str]:
    found: Any = await group.client.xrange(KEY)
    [(_, letter)] = found
    return dict(letter)


def message(**different: Any) -> Message:
    told = {"message_id": "1764000000123-7", "stream": "orders", "consumer_group": "billing", "consumer": "pod-a"}
    return Message(**{**told, "deliveries": 1, "data": {}, **different})


# -- what is sent ---------------------------------------------------------------------------------------------------


def test_an_entry_is_sent_as_an_event_with_its_fields_as_json() -> None:
    headers, body = build_request(message(deliveries=3), {"id": "7", "name": "Зоя"})
    assert json.loads(body) == {"id": "7", "name": "Зоя"}
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": "1764000000123-7",
        "ce-source": "/redis/streams/orders",
        "ce-type": "dev.streamconsumer.entry",
        "ce-time": "2025-11-24T16:00:00.123Z",
        "Content-Type": "application/json",
        "Streamconsumer-Message-Id": "1764000000123-7",
        "Streamconsumer-Stream": "orders",
        "Streamconsumer-Consumer-Group": "billing",
        "Streamconsumer-Deliveries": "3",
    }


def test_an_entry_that_is_a_cloud_event_is_sent_as_it_came() -> None:
    event = {
        "specversion": "1.0",
        "id": "A-1",
        "source": "/shop",
        "type": "shop.order",
        "subject": 'Zoë "Z"',
        "datacontenttype": 'text/plain; charset="utf-8"',
        "data": "hello, Зоя",
        "not an attribute": "x",
        "traceparent": TRACE,
    }
    headers, body = build_request(message(), event)
    assert body.decode() == "hello, Зоя"
    assert headers["Content-Type"] == 'text/plain; charset="utf-8"'
    assert {name: value for name, value in headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "A-1",
        "ce-source": "/shop",
        "ce-type": "shop.order",
        "ce-subject": "Zo%C3%AB%20%22Z%22",
        "ce-traceparent": TRACE,
    }
    assert headers["Streamconsumer-Message-Id"] == "1764000000123-7"


@pytest.mark.parametrize(("traceparent", "sent"), [(TRACE, TRACE), ("00-x", None), (f"{TRACE}\r\nX: y", None)])
def test_without_a_span_of_our_own_the_producers_trace_goes_on(traceparent: str, sent: str | None) -> None:
    headers, _ = build_request(message(), {"traceparent": traceparent})
    assert headers.get("traceparent") == sent


def test_with_a_span_of_our_own_the_service_sees_that() -> None:
    with TracerProvider().get_tracer("shop").start_as_current_span("process orders"):
        headers, _ = build_request(message(), {"traceparent": TRACE})
        assert headers["traceparent"] == current_traceparent() != TRACE


@given(
    data=st.dictionaries(st.text(max_size=8) | st.sampled_from(["specversion", "id", "source", "type"]), st.text()),
    stream=st.text(min_size=1),
    number=st.integers(0, 2**64),
)
def test_no_field_can_make_a_header_of_its_own(data: dict[str, str], stream: str, number: int) -> None:
    headers, body = build_request(message(message_id=f"{number}-0", stream=stream), data)
    assert all(name.isascii() and value.isascii() and value.isprintable() for name, value in headers.items())
    assert isinstance(body, bytes)


# -- what answers mean ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "retry_after", "kind", "after"),
    [
        (400, "", Reject, None),
        (404, "", Reject, None),
        (422, "5", Reject, None),
        (408, "", Retry, None),
        (425, "", Retry, None),
        (429, "", Retry, None),
        (429, "7", Defer, timedelta(seconds=7)),
        (503, "0", Defer, timedelta()),
        (503, "Tue, 24 Nov 2026 12:01:00 GMT", Defer, timedelta(minutes=1)),
        (503, "Tue, 24 Nov 2026 11:01:00 GMT", Defer, timedelta()),
        (503, "999999999", Defer, timedelta(hours=24)),
        (503, "-1", Retry, None),
        (503, "soon", Retry, None),
        (503, "9" * 40, Retry, None),
        (500, "7", Retry, None),
        (302, "", Retry, None),
        (101, "", Retry, None),
    ],
)
def test_an_answer_says_what_becomes_of_the_message(
    status: int, retry_after: str, kind: type, after: timedelta | None
) -> None:
    found = outcome_for_status(status, retry_after, "why", NOON)
    assert type(found) is kind
    assert getattr(found, "after", None) == after
    assert str(found) == "why"


async def test_2xx_acknowledges(group: Group, service: Service, handler: HttpHandler) -> None:
    service.responses = [web.Response(status=200, text="x" * 100_000), web.Response(status=202)]
    ids = await group.add(3)
    await group.start(handler)
    found = await service.wait_for_requests(3)
    await group.wait_settled()
    assert [each.headers["streamconsumer-message-id"] for each in found] == ids
    assert {(each.method, each.path) for each in found} == {("POST", "/orders")}
    assert [json.loads(each.body) for each in found] == [{"n": "0"}, {"n": "1"}, {"n": "2"}]


async def test_what_fails_is_sent_again_with_its_count(group: Group, service: Service, handler: HttpHandler) -> None:
    service.responses = [web.Response(status=500), web.Response(status=302, headers={"Location": "/elsewhere"})]
    await group.add()
    await group.start(handler)
    found = await service.wait_for_requests(3)
    await group.wait_settled()
    assert [each.headers["streamconsumer-deliveries"] for each in found] == ["1", "2", "3"]
    assert {each.path for each in found} == {"/orders"}, "nobody follows a redirect"


async def test_429_with_retry_after_is_no_attempt(group: Group, service: Service, handler: HttpHandler) -> None:
    service.responses = [web.Response(status=429, headers={"Retry-After": "0"}) for _ in range(3)]
    await group.add()
    await group.start(handler)
    found = await service.wait_for_requests(4)
    await group.wait_settled()
    assert [each.headers["streamconsumer-deliveries"] for each in found] == ["1"] * 4


async def test_what_is_refused_is_a_dead_letter_with_status_and_answer(
    group: Group, service: Service, handler: HttpHandler
) -> None:
    service.responses = [web.Response(status=422, text="no such\ncustomer" + "!" * 9000)]
    [message_id] = await group.add()
    await group.start(handler)
    await service.wait_for_requests(1)
    await group.wait_settled()
    letter = await only_letter(group)
    assert (letter["streamconsumer.message-id"], letter["streamconsumer.reason"]) == (message_id, "Rejected")
    error = letter["streamconsumer.error-message"]
    assert f"{service.url} responded 422: no such customer!!!" in error
    assert len(error) < 700


async def test_as_many_are_sent_at_once_as_there_are_slots_over_connections_that_stay(
    group: Group, service: Service, handler: HttpHandler
) -> None:
    open_gate = asyncio.Event()

    async def wait() -> web.Response:
        await open_gate.wait()
        return web.Response(status=204)

    service.responses = [wait] * 4
    await group.add(40)
    await group.start(handler, concurrency=4)
    await service.wait_for_requests(4)
    open_gate.set()
    found = await service.wait_for_requests(40)
    await group.wait_settled()
    assert service.max_concurrent == 4
    assert len({each.connection for each in found}) == 4


async def test_a_service_that_does_not_answer_in_time_has_failed(group: Group, service: Service) -> None:
    group.delivery = Delivery(timeout=timedelta(milliseconds=100), max_deliveries=1)
    service.responses = [never_respond]
    await group.add()
    async with closing(HttpHandler(service.url, 1, timedelta(milliseconds=100))) as handler:
        await group.start(handler)
        await service.wait_for_requests(1)
        await group.wait_settled()
    assert "the handler took longer than delivery.timeout" in (await only_letter(group))["streamconsumer.error-message"]


async def test_without_a_timeout_there_is_one_all_the_same(
    group: Group, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_handler, "DEFAULT_TIMEOUT", timedelta(milliseconds=100))
    service.responses = [never_respond]
    await group.add()
    async with closing(HttpHandler(service.url, 1, None)) as handler:
        await group.start(handler)
        assert [each.headers["streamconsumer-deliveries"] for each in await service.wait_for_requests(2)] == ["1", "2"]
        await group.wait_settled()


async def test_a_service_that_is_not_there_is_tried_again(group: Group, service: Service) -> None:
    group.delivery = Delivery(max_deliveries=1)
    await group.add()
    async with closing(HttpHandler("http://127.0.0.1:9/", 1, None)) as away:
        await group.start(away)
        await eventually(lambda: group.client.exists(KEY))
    letter = await only_letter(group)
    assert letter["streamconsumer.reason"] == "MaxDeliveries"
    assert "ClientConnectorError" in letter["streamconsumer.error-message"]


# -- in a pod -------------------------------------------------------------------------------------------------------


def sending(new_pod: NewPod, service: Service) -> Pod:
    pod = new_pod("", handler_http_url=service.url, concurrency="4")
    del pod.environment["STREAMCONSUMER_HANDLER_PYTHON"]
    return pod


async def test_a_pod_sends_what_it_reads_and_drains(group: Group, service: Service, new_pod: NewPod) -> None:
    release = asyncio.Event()

    async def slowly() -> web.Response:
        await release.wait()
        return web.Response(status=204)

    service.responses = [slowly]
    [message_id] = await group.add(fields={"id": "7", "traceparent": TRACE})
    pod = sending(new_pod, service).start()
    [found] = await service.wait_for_requests(1)
    assert found.headers["streamconsumer-message-id"] == message_id
    assert found.headers["traceparent"] == TRACE
    [started] = await pod.wait_for_log("processor started")
    assert started["handler"] == service.url
    pod.signal(signal.SIGTERM)
    await pod.wait_for_log("received SIGTERM")
    release.set()
    assert await pod.wait_for_exit() == 0
    assert await group.pending() == 0
    assert not [line for line in pod.log_lines if line.get("level") == "ERROR" or "text" in line]
    assert (found.headers["streamconsumer-stream"], found.headers["streamconsumer-consumer-group"]) == (STREAM, GROUP)


async def test_no_proxy_is_asked(group: Group, service: Service, new_pod: NewPod) -> None:
    pod = sending(new_pod, service)
    pod.environment |= {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    await group.add()
    pod.start()
    await eventually(lambda: service.requests)
