"""HTTP handler: requests to the Service, and the outcome for each response."""

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
from tests.processor.dead_letters.dead_letter_factory import KEY
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.http_service import Service, never_respond, run_http_service
from tests.processor.pod import NewPod, Pod

TRACE = f"00-{'4b' * 16}-{'a3' * 8}-01"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with run_http_service() as running:
        yield running


@pytest.fixture
async def handler(service: Service) -> AsyncIterator[HttpHandler]:
    async with closing(HttpHandler(service.url, 4, None)) as opened:
        yield opened


@asynccontextmanager
async def closing(handler: HttpHandler) -> AsyncIterator[HttpHandler]:
    yield handler
    await handler.aclose()


async def only_dead_letter(group: Group) -> dict[str, str]:
    entries: Any = await group.client.xrange(KEY)
    [(_, fields)] = entries
    return dict(fields)


def message(**overrides: Any) -> Message:
    defaults = {"message_id": "1764000000123-7", "stream": "orders", "consumer_group": "billing", "consumer": "pod-a"}
    return Message(**{**defaults, "deliveries": 1, "data": {}, **overrides})


# -- requests ------------------------------------------------------------------------------------------------------


def test_entry_is_sent_as_an_event_with_its_fields_as_json() -> None:
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


def test_cloud_event_is_sent_unchanged() -> None:
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
def test_producers_traceparent_is_sent_when_there_is_no_current_span(traceparent: str, sent: str | None) -> None:
    headers, _ = build_request(message(), {"traceparent": traceparent})
    assert headers.get("traceparent") == sent


def test_traceparent_of_the_current_span_is_sent() -> None:
    with TracerProvider().get_tracer("shop").start_as_current_span("process orders"):
        headers, _ = build_request(message(), {"traceparent": TRACE})
        assert headers["traceparent"] == current_traceparent() != TRACE


@given(
    data=st.dictionaries(st.text(max_size=8) | st.sampled_from(["specversion", "id", "source", "type"]), st.text()),
    stream=st.text(min_size=1),
    number=st.integers(0, 2**64),
)
def test_fields_cannot_inject_headers(data: dict[str, str], stream: str, number: int) -> None:
    headers, body = build_request(message(message_id=f"{number}-0", stream=stream), data)
    assert all(name.isascii() and value.isascii() and value.isprintable() for name, value in headers.items())
    assert isinstance(body, bytes)


# -- responses -----------------------------------------------------------------------------------------------------


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
        (503, "Tue, 24 Nov 99999999999999999999 12:01:00 GMT", Retry, None),
        (500, "7", Retry, None),
        (302, "", Retry, None),
        (101, "", Retry, None),
    ],
)
def test_status_decides_the_outcome(status: int, retry_after: str, kind: type, after: timedelta | None) -> None:
    outcome = outcome_for_status(status, retry_after, "why", NOON)
    assert type(outcome) is kind
    assert getattr(outcome, "after", None) == after
    assert str(outcome) == "why"


async def test_2xx_acknowledges_the_message(group: Group, service: Service, handler: HttpHandler) -> None:
    service.responses = [web.Response(status=200, text="x" * 100_000), web.Response(status=202)]
    ids = await group.add(3)
    await group.start(handler)
    requests = await service.wait_for_requests(3)
    await group.wait_settled()
    assert [each.headers["streamconsumer-message-id"] for each in requests] == ids
    assert {(each.method, each.path) for each in requests} == {("POST", "/orders")}
    assert [json.loads(each.body) for each in requests] == [{"n": "0"}, {"n": "1"}, {"n": "2"}]


async def test_failed_message_is_sent_again_with_its_delivery_count(
    group: Group, service: Service, handler: HttpHandler
) -> None:
    service.responses = [web.Response(status=500), web.Response(status=302, headers={"Location": "/elsewhere"})]
    await group.add()
    await group.start(handler)
    requests = await service.wait_for_requests(3)
    await group.wait_settled()
    assert [each.headers["streamconsumer-deliveries"] for each in requests] == ["1", "2", "3"]
    assert {each.path for each in requests} == {"/orders"}, "a redirect was followed"


async def test_429_with_retry_after_does_not_count_as_an_attempt(
    group: Group, service: Service, handler: HttpHandler
) -> None:
    service.responses = [web.Response(status=429, headers={"Retry-After": "0"}) for _ in range(3)]
    await group.add()
    await group.start(handler)
    requests = await service.wait_for_requests(4)
    await group.wait_settled()
    assert [each.headers["streamconsumer-deliveries"] for each in requests] == ["1"] * 4


