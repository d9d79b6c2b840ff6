"""Two processes with one consumer name never handle messages at the same time."""

import signal
import time
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.processor import RedisStreamProcessor
from streamconsumer.processor.consumer import liveness, registered_pod_uid, unique_consumer_name
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.consumer.registration import Identity, OwnRegistration, Registration
from streamconsumer.processor.message import ConsumerId
from streamconsumer.processor.runtime import Runtime
from streamconsumer.redis_client.keys import group_key
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.recorder import Recorder

REGISTRATIONS = group_key(STREAM, GROUP, "registrations")


def consumer_of(processor: RedisStreamProcessor) -> RedisConsumer:
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    return consumer


async def wait_until_registered(group: Group, processor: RedisStreamProcessor, connections: int = 3) -> Registration:
    """Wait until the registration contains this number of connections. Returns it."""
    registration = consumer_of(processor).registration

    async def is_registered() -> bool:
        stored = await group.client.hget(REGISTRATIONS, processor.consumer_name)
        return stored == str(registration.current) and len(registration.current.client_ids) == connections

    await eventually(is_registered)
    return registration.current


@ON_ONE_SERVER
async def test_registration_contains_the_named_connections(any_group: Group) -> None:
    processor = await any_group.start(Recorder())
    registration = await wait_until_registered(any_group, processor)
    clients: Any = await any_group.client.client_list(client_id=list(registration.client_ids))
    assert {client["name"] for client in clients} == {registration.token}
    assert registration.run_id == (await any_group.client.info("server"))["run_id"]
    await processor.stop_listening()
    assert not await any_group.client.hexists(REGISTRATIONS, "pod-a")


