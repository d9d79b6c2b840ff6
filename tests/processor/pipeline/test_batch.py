"""Batch handlers: the content of a batch, the outcome of each message, and what counts once per batch."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.errors import HandlerUnusable
from streamconsumer.model.processor_settings import Backoff, Breaker, Delivery
from streamconsumer.processor import (
    BatchFailed,
    Defer,
    Effects,
    Message,
    RedisStreamProcessor,
    Reject,
    Retry,
    current_message,
    current_messages,
)
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.handler.loader import validate_handler
from streamconsumer.redis_client.outcome import Outcome
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import GROUP, QUICK_BACKOFF, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.proxy import Proxy
from tests.processor.recorder import BatchRecorder
from tests.processor.user_manager import UserManager


async def start(group: Group, handler: Any, name: str = "pod-a", **arguments: Any) -> RedisStreamProcessor:
    settings = {"batch": True, **arguments.pop("settings", {})}
    return await group.start(handler, name, settings=settings, **arguments)


async def wait_until_settled(
    group: Group, processor: RedisStreamProcessor, messages: int, within: float = TIMEOUT_SECONDS
) -> None:
    """Wait until `messages` messages are acknowledged or dead-lettered, and nothing is pending.

    A heartbeat that crosses an acknowledgement repeats it, because the renewal may have restored the entry. The first
    acknowledgement may then be the one that finds nothing, so lost acknowledgements count too."""
    metrics = processor.metrics

    def settled_count() -> int:
        return metrics.acknowledged + metrics.acknowledgements_lost + metrics.dead_lettered

    await eventually(lambda: settled_count() >= messages, within)
    assert settled_count() == messages
    assert await group.pending() == 0


# -- content of a batch ------------------------------------------------------------------------------------------------


async def test_batch_contains_ready_entries_up_to_batch_count(any_group: Group) -> None:
    handler = BatchRecorder(gate=False)
    processor = await start(any_group, handler)
    [first] = await any_group.add()
    await handler.wait_until_started(1)
    backlog = await any_group.add(25)
    handler.gate.set()
    await handler.wait_until_finished(26)
    await any_group.wait_settled()
    assert handler.ids[0] == [first], "the first batch does not wait for more entries"
    assert max(handler.sizes) == 10
    assert len(handler.batches) <= 5
    assert handler.finished == [first, *backlog]
    await eventually(lambda: processor.metrics.acknowledged == 26)
    assert processor.metrics.handler_calls == len(handler.batches)
    assert processor.metrics.in_flight == 0


async def test_concurrency_limits_running_batches(group: Group) -> None:
    handler = BatchRecorder(gate=False)
    await group.add(100)
    processor = await start(group, handler, concurrency=3)
    await handler.wait_until_started(3)
    await asyncio.sleep(0.05)
    assert handler.sizes == [10, 10, 10]
    assert processor.metrics.in_flight == 30
    assert await group.pending() <= 40, "entries that one pod buffers are not available to its peers"
    handler.gate.set()
    await handler.wait_until_finished(100)
    await group.wait_settled()


async def test_plain_function_receives_the_batch_in_a_thread(group: Group) -> None:
    calls: list[tuple[str, list[dict[str, str]], list[str]]] = []

    def handle(batch: list[dict[str, str]]) -> None:
        ids = [message.message_id for message in current_messages()]
        calls.append((threading.current_thread().name, batch, ids))

    ids = await group.add(3)
    processor = await start(group, handle)
    await wait_until_settled(group, processor, 3)
    [(thread, batch, current_ids)] = calls
    assert thread.startswith("handler")
    assert (batch, current_ids) == ([{"n": "0"}, {"n": "1"}, {"n": "2"}], ids)


async def test_current_message_raises_in_a_batch_handler(group: Group) -> None:
    errors: list[str] = []

    async def handle(_batch: list[dict[str, str]]) -> None:
        with pytest.raises(LookupError) as caught:
            current_message()
        errors.append(str(caught.value))

    await group.add(2)
    processor = await start(group, handle)
    await wait_until_settled(group, processor, 2)
    assert errors == ["the handler received a batch of 2 messages; call current_messages()"]
    with pytest.raises(LookupError):
        current_messages()


async def test_current_messages_has_one_element_in_a_single_message_handler(group: Group) -> None:
    batches: list[list[Message]] = []

    async def handle(data: dict[str, str]) -> None:
        batches.append(current_messages())

    [message_id] = await group.add()
    processor = await group.start(handle)
    await wait_until_settled(group, processor, 1)
    assert batches == [[Message(message_id, STREAM, GROUP, "pod-a", 1, {"n": "0"})]]


async def test_batch_contains_one_entry_per_ordering_key(any_group: Group) -> None:
    handler = BatchRecorder()
    for number, customer in enumerate("aababcabca"):
        await any_group.add(fields={"customer": customer, "n": str(number)})
    await start(any_group, handler, concurrency=2, settings={"ordering_key": "customer"})
    await handler.wait_until_finished(10)
    await any_group.wait_settled()
    assert all(len({message.data["customer"] for message in batch}) == len(batch) for batch in handler.batches)
    for customer in "abc":
        numbers = [int(m.data["n"]) for batch in handler.batches for m in batch if m.data["customer"] == customer]
        assert numbers == sorted(numbers)


async def test_undecodable_and_oversized_entries_are_dead_lettered_outside_of_the_batch(any_group: Group) -> None:
    any_group.delivery = Delivery(max_entry_bytes=2000)
    good = await any_group.add(2)
    await any_group.add(fields={"n": b"\xff"})
    await any_group.add(fields={"blob": "x" * 5000})
    good += await any_group.add(2)
    handler = BatchRecorder()
    processor = await start(any_group, handler)
    await wait_until_settled(any_group, processor, 6)
    assert handler.ids == [good]
    assert processor.metrics.dead_lettered == 2


async def test_batch_is_handled_when_its_first_entry_is_undecodable(group: Group) -> None:
    await group.add(fields={"n": b"\xff"})
    good = await group.add(4)
    handler = BatchRecorder()
    processor = await start(group, handler)
    await handler.wait_until_finished(4)
    await wait_until_settled(group, processor, 5)
    assert handler.finished == good


# -- outcome of a batch -----------------------------------------------------------------------------------------------


async def test_failed_batch_is_retried_with_one_count_per_message(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    any_group.delivery = Delivery(backoff=QUICK_BACKOFF)
    handler = BatchRecorder(lambda messages: OSError("down") if messages[0].deliveries == 1 else None)
    ids = await any_group.add(5)
    processor = await start(any_group, handler)
    await handler.wait_until_finished(5)
    await any_group.wait_settled()
    assert handler.ids[0] == ids
    assert sorted(handler.finished) == ids
    assert {message.deliveries for batch in handler.batches[1:] for message in batch} == {2}
    assert (processor.metrics.failed, processor.metrics.retried) == (5, 5)
    [record] = [record for record in caplog.records if record.message == "batch failed"]
    assert vars(record)["message_ids"] == ids
    assert "OSError: down" in caplog.text


async def test_batch_failed_settles_each_named_message_by_its_own_error(any_group: Group) -> None:
    any_group.delivery = Delivery(backoff=QUICK_BACKOFF, terminal_errors=["KeyError"])

    def failing(_messages: list[Message]) -> BaseException | None:
        if len(handler.batches) > 1:
            return None
        errors = {1: Reject("no"), 3: KeyError("id"), 4: Retry(after=timedelta()), 6: Defer(timedelta())}
        return BatchFailed(errors)

    ids = await any_group.add(8)
    handler = BatchRecorder(failing)
    processor = await start(any_group, handler)
    await wait_until_settled(any_group, processor, 8)
    dead_letters = {
        dead_letter["streamconsumer.origin-id"]: dead_letter for dead_letter in await any_group.dead_letters()
    }
    assert {ids[1]: "Rejected", ids[3]: "TerminalError"} == {
        message_id: dead_letter["streamconsumer.reason"] for message_id, dead_letter in dead_letters.items()
    }
    retried = {message.message_id: message.deliveries for batch in handler.batches[1:] for message in batch}
    assert retried == {ids[4]: 2, ids[6]: 1}


async def test_batch_failed_without_failures_is_a_success(group: Group) -> None:
    handler = BatchRecorder(lambda _: BatchFailed({}))
    await group.add(3)
    processor = await start(group, handler)
    await wait_until_settled(group, processor, 3)
    assert processor.metrics.failed == 0


INVALID_FAILURES: dict[str, tuple[dict[Any, Any], str, str]] = {
    "beyond": ({3: ValueError()}, "IndexError", "BatchFailed names index 3; the list had indexes 0 to 2"),
    "negative": ({-1: ValueError()}, "IndexError", "BatchFailed names index -1; the list had indexes 0 to 2"),
    "an id": ({"1-0": ValueError()}, "IndexError", "BatchFailed names index '1-0'; the list had indexes 0 to 2"),
    "no error": (
        {0: "no"},
        "TypeError",
        "BatchFailed has 'no' at index 0; expected the exception that the message at this index failed with",
    ),
}


@pytest.mark.parametrize(("failures", "error_type", "message"), INVALID_FAILURES.values(), ids=INVALID_FAILURES)
async def test_invalid_batch_failed_fails_the_whole_batch(
    group: Group, failures: dict[Any, Any], error_type: str, message: str
) -> None:
    group.delivery = Delivery(max_deliveries=1)
    await group.add(3)
    processor = await start(group, BatchRecorder(lambda _: BatchFailed(failures)))
    await wait_until_settled(group, processor, 3)
    dead_letters = await group.dead_letters()
    assert len(dead_letters) == 3
    assert {dead_letter["streamconsumer.error-message"] for dead_letter in dead_letters} == {message}
    assert all(error_type in dead_letter["streamconsumer.error-type"] for dead_letter in dead_letters)


@pytest.mark.parametrize("result", [Effects().set("k", "v"), [None, Effects().set("k", "v")]], ids=["one", "a list"])
async def test_effects_of_a_batch_handler_are_rejected(group: Group, result: Any) -> None:
    group.delivery = Delivery(max_deliveries=1)

    async def handle(_batch: list[dict[str, str]]) -> Any:
        return result

    await group.add(2)
    processor = await start(group, handle)
    await wait_until_settled(group, processor, 2)
    dead_letters = await group.dead_letters()
    assert len(dead_letters) == 2
    assert "a batch handler must not return Effects" in dead_letters[0]["streamconsumer.error-message"]
    assert not await group.client.exists("k")


async def test_poison_message_does_not_dead_letter_the_rest_of_its_batch(any_group: Group) -> None:
    """The last attempt runs alone, so a dead-lettered message has failed on its own."""
    any_group.delivery = Delivery(backoff=QUICK_BACKOFF, max_deliveries=3)
    ids = await any_group.add(6)
    handler = BatchRecorder(
        lambda batch: ValueError("bad") if ids[2] in [message.message_id for message in batch] else None
    )
    processor = await start(any_group, handler)
    await wait_until_settled(any_group, processor, 6)
    assert [dead_letter["streamconsumer.origin-id"] for dead_letter in await any_group.dead_letters()] == [ids[2]]
    assert sorted(handler.finished) == [*ids[:2], *ids[3:]]
    assert [ids[2]] in handler.ids


async def test_users_own_manager_supports_batches(group: Group) -> None:
    manager = UserManager(group.url)
    handler = BatchRecorder(lambda _: BatchFailed({1: ValueError("bad")}))
    ids = await group.add(4)
    processor = await start(group, handler, manager=manager, poll=0.05)

    async def only_the_failed_message_is_pending() -> bool:
        return [entry.message_id for entry in await group.entries()] == [ids[1]]

    await eventually(only_the_failed_message_is_pending)
    assert handler.ids == [ids]
    await processor.stop_listening()
    await manager.client.aclose()


async def test_message_processed_directly_is_a_batch_of_one(group: Group) -> None:
    await group.create_group()
    await group.add()
    [message_id] = await group.read_as("pod-a")
    handler = BatchRecorder()
    await group.processor(handler, settings={"batch": True})._process_single_message(message_id, {"n": "0"})
    assert handler.finished == [message_id]
    assert await group.pending() == 0


# -- timeouts, claims and drains --------------------------------------------------------------------------------------


async def test_timed_out_batch_is_cancelled_once_and_retried(any_group: Group) -> None:
    any_group.delivery = Delivery(timeout=timedelta(milliseconds=200), backoff=QUICK_BACKOFF)
    cancellations = 0

    async def slow_at_first(_batch: list[dict[str, Any]]) -> None:
        nonlocal cancellations
        if current_messages()[0].deliveries == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancellations += 1
                await asyncio.sleep(0.02)  # a second cancellation would end this sleep
                cancellations += 10
                raise

    await any_group.add(4)
    processor = await start(any_group, slow_at_first)
    await eventually(lambda: processor.metrics.acknowledged == 4)
    assert cancellations == 11
    assert (processor.metrics.failed, processor.metrics.retried) == (4, 4)


async def test_batch_that_returns_after_its_timeout_has_failed(group: Group) -> None:
    group.delivery = Delivery(timeout=timedelta(milliseconds=50), max_deliveries=1)

    async def stubborn(_batch: list[dict[str, Any]]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    await group.add(2)
    processor = await start(group, stubborn)
    await wait_until_settled(group, processor, 2)
    dead_letters = await group.dead_letters()
    assert len(dead_letters) == 2
    assert all("TimeoutError" in dead_letter["streamconsumer.error-type"] for dead_letter in dead_letters)


async def test_entries_that_a_peer_claims_from_a_batch_are_not_acknowledged(any_group: Group) -> None:
    handler = BatchRecorder(gate=False)
    ids = await any_group.add(4)
    processor = await start(any_group, handler)
    await handler.wait_until_started(1)
    await any_group.claim([ids[0], ids[2]], "stranger")
    await eventually(lambda: processor.metrics.lost_ownership == 2)
    assert not handler.cancelled
    handler.gate.set()
    await handler.wait_until_finished(4)
    await eventually(lambda: processor.metrics.acknowledged == 2)
    assert [(entry.message_id, entry.consumer) for entry in await any_group.entries()] == [
        (ids[0], "stranger"),
        (ids[2], "stranger"),
    ]


async def test_batch_is_cancelled_when_a_peer_has_claimed_all_its_entries(group: Group) -> None:
    handler = BatchRecorder(gate=False)
    ids = await group.add(3)
    processor = await start(group, handler)
    await handler.wait_until_started(1)
    await group.claim(ids, "stranger")
    await eventually(lambda: handler.cancelled)
    assert processor.metrics.failed == 0
    [later] = await group.add()
    handler.gate.set()
    await handler.wait_until_finished(1)
    assert handler.finished == [later]
    assert {entry.consumer for entry in await group.entries()} <= {"stranger", "pod-a"}


async def test_drain_finishes_running_batches_and_releases_the_rest(any_group: Group) -> None:
    handler = BatchRecorder(gate=False)
    ids = await any_group.add(25)
    processor = await start(any_group, handler, concurrency=2)
    await handler.wait_until_started(2)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: not processor._pipeline.in_flight.queued)
    handler.gate.set()
    await stopping
    assert handler.finished == ids[:20]
    assert await any_group.pending() == processor.metrics.released


async def test_batch_does_not_start_if_a_drain_starts_while_its_messages_are_prepared(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one attempt per message, the preparation of each message sends a command."""
    group.delivery = Delivery(max_deliveries=1)
    stopping: list[asyncio.Task[None]] = []
    start_attempt = Leases.start_attempt

    async def start_last_during_a_drain(self: Leases, message_id: str, deliveries: int) -> Outcome:
        if message_id == ids[-1]:
            stopping.append(asyncio.create_task(processor.stop_listening()))
            await eventually(lambda: processor._pipeline.in_flight.is_closed)
        return await start_attempt(self, message_id, deliveries)

    monkeypatch.setattr(Leases, "start_attempt", start_last_during_a_drain)
    handler, peer = BatchRecorder(), BatchRecorder()
    ids = await group.add(5)
    processor = await start(group, handler)
    await eventually(lambda: stopping)
    await stopping[0]
    assert handler.batches == []
    monkeypatch.undo()
    await start(group, peer, "pod-b")
    await peer.wait_until_finished(5)
    assert sorted(peer.finished) == ids
    assert not await group.dead_letters()


