"""Handlers that take lists: what is in a batch, what becomes of each of its messages, and what counts once."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.errors import HandlerUnusable
from streamconsumer.model.settings import Backoff, Breaker, Delivery
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
from streamconsumer.processor.handler import checked
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import PATIENCE_SECONDS, eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.proxy import Proxy
from tests.processor.test_interface import OwnManager
from tests.processor.test_retries import QUICKLY, dead_letters

ONE_BY_ONE = Delivery(backoff=QUICKLY, max_deliveries=3)


class Batches:
    """A batch handler that remembers; goes no further while `gate` is closed; then raises what `failing` says."""

    def __init__(
        self, failing: Callable[[list[Message]], BaseException | None] | None = None, *, gate: bool = True
    ) -> None:
        self.seen: list[list[Message]] = []
        self.finished: list[str] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        self._failing = failing
        if gate:
            self.gate.set()

    async def __call__(self, batch: list[dict[str, Any]]) -> None:
        messages = current_messages()
        assert [message.data for message in messages] == batch
        self.seen.append(messages)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._failing and (error := self._failing(messages)):
            raise error
        self.finished += [message.message_id for message in messages]

    @property
    def ids(self) -> list[list[str]]:
        return [[message.message_id for message in batch] for batch in self.seen]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.seen]

    async def has_seen(self, batches: int) -> None:
        await eventually(lambda: len(self.seen) >= batches)

    async def has_finished(self, messages: int, within: float = PATIENCE_SECONDS) -> None:
        await eventually(lambda: len(self.finished) >= messages, within)


async def start(group: Group, handler: Any, name: str = "pod-a", **arguments: Any) -> RedisStreamProcessor:
    settings = {"batch": True, **arguments.pop("settings", {})}
    return await group.start(handler, name, settings=settings, **arguments)


async def done(group: Group, processor: RedisStreamProcessor, messages: int, within: float = PATIENCE_SECONDS) -> None:
    """Wait until so many are acknowledged or dead letters. A sign of life that met an acknowledgement on its way
    acknowledges again what it may have put back; then the first one may have been the one that found nothing."""
    metrics = processor.metrics

    def ended() -> int:
        return metrics.acknowledged + metrics.acknowledgements_lost + metrics.dead_lettered

    await eventually(lambda: ended() >= messages, within)
    assert ended() == messages
    assert await group.pending() == 0


# -- what is in a batch -----------------------------------------------------------------------------------------------


async def test_a_batch_is_what_is_ready_and_at_most_batch_count(any_group: Group) -> None:
    handler = Batches(gate=False)
    processor = await start(any_group, handler)
    [first] = await any_group.add()
    await handler.has_seen(1)
    backlog = await any_group.add(25)
    handler.gate.set()
    await handler.has_finished(26)
    await any_group.settled()
    assert handler.ids[0] == [first], "nobody waited for more"
    assert max(handler.sizes) == 10
    assert len(handler.seen) <= 5
    assert handler.finished == [first, *backlog]
    await eventually(lambda: processor.metrics.acknowledged == 26)
    assert processor.metrics.handled_count == len(handler.seen)
    assert processor.metrics.in_flight == 0


async def test_concurrency_is_how_many_batches_run_at_once(group: Group) -> None:
    handler = Batches(gate=False)
    await group.add(100)
    processor = await start(group, handler, concurrency=3)
    await handler.has_seen(3)
    await asyncio.sleep(0.05)
    assert handler.sizes == [10, 10, 10]
    assert processor.metrics.in_flight == 30
    assert await group.pending() <= 40, "and what one pod buffers its peers cannot have"
    handler.gate.set()
    await handler.has_finished(100)
    await group.settled()


async def test_a_plain_function_takes_a_list_in_a_thread(group: Group) -> None:
    found: list[tuple[str, list[dict[str, str]], list[str]]] = []

    def handle(batch: list[dict[str, str]]) -> None:
        ids = [message.message_id for message in current_messages()]
        found.append((threading.current_thread().name, batch, ids))

    ids = await group.add(3)
    processor = await start(group, handle)
    await done(group, processor, 3)
    [(thread, batch, seen)] = found
    assert thread.startswith("handler")
    assert (batch, seen) == ([{"n": "0"}, {"n": "1"}, {"n": "2"}], ids)


async def test_in_a_batch_there_is_no_current_message(group: Group) -> None:
    told: list[str] = []

    async def handle(_batch: list[dict[str, str]]) -> None:
        with pytest.raises(LookupError) as caught:
            current_message()
        told.append(str(caught.value))

    await group.add(2)
    processor = await start(group, handle)
    await done(group, processor, 2)
    assert told == ["a batch of 2 is being handled, not one message; call current_messages()"]
    with pytest.raises(LookupError):
        current_messages()


async def test_a_handler_of_single_messages_may_ask_for_current_messages(group: Group) -> None:
    found: list[list[Message]] = []

    async def handle(data: dict[str, str]) -> None:
        found.append(current_messages())

    [message_id] = await group.add()
    processor = await group.start(handle)
    await done(group, processor, 1)
    assert found == [[Message(message_id, STREAM, GROUP, "pod-a", 1, {"n": "0"})]]


async def test_of_an_ordering_key_a_batch_has_one_entry_and_the_next_has_the_next(any_group: Group) -> None:
    handler = Batches()
    for number, customer in enumerate("aababcabca"):
        await any_group.add(fields={"customer": customer, "n": str(number)})
    await start(any_group, handler, concurrency=2, settings={"ordering_key": "customer"})
    await handler.has_finished(10)
    await any_group.settled()
    assert all(len({message.data["customer"] for message in batch}) == len(batch) for batch in handler.seen)
    for customer in "abc":
        numbers = [int(m.data["n"]) for batch in handler.seen for m in batch if m.data["customer"] == customer]
        assert numbers == sorted(numbers)


async def test_a_bad_entry_is_buried_alone_and_not_in_the_list(any_group: Group) -> None:
    any_group.delivery = Delivery(max_entry_bytes=2000)
    good = await any_group.add(2)
    await any_group.add(fields={"n": b"\xff"})
    await any_group.add(fields={"blob": "x" * 5000})
    good += await any_group.add(2)
    handler = Batches()
    processor = await start(any_group, handler)
    await done(any_group, processor, 6)
    assert handler.ids == [good]
    assert processor.metrics.dead_lettered == 2


async def test_when_the_first_is_bad_the_others_are_handled(group: Group) -> None:
    await group.add(fields={"n": b"\xff"})
    good = await group.add(4)
    handler = Batches()
    processor = await start(group, handler)
    await handler.has_finished(4)
    await done(group, processor, 5)
    assert handler.finished == good


# -- what becomes of it -----------------------------------------------------------------------------------------------


async def test_a_batch_that_fails_is_tried_again_each_message_by_its_own_count(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    any_group.delivery = Delivery(backoff=QUICKLY)
    handler = Batches(lambda messages: OSError("down") if messages[0].deliveries == 1 else None)
    ids = await any_group.add(5)
    processor = await start(any_group, handler)
    await handler.has_finished(5)
    await any_group.settled()
    assert handler.ids[0] == ids
    assert sorted(handler.finished) == ids
    assert {message.deliveries for batch in handler.seen[1:] for message in batch} == {2}
    assert (processor.metrics.failed, processor.metrics.retried) == (5, 5)
    [record] = [each for each in caplog.records if each.message == "batch failed"]
    assert vars(record)["message_ids"] == ids
    assert "OSError: down" in caplog.text


async def test_only_those_failed_that_batch_failed_names_each_with_its_own_error(any_group: Group) -> None:
    any_group.delivery = Delivery(backoff=QUICKLY, terminal_errors=["KeyError"])

    def failing(_messages: list[Message]) -> BaseException | None:
        if len(handler.seen) > 1:
            return None
        errors = {1: Reject("no"), 3: KeyError("id"), 4: Retry(after=timedelta()), 6: Defer(timedelta())}
        return BatchFailed(errors)

    ids = await any_group.add(8)
    handler = Batches(failing)
    processor = await start(any_group, handler)
    await done(any_group, processor, 8)
    letters = {letter["streamconsumer.origin-id"]: letter for letter in await dead_letters(any_group)}
    assert {ids[1]: "Rejected", ids[3]: "TerminalError"} == {
        message_id: letter["streamconsumer.reason"] for message_id, letter in letters.items()
    }
    again = {message.message_id: message.deliveries for batch in handler.seen[1:] for message in batch}
    assert again == {ids[4]: 2, ids[6]: 1}


async def test_batch_failed_with_nothing_in_it_is_a_success(group: Group) -> None:
    handler = Batches(lambda _: BatchFailed({}))
    await group.add(3)
    processor = await start(group, handler)
    await done(group, processor, 3)
    assert processor.metrics.failed == 0


WRONG: dict[str, tuple[dict[Any, Any], str, str]] = {
    "beyond": ({3: ValueError()}, "IndexError", "BatchFailed names index 3; the list had 0 to 2"),
    "negative": ({-1: ValueError()}, "IndexError", "BatchFailed names index -1; the list had 0 to 2"),
    "an id": ({"1-0": ValueError()}, "IndexError", "BatchFailed names index '1-0'; the list had 0 to 2"),
    "no error": ({0: "no"}, "TypeError", "BatchFailed has 'no' at index 0; expected the exception it failed with"),
}


@pytest.mark.parametrize(("failures", "kind", "sentence"), WRONG.values(), ids=WRONG)
async def test_a_batch_failed_that_makes_no_sense_fails_all_of_the_batch(
    group: Group, failures: dict[Any, Any], kind: str, sentence: str
) -> None:
    group.delivery = Delivery(max_deliveries=1)
    await group.add(3)
    processor = await start(group, Batches(lambda _: BatchFailed(failures)))
    await done(group, processor, 3)
    letters = await dead_letters(group)
    assert len(letters) == 3
    assert {letter["streamconsumer.error-message"] for letter in letters} == {sentence}
    assert all(kind in letter["streamconsumer.error-type"] for letter in letters)


@pytest.mark.parametrize("result", [Effects().set("k", "v"), [None, Effects().set("k", "v")]], ids=["one", "a list"])
async def test_effects_of_a_batch_handler_are_refused(group: Group, result: Any) -> None:
    group.delivery = Delivery(max_deliveries=1)

    async def handle(_batch: list[dict[str, str]]) -> Any:
        return result

    await group.add(2)
    processor = await start(group, handle)
    await done(group, processor, 2)
    letters = await dead_letters(group)
    assert len(letters) == 2
    assert "a batch handler returned Effects" in letters[0]["streamconsumer.error-message"]
    assert not await group.client.exists("k")


async def test_a_poisonous_message_does_not_take_its_neighbours_to_the_dead_letters(any_group: Group) -> None:
    """The last attempt is made alone, so whatever is buried has failed by itself."""
    any_group.delivery = ONE_BY_ONE
    ids = await any_group.add(6)
    handler = Batches(lambda batch: ValueError("bad") if ids[2] in [each.message_id for each in batch] else None)
    processor = await start(any_group, handler)
    await done(any_group, processor, 6)
    assert [letter["streamconsumer.origin-id"] for letter in await dead_letters(any_group)] == [ids[2]]
    assert sorted(handler.finished) == [*ids[:2], *ids[3:]]
    assert [ids[2]] in handler.ids


async def test_a_users_own_manager_gets_batches_too(group: Group) -> None:
    manager = OwnManager(group.url)
    handler = Batches(lambda _: BatchFailed({1: ValueError("bad")}))
    ids = await group.add(4)
    processor = await start(group, handler, manager=manager, poll=0.05)

    async def one_is_left() -> bool:
        return [each.message_id for each in await group.entries()] == [ids[1]]

    await eventually(one_is_left)
    assert handler.ids == [ids]
    await processor.stop_listening()
    await manager.client.aclose()


async def test_one_message_processed_directly_is_a_batch_of_one(group: Group) -> None:
    await group.create()
    await group.add()
    [message_id] = await group.read_as("pod-a")
    handler = Batches()
    await group.processor(handler, settings={"batch": True})._process_single_message(message_id, {"n": "0"})
    assert handler.finished == [message_id]
    assert await group.pending() == 0


# -- what happens to a batch ------------------------------------------------------------------------------------------


async def test_a_batch_that_takes_too_long_is_cancelled_once_and_all_of_it_tried_again(any_group: Group) -> None:
    any_group.delivery = Delivery(timeout=timedelta(milliseconds=200), backoff=QUICKLY)
    cancellations = 0

    async def slow_at_first(_batch: list[dict[str, Any]]) -> None:
        nonlocal cancellations
        if current_messages()[0].deliveries == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancellations += 1
                await asyncio.sleep(0.02)  # a second one would end this
                cancellations += 10
                raise

    await any_group.add(4)
    processor = await start(any_group, slow_at_first)
    await eventually(lambda: processor.metrics.acknowledged == 4)
    assert cancellations == 11
    assert (processor.metrics.failed, processor.metrics.retried) == (4, 4)


async def test_a_batch_that_returns_after_its_time_has_failed_all_the_same(group: Group) -> None:
    group.delivery = Delivery(timeout=timedelta(milliseconds=50), max_deliveries=1)

    async def stubborn(_batch: list[dict[str, Any]]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    await group.add(2)
    processor = await start(group, stubborn)
    await done(group, processor, 2)
    letters = await dead_letters(group)
    assert len(letters) == 2
    assert all("TimeoutError" in letter["streamconsumer.error-type"] for letter in letters)


async def test_what_a_peer_takes_of_a_batch_is_not_acknowledged_and_the_others_go_on(any_group: Group) -> None:
    handler = Batches(gate=False)
    ids = await any_group.add(4)
    processor = await start(any_group, handler)
    await handler.has_seen(1)
    await any_group.take([ids[0], ids[2]], "stranger")
    await eventually(lambda: processor.metrics.lost_ownership == 2)
    assert not handler.cancelled
    handler.gate.set()
    await handler.has_finished(4)
    await eventually(lambda: processor.metrics.acknowledged == 2)
    assert [(each.message_id, each.consumer) for each in await any_group.entries()] == [
        (ids[0], "stranger"),
        (ids[2], "stranger"),
    ]


async def test_a_batch_of_which_nothing_is_left_is_cancelled(group: Group) -> None:
    handler = Batches(gate=False)
    ids = await group.add(3)
    processor = await start(group, handler)
    await handler.has_seen(1)
    await group.take(ids, "stranger")
    await eventually(lambda: handler.cancelled)
    assert processor.metrics.failed == 0
    [later] = await group.add()
    handler.gate.set()
    await handler.has_finished(1)
    assert handler.finished == [later]
    assert {each.consumer for each in await group.entries()} <= {"stranger", "pod-a"}


async def test_a_drain_finishes_batches_and_hands_the_rest_back(any_group: Group) -> None:
    handler = Batches(gate=False)
    ids = await any_group.add(25)
    processor = await start(any_group, handler, concurrency=2)
    await handler.has_seen(2)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: not processor._in_flight.waiting)
    handler.gate.set()
    await stopping
    assert handler.finished == ids[:20]
    assert await any_group.pending() == processor.metrics.released


async def test_a_drain_that_is_over_leaves_the_whole_batch_pending(group: Group) -> None:
    handler = Batches(gate=False)
    ids = await group.add(5)
    processor = await start(group, handler, drain=0.1)
    await handler.has_seen(1)
    await processor.stop_listening()
    assert handler.cancelled == 1
    assert [each.message_id for each in await group.entries()] == ids
    assert processor.metrics.failed == 0


async def test_for_the_breaker_a_batch_counts_once_and_its_trial_is_one_message(group: Group) -> None:
    pause = timedelta(milliseconds=100)
    breaker = Breaker(failures=3, max_pause=pause)
    backoff = Backoff(min_delay=timedelta(milliseconds=1), max_delay=timedelta(milliseconds=1))
    group.delivery = Delivery(backoff=backoff, breaker=breaker, max_deliveries=6)
    is_down = True
    handler = Batches(lambda _: ConnectionError("the bank is down") if is_down else None)
    await group.add(100)
    processor = await start(group, handler)
    await eventually(lambda: processor.metrics.breaker_opened)
    assert handler.sizes[0] == 10
    assert len(handler.seen) == 3
    await handler.has_seen(5)
    is_down = False
    assert handler.sizes[3:5] == [1, 1]
    await handler.has_finished(100)
    await group.settled()
    assert await dead_letters(group) == []


async def test_a_batch_of_which_a_part_succeeded_is_no_failure_for_the_breaker(group: Group) -> None:
    group.delivery = Delivery(backoff=QUICKLY, breaker=Breaker(failures=1), max_deliveries=1)
    handler = Batches(lambda batch: BatchFailed(dict.fromkeys(range(1, len(batch)), OSError("no"))))
    await group.add(30)
    processor = await start(group, handler)
    await eventually(lambda: processor.metrics.acknowledged + processor.metrics.dead_lettered == 30)
    assert processor.metrics.breaker_opened == 0


async def test_suspects_begin_alone_in_a_batch_of_one(any_group: Group) -> None:
    """Any of them may be why their process died."""
    await any_group.create()
    await any_group.add(3)
    ids = await any_group.read_as("pod-a")
    await any_group.client.xclaim(STREAM, GROUP, "pod-a", 0, [*ids], retrycount=2)
    handler = Batches()
    await start(any_group, handler)
    await handler.has_finished(3)
    await any_group.settled()
    assert handler.ids == [[each] for each in ids]
    assert {message.deliveries for batch in handler.seen for message in batch} == {3}


@ON_ONE_SERVER
async def test_what_is_done_is_not_put_back_while_the_rest_of_its_batch_is_settled(any_group: Group) -> None:
    """Burying takes a round trip each. Meanwhile signs of life go on for what is in flight, and one of them puts an
    entry back that is nobody's any more."""
    handler = Batches(lambda batch: BatchFailed(dict.fromkeys(range(1, len(batch), 2), Reject("no"))))
    await any_group.add(20)
    async with Proxy(any_group.server).running() as proxy:
        proxy.delay_seconds = 0.1
        manager = any_group.manager(proxy.url, min_idle=1)
        processor = await start(any_group, handler, batch=20, manager=manager)
        await done(any_group, processor, 20, within=20)
        await processor.stop_listening()
        await manager.aclose()
    assert max(handler.sizes) >= 10
    assert sum(handler.sizes) == 20, "and none was handled twice"


@ON_ONE_SERVER
@pytest.mark.parametrize(
    "error", [Reject("no"), Retry("later", after=timedelta(seconds=60))], ids=["buried", "postponed"]
)
async def test_what_failed_of_a_batch_is_settled_in_a_few_round_trips(any_group: Group, error: Exception) -> None:
    handler = Batches(lambda batch: BatchFailed(dict.fromkeys(range(len(batch)), error)))
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


async def test_a_pod_is_told_by_its_environment(group: Group, new_pod: NewPod) -> None:
    pod = new_pod("pod_handlers:note_batch", handler_batch="true").start()
    ids = await group.add(3)
    lines = await pod.says("handled")
    assert [each for line in lines for each in line["ids"]] == ids[: len(ids)]
    await group.settled()


def test_what_cannot_take_a_list_is_told_so() -> None:
    with pytest.raises(HandlerUnusable, match="expected a function that takes a list of dicts"):
        checked(7, "shop:handle", batch=True)
    with pytest.raises(HandlerUnusable, match=r"takes \(\); expected one argument, the list of the batch's data"):
        checked(lambda: None, "shop:handle", batch=True)
