"""What counts as an attempt, when the process that makes it is killed: Redis counts, and a peer believes it."""

import signal
from datetime import timedelta

from streamconsumer.model.settings import Delivery
from streamconsumer.processor import Defer
from streamconsumer.processor.in_flight import InFlight
from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.pod import NewPod, Pod
from tests.processor.recorder import Recorder, always
from tests.processor.test_batches import Batches
from tests.processor.test_retries import dead_letters

FRAGILE = {
    "delivery_backoff_min_delay": "5ms",
    "delivery_backoff_max_delay": "20ms",
    "delivery_breaker_failures": "1",
    "delivery_breaker_max_pause": "10ms",
}
"""A breaker that opens with the first failure."""


async def _counts_are(group: Group, *counts: int) -> None:
    async def so() -> bool:
        return [each.deliveries for each in await group.entries()] == list(counts)

    await eventually(so)


async def _killed(pod: Pod) -> None:
    pod.signal(signal.SIGKILL)
    await pod.ended()


async def _a_peer_handles(group: Group, message_id: str, *, deliveries: int) -> None:
    peer = Recorder()
    await group.start(peer, "pod-b")
    await peer.has_finished(1)
    await group.settled()
    assert [(each.message_id, each.deliveries) for each in peer.seen] == [(message_id, deliveries)]
    assert await dead_letters(group) == []


async def test_a_message_put_off_on_its_last_attempt_survives_the_pod_that_waits_with_it(
    group: Group, new_pod: NewPod
) -> None:
    """One with an ordering key waits in its pod, however long."""
    group.delivery = Delivery(max_deliveries=2)
    [message_id] = await group.add()
    quickly = {"delivery_backoff_min_delay": "5ms", "delivery_backoff_max_delay": "20ms"}
    pod = new_pod("pod_handlers:deferring", ordering_key="n", delivery_max_deliveries="2", **quickly).start()
    await pod.says("deferred")
    await _counts_are(group, 1)
    await _killed(pod)
    await _a_peer_handles(group, message_id, deliveries=2)


async def test_a_message_tried_while_the_breaker_is_open_survives_the_pod_that_tries_it(
    group: Group, new_pod: NewPod
) -> None:
    group.delivery = Delivery(max_deliveries=2)
    [message_id] = await group.add()
    pod = new_pod("pod_handlers:tried", delivery_max_deliveries="2", **FRAGILE).start()
    await pod.says("begun")
    await _killed(pod)
    await _a_peer_handles(group, message_id, deliveries=2)


async def test_a_message_that_kills_its_process_whenever_it_is_tried_is_a_dead_letter_all_the_same(
    group: Group, new_pod: NewPod
) -> None:
    """Ten others fail, so that each process comes to it with its breaker open."""
    await group.add(10)
    [killer] = await group.add(fields={"kills": "yes"})
    pod, starts = new_pod("pod_handlers:failing_or_mortal", delivery_max_deliveries="3", **FRAGILE), 0

    async def is_buried() -> bool:
        nonlocal starts
        if pod.process is None or pod.process.poll() is not None:
            pod.start()  # as a kubelet does
            starts += 1
        return any(each["streamconsumer.message-id"] == killer for each in await dead_letters(group))

    await eventually(is_buried, within=60)
    assert starts <= 4, "three in which it was begun"
    [letter] = [each for each in await dead_letters(group) if each["streamconsumer.message-id"] == killer]
    assert letter["streamconsumer.reason"] == "Crashed"


async def test_what_another_consumer_has_taken_meanwhile_waits_for_nothing() -> None:
    """A batch goes on without it; were it tried again here, it would be handled twice."""
    begun: list[str] = []

    async def run(entry: Entry) -> None:
        begun.append(entry.message_id)
        flight.lose(entry.message_id)
        flight.wait(entry, 0.01)

    flight = InFlight(run, concurrency=1, metrics=Metrics())
    flight.take_in([Entry("1-0", ())])
    await eventually(lambda: begun == ["1-0"] and flight.ids() == [])
    assert begun == ["1-0"]


@ON_ONE_SERVER
async def test_while_a_message_is_put_off_for_a_moment_redis_knows_that_it_does_not_count(any_group: Group) -> None:
    handler = Recorder(always(Defer(timedelta(seconds=2))))
    await any_group.add()
    await any_group.start(handler)
    await handler.has_seen(1)
    await _counts_are(any_group, 0)
    await handler.has_seen(3)
    assert {message.deliveries for message in handler.seen} == {1}


async def test_of_a_batch_that_is_put_off_for_a_moment_redis_knows_it_too(any_group: Group) -> None:
    handler = Batches(lambda _: Defer(timedelta(seconds=2)))
    await any_group.add(10)
    await any_group.start(handler, settings={"batch": True})
    await _counts_are(any_group, *[0] * 10)