async def test_drain_timeout_leaves_the_whole_batch_pending(group: Group) -> None:
    handler = BatchRecorder(gate=False)
    ids = await group.add(5)
    processor = await start(group, handler, drain=0.1)
    await handler.wait_until_started(1)
    await processor.stop_listening()
    assert handler.cancelled == 1
    assert [entry.message_id for entry in await group.entries()] == ids
    assert processor.metrics.failed == 0


async def test_breaker_counts_a_batch_once_and_tries_one_message(group: Group) -> None:
    pause = timedelta(milliseconds=100)
    breaker = Breaker(failures=3, max_pause=pause)
    backoff = Backoff(min_delay=timedelta(milliseconds=1), max_delay=timedelta(milliseconds=1))
    group.delivery = Delivery(backoff=backoff, breaker=breaker, max_deliveries=6)
    is_down = True
    handler = BatchRecorder(lambda _: ConnectionError("the bank is down") if is_down else None)
    await group.add(100)
    processor = await start(group, handler)
    await eventually(lambda: processor.metrics.breaker_opened)
    assert handler.sizes[0] == 10
    assert len(handler.batches) == 3
    await handler.wait_until_started(5)
    is_down = False
    assert handler.sizes[3:5] == [1, 1]
    await handler.wait_until_finished(100)
    await group.wait_settled()
    assert await group.dead_letters() == []