@ON_ONE_SERVER
async def test_second_process_waits_until_the_first_has_stopped(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    handler, second_handler = Recorder(gate=False), Recorder()
    first = await any_group.start(handler)
    [running] = await any_group.add()
    await handler.wait_until_received(1)
    await wait_until_registered(any_group, first)
    second = await any_group.start(second_handler)
    await eventually(lambda: "another process with this name" in second.health.readiness()[1])
    await eventually(lambda: any("another process waits" in record.message for record in caplog.records), within=40)
    assert not second_handler.received
    handler.gate.set()
    await any_group.wait_settled()
    await first.stop_listening()
    await eventually(lambda: second.health.readiness()[0])
    ids = await any_group.add()
    await second_handler.wait_until_finished(1)
    assert (handler.ids, second_handler.ids) == ([running], ids)


async def test_process_takes_over_the_name_of_a_killed_one_within_seconds(group: Group, new_pod: NewPod) -> None:
    ids = await group.add(3, {"seconds": "60"})
    pod = new_pod("pod_handlers:slow", concurrency="3").start()
    await pod.wait_for_log("started", times=3)
    pod.signal(signal.SIGKILL)
    await pod.wait_for_exit()
    handler = Recorder()
    await group.start(handler)
    await handler.wait_until_finished(3, within=15)
    assert sorted(handler.ids) == sorted(ids)


async def test_container_of_the_same_pod_takes_up_its_messages_immediately(group: Group, new_pod: NewPod) -> None:
    await group.add(3, {"seconds": "60"})
    pod = new_pod("pod_handlers:slow", concurrency="3").start(environment={names.POD_UID_VARIABLE: "uid-1"})
    await pod.wait_for_log("started", times=3)
    pod.signal(signal.SIGKILL)
    await pod.wait_for_exit()
    assert str(await group.client.hget(REGISTRATIONS, "pod-a")).endswith(" uid-1")
    handler = Recorder()
    processor = group.processor(handler, settings={"runtime": Runtime(pod_uid="uid-1")})
    began = time.monotonic()
    await processor.start_listening()
    await handler.wait_until_received(1)
    assert time.monotonic() - began < 1


@ON_ONE_SERVER
async def test_process_whose_name_was_taken_over_drops_its_messages(any_group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler)
    [message_id] = await any_group.add()
    await handler.wait_until_received(1)
    current = await wait_until_registered(any_group, processor)
    other = Registration(current.run_id, "other", current.client_ids)
    await any_group.client.hset(REGISTRATIONS, mapping={"pod-a": str(other), "": 1000})
    await eventually(lambda: handler.cancelled == [message_id])
    await eventually(lambda: consumer_of(processor).registration.has_name, within=40)


@ON_ONE_SERVER
async def test_deleted_registration_of_a_busy_process_is_stored_again(any_group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler)
    await any_group.add()
    await handler.wait_until_received(1)
    await wait_until_registered(any_group, processor)
    await any_group.client.delete(REGISTRATIONS)
    await wait_until_registered(any_group, processor)
    handler.gate.set()


@ON_ONE_SERVER
async def test_deleted_registration_of_an_idle_process_is_stored_again(
    any_group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "ANNOUNCE_INTERVAL", timedelta(seconds=1))
    processor = await any_group.start(Recorder())
    await wait_until_registered(any_group, processor)
    await any_group.client.delete(REGISTRATIONS)
    await wait_until_registered(any_group, processor)


@ON_ONE_SERVER
async def test_consumer_with_the_name_dash_keeps_its_registration(any_group: Group) -> None:
    processor = await any_group.start(Recorder(), "-")
    await wait_until_registered(any_group, processor)
    peer = await any_group.start(Recorder(), "pod-b")
    consumer = consumer_of(peer)
    assert consumer.claimer
    await consumer.claimer._observer._read_state(0.0, must_announce=True)
    assert await any_group.client.hexists(REGISTRATIONS, "-")


@ON_ONE_SERVER
async def test_registration_of_a_newer_version_keeps_the_name(any_group: Group) -> None:
    await any_group.create_group()
    await any_group.client.hset(REGISTRATIONS, "pod-a", "2 whatever it contains")
    await any_group.add()
    await any_group.read_as("pod-a")
    handler = Recorder()
    processor = await any_group.start(handler, min_idle=3)
    assert not processor.health.readiness()[0]
    await handler.wait_until_finished(1)


@ON_ONE_SERVER
async def test_processor_without_a_name_gets_a_unique_one(any_group: Group) -> None:
    processors = [RedisStreamProcessor(any_group.manager(), STREAM, GROUP) for _ in range(2)]
    first, second = (processor.consumer_name for processor in processors)
    assert first != second
    assert unique_consumer_name() not in (first, second)


@pytest.mark.parametrize(
    "registration",
    [
        Registration("run", "token", ()),
        Registration("run", "token", (1, 22), "uid"),
        Registration("run", "token", (1,), "-", "waiting"),
    ],
)
def test_registration_is_parsed_as_it_was_written(registration: Registration) -> None:
    assert Registration.parse(str(registration)) == registration


@pytest.mark.parametrize("value", ["", "two words", "x" * 65, "ü-1"])
def test_value_that_is_no_uid_is_not_registered(value: str) -> None:
    assert registered_pod_uid(value) == "-"
    assert registered_pod_uid("3a1c0f5e-uid") == "3a1c0f5e-uid"


@pytest.mark.parametrize("text", ["", "1", "2 run token 1 uid", "1 run token 1", "1 run token 1 uid waiting more"])
def test_other_registration_is_not_understood(text: str) -> None:
    assert Registration.parse(text) is None


def test_registration_names_only_connections_to_the_newest_server() -> None:
    registration = OwnRegistration(ConsumerId(STREAM, GROUP, "pod-a"), "token")
    registration.set_identity("reader", Identity(1, "old"))
    registration.set_identity("heartbeat", Identity(2, "new"))
    registration.set_identity("observer", Identity(3, ""))
    assert list(registration.current.client_ids) == [2]
    registration.set_identity("reader", Identity(4, "new"))
    assert list(registration.current.client_ids) == [4, 2], "the connection that reads is the first"


@ON_ONE_SERVER
async def test_stop_and_start_again_uses_the_same_name(any_group: Group) -> None:
    handler = Recorder()
    processor = await any_group.start(handler)
    await wait_until_registered(any_group, processor)
    await processor.stop_listening()
    await processor.start_listening()
    await any_group.add()
    await handler.wait_until_finished(1)


def test_registration_of_an_ended_process_is_replaced_until_the_own_one_is_stored() -> None:
    ended = str(Registration("run", "first", (1, 2)))
    own = OwnRegistration(ConsumerId(STREAM, GROUP, "pod-a"), "second", has_name=True, judged=ended)
    own.on_found(ended)
    assert own.has_name, "the server was out of memory"
    own.on_found(str(Registration("run", "third", (3, 4))))
    assert not own.has_name


@ON_ONE_SERVER
@pytest.mark.parametrize("has_previous", [False, True], ids=["no-registration", "ended-process"])
async def test_name_in_use_is_not_taken_over_while_the_server_rejects_registrations(
    any_group: Group, *, has_previous: bool
) -> None:
    await any_group.create_group()
    await any_group.add()
    await any_group.read_as("pod-a")  # by a process whose registration the server rejected
    ended = f"1 {(await any_group.client.info('server'))['run_id']} ended 999999 -"
    if has_previous:
        await any_group.client.hset(REGISTRATIONS, "pod-a", ended)
    await any_group.client.config_set("maxmemory", 1)
    handler = Recorder()
    processor = any_group.processor(handler)
    try:
        await processor.start_listening()
        await eventually(lambda: "may be using this name" in processor.health.readiness()[1])
        assert not handler.received
    finally:
        await any_group.client.config_set("maxmemory", 0)
    await handler.wait_until_finished(1, within=15)
