"""Attempt counting when the process of an attempt is killed: a peer relies on the count in Redis."""

import signal
from datetime import timedelta

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import Defer
from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.pod import NewPod, Pod
from tests.processor.recorder import BatchRecorder, Recorder, fail_every_delivery

FRAGILE = {
    "delivery_backoff_min_delay": "5ms",
    "delivery_backoff_max_delay": "20ms",
    "delivery_breaker_failures": "1",
    "delivery_breaker_max_pause": "10ms",
}
"""Environment of a pod whose circuit breaker opens on the first failure."""


async def _wait_for_counts(group: Group, *counts: int) -> None:
    async def counts_match() -> bool:
        return [entry.deliveries for entry in await group.entries()] == list(counts)

    await eventually(counts_match)


async def _kill(pod: Pod) -> None:
    pod.signal(signal.SIGKILL)
    await pod.wait_for_exit()


async def _assert_peer_handles(group: Group, message_id: str, *, deliveries: int) -> None:
    peer = Recorder()
    await group.start(peer, "pod-b", min_idle=1)  # the peer has not seen the connections of the killed pod
    await peer.wait_until_finished(1)
    await group.wait_settled()
    assert [(message.message_id, message.deliveries) for message in peer.received] == [(message_id, deliveries)]
    assert await group.dead_letters() == []


async def test_message_deferred_on_its_last_attempt_survives_a_kill_of_its_pod(group: Group, new_pod: NewPod) -> None:
    """An entry with an ordering key waits in its pod, whatever the delay."""
    group.delivery = Delivery(max_deliveries=2)
    [message_id] = await group.add()
    quick_backoff = {"delivery_backoff_min_delay": "5ms", "delivery_backoff_max_delay": "20ms"}
    pod = new_pod(
        "pod_handlers:fail_once_then_defer", ordering_key="n", delivery_max_deliveries="2", **quick_backoff
    ).start()
    await pod.wait_for_log("deferred")
    await _wait_for_counts(group, 1)
    await _kill(pod)
    await _assert_peer_handles(group, message_id, deliveries=2)


async def test_trial_of_the_open_breaker_survives_a_kill_of_its_pod(group: Group, new_pod: NewPod) -> None:
    group.delivery = Delivery(max_deliveries=2)
    [message_id] = await group.add()
    pod = new_pod("pod_handlers:fail_once_then_hang", delivery_max_deliveries="2", **FRAGILE).start()
    await pod.wait_for_log("started")
    await _kill(pod)
    await _assert_peer_handles(group, message_id, deliveries=2)


async def test_message_that_crashes_its_process_as_a_trial_is_dead_lettered(group: Group, new_pod: NewPod) -> None:
    """Ten other messages fail first and wait for a retry, so that the breaker of each process is open for this message.

    After the first crash, the message is a suspect, and starts only while no other message is ready."""
    await group.add(10)
    [crashing] = await group.add(fields={"kills": "yes"})
    backoff = {"delivery_backoff_min_delay": "2s", "delivery_backoff_max_delay": "2s"}
    pod, starts = new_pod("pod_handlers:fail_or_crash", delivery_max_deliveries="3", **{**FRAGILE, **backoff}), 0

    async def is_dead_lettered() -> bool:
        nonlocal starts
        if pod.process is None or pod.process.poll() is not None:
            pod.start()  # as a kubelet does
            starts += 1
        return any(each["streamconsumer.message-id"] == crashing for each in await group.dead_letters())

    await eventually(is_dead_lettered, within=60)
    assert starts <= 4, "three processes started the message"
    [dead_letter] = [each for each in await group.dead_letters() if each["streamconsumer.message-id"] == crashing]
    assert dead_letter["streamconsumer.reason"] == "Crashed"


async def test_claimed_entry_is_not_scheduled_for_a_retry() -> None:
    """The batch continues without the entry. A retry here would handle the entry twice."""
    started: list[str] = []

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        in_flight.drop_claimed(entry.message_id)
        in_flight.schedule_retry(entry, 0.01)

    in_flight = InFlightTable(run, concurrency=1, metrics=Metrics())
    in_flight.admit([Entry("1-0", ())])
    await eventually(lambda: started == ["1-0"] and in_flight.ids() == [])
    assert started == ["1-0"]


@ON_ONE_SERVER
async def test_short_defer_is_uncounted_in_redis_during_the_delay(any_group: Group) -> None:
    handler = Recorder(fail_every_delivery(Defer(timedelta(seconds=2))))
    await any_group.add()
    await any_group.start(handler)
    await handler.wait_until_received(1)
    await _wait_for_counts(any_group, 0)
    await handler.wait_until_received(3)
    assert {message.deliveries for message in handler.received} == {1}


async def test_short_defer_of_a_batch_is_uncounted_in_redis_during_the_delay(any_group: Group) -> None:
    handler = BatchRecorder(lambda _: Defer(timedelta(seconds=2)))
    await any_group.add(10)
    await any_group.start(handler, settings={"batch": True})
    await _wait_for_counts(any_group, *[0] * 10)