async def test_partly_failed_batch_is_no_failure_for_the_breaker(group: Group) -> None:
    group.delivery = Delivery(backoff=QUICK_BACKOFF, breaker=Breaker(failures=1), max_deliveries=1)
    handler = BatchRecorder(lambda batch: BatchFailed(dict.fromkeys(range(1, len(batch)), OSError("no"))))
    await group.add(30)
    processor = await start(group, handler)
    await eventually(lambda: processor.metrics.acknowledged + processor.metrics.dead_lettered == 30)
    assert processor.metrics.breaker_opened == 0


async def test_suspects_run_in_a_batch_of_one(any_group: Group) -> None:
    """Each of them may have crashed its process."""
    await any_group.create_group()
    await any_group.add(3)
    ids = await any_group.read_as("pod-a")
    await any_group.client.xclaim(STREAM, GROUP, "pod-a", 0, [*ids], retrycount=2)
    handler = BatchRecorder()
    await start(any_group, handler)
    await handler.wait_until_finished(3)
    await any_group.wait_settled()
    assert handler.ids == [[message_id] for message_id in ids]
    assert {message.deliveries for batch in handler.batches for message in batch} == {3}


@ON_ONE_SERVER
async def test_settled_entries_are_not_restored_while_the_rest_of_the_batch_is_settled(any_group: Group) -> None:
    """Settlement takes round trips. Meanwhile heartbeats renew the entries in flight, and a renewal would restore an
    entry that is no longer pending."""
    handler = BatchRecorder(lambda batch: BatchFailed(dict.fromkeys(range(1, len(batch), 2), Reject("no"))))
    await any_group.add(20)
    async with Proxy(any_group.server).running() as proxy:
        proxy.delay_seconds = 0.1
        manager = any_group.manager(proxy.url, min_idle=1)
        processor = await start(any_group, handler, batch=20, manager=manager)
        await wait_until_settled(any_group, processor, 20, within=20)
        await processor.stop_listening()
        await manager.aclose()
    assert max(handler.sizes) >= 10
    assert sum(handler.sizes) == 20, "no message was handled twice"