async def test_rejected_message_is_dead_lettered_with_status_and_body(
    group: Group, service: Service, handler: HttpHandler
) -> None:
    service.responses = [web.Response(status=422, text="no such\ncustomer" + "!" * 9000)]
    [message_id] = await group.add()
    await group.start(handler)
    await service.wait_for_requests(1)
    await group.wait_settled()
    dead_letter = await only_dead_letter(group)
    assert (dead_letter["streamconsumer.message-id"], dead_letter["streamconsumer.reason"]) == (message_id, "Rejected")
    error = dead_letter["streamconsumer.error-message"]
    assert f"{service.url} responded 422: no such customer!!!" in error
    assert len(error) < 700


async def test_concurrent_requests_use_one_kept_connection_per_slot(
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
    requests = await service.wait_for_requests(40)
    await group.wait_settled()
    assert service.max_concurrent == 4
    assert len({each.connection for each in requests}) == 4


async def test_service_that_exceeds_the_delivery_timeout_fails_the_message(group: Group, service: Service) -> None:
    group.delivery = Delivery(timeout=timedelta(milliseconds=100), max_deliveries=1)
    service.responses = [never_respond]
    await group.add()
    async with closing(HttpHandler(service.url, 1, timedelta(milliseconds=100))) as handler:
        await group.start(handler)
        await service.wait_for_requests(1)
        await group.wait_settled()
    assert (
        "the handler took longer than delivery.timeout"
        in (await only_dead_letter(group))["streamconsumer.error-message"]
    )


async def test_request_times_out_without_a_delivery_timeout(
    group: Group, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_handler, "DEFAULT_TIMEOUT", timedelta(milliseconds=100))
    service.responses = [never_respond]
    await group.add()
    async with closing(HttpHandler(service.url, 1, None)) as handler:
        await group.start(handler)
        assert [each.headers["streamconsumer-deliveries"] for each in await service.wait_for_requests(2)] == ["1", "2"]
        await group.wait_settled()


async def test_message_is_retried_when_the_service_is_unavailable(group: Group, service: Service) -> None:
    group.delivery = Delivery(max_deliveries=1)
    await group.add()
    async with closing(HttpHandler("http://127.0.0.1:9/", 1, None)) as unavailable:
        await group.start(unavailable)
        await eventually(lambda: group.client.exists(KEY))
    dead_letter = await only_dead_letter(group)
    assert dead_letter["streamconsumer.reason"] == "MaxDeliveries"
    assert "ClientConnectorError" in dead_letter["streamconsumer.error-message"]


# -- in a pod -------------------------------------------------------------------------------------------------------


def new_http_pod(new_pod: NewPod, service: Service) -> Pod:
    pod = new_pod("", handler_http_url=service.url, concurrency="4")
    del pod.environment["STREAMCONSUMER_HANDLER_PYTHON"]
    return pod


async def test_pod_sends_messages_and_drains(group: Group, service: Service, new_pod: NewPod) -> None:
    release = asyncio.Event()

    async def slowly() -> web.Response:
        await release.wait()
        return web.Response(status=204)

    service.responses = [slowly]
    [message_id] = await group.add(fields={"id": "7", "traceparent": TRACE})
    pod = new_http_pod(new_pod, service).start()
    [request] = await service.wait_for_requests(1)
    assert request.headers["streamconsumer-message-id"] == message_id
    assert request.headers["traceparent"] == TRACE
    [started] = await pod.wait_for_log("processor started")
    assert started["handler"] == service.url
    pod.signal(signal.SIGTERM)
    await pod.wait_for_log("received signal SIGTERM")
    release.set()
    assert await pod.wait_for_exit() == 0
    assert await group.pending() == 0
    assert not [line for line in pod.log_lines if line.get("level") == "ERROR" or "text" in line]
    assert (request.headers["streamconsumer-stream"], request.headers["streamconsumer-consumer-group"]) == (
        STREAM,
        GROUP,
    )


async def test_proxy_from_the_environment_is_not_used(group: Group, service: Service, new_pod: NewPod) -> None:
    pod = new_http_pod(new_pod, service)
    pod.environment |= {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    await group.add()
    pod.start()
    await eventually(lambda: service.requests)