@ON_ONE_SERVER
@pytest.mark.parametrize(
    "error", [Reject("no"), Retry("later", after=timedelta(seconds=60))], ids=["dead-lettered", "postponed"]
)
async def test_failed_batch_is_settled_in_few_round_trips(any_group: Group, error: Exception) -> None:
    handler = BatchRecorder(lambda batch: BatchFailed(dict.fromkeys(range(len(batch)), error)))
    await any_group.add(20)
    async with Proxy(any_group.server).running() as proxy:
        manager = any_group.manager(proxy.url)
        processor = await start(any_group, handler, batch=20, manager=manager)
        proxy.delay_seconds = 0.1
        await any_group.add(20)
        metrics = processor.metrics
        await eventually(lambda: metrics.dead_lettered + metrics.retried == 40, within=2.5)
        await processor.stop_listening()
        await manager.aclose()


# -- in a pod ---------------------------------------------------------------------------------------------------------


async def test_pod_handles_batches_when_its_environment_sets_handler_batch(group: Group, new_pod: NewPod) -> None:
    pod = new_pod("pod_handlers:log_batch", handler_batch="true").start()
    ids = await group.add(3)
    lines = await pod.wait_for_log("handled")
    assert [message_id for line in lines for message_id in line["ids"]] == ids[: len(ids)]
    await group.wait_settled()


def test_handler_without_a_list_argument_is_rejected() -> None:
    with pytest.raises(HandlerUnusable, match="expected a function that takes a list of dicts"):
        validate_handler(7, "shop:handle", batch=True)
    with pytest.raises(HandlerUnusable, match=r"takes \(\); expected one argument, the list of the batch's data"):
        validate_handler(lambda: None, "shop:handle", batch=True)
