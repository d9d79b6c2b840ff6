"""Replies that Redis does not document: each is an error of the command, and nothing else fails."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconsumer.errors import ConsumerNameInUse, EffectsRejected, InvalidSettings
from streamconsumer.model.processor_settings import Retention
from streamconsumer.processor.consumer.effects_commit import commit_effects
from streamconsumer.processor.consumer.group_snapshot import GroupSnapshot
from streamconsumer.processor.consumer.large_entries import BoundedReads
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.consumer.memory_limit import memory_limits
from streamconsumer.processor.consumer.observer import Observer
from streamconsumer.processor.consumer.pending_entries import Dead, PendingEntries, PendingEntry
from streamconsumer.processor.consumer.read_size import ReadSize
from streamconsumer.processor.consumer.registration import OwnRegistration, identify
from streamconsumer.processor.consumer.retention import StreamTrimmer
from streamconsumer.processor.dead_letters.store import DeadLetterStore
from streamconsumer.processor.dead_letters.writer import DeadLetterWriter
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import ConsumerId, Encoding, new_entries
from streamconsumer.redis_client.replies import Execute, UnexpectedReply
from tests.redis_client.test_replies import REPLIES

NAMES = ("orders", "billing", "pod-a")


async def claim(execute: Execute) -> Any:
    limits = memory_limits(1000)
    reads = BoundedReads(SimpleNamespace(), limits, ReadSize(limits))  # type: ignore[arg-type] # never connects
    reads.connection.execute = execute  # type: ignore[assignment,method-assign]
    pending = PendingEntries(execute, reads, *NAMES)
    await pending.claim_due(1)
    return await pending.claim([PendingEntry("1-0", 1)], Dead("pod-b", timedelta(seconds=1)))


async def write_dead_letter(execute: Execute) -> None:
    async def pipeline(_commands: Any) -> list[Any]:
        return [await execute()]

    [result] = await DeadLetterWriter(pipeline, "orders", "billing", "dead", 10).write_many("pod-a", [("1-0", [])])
    if isinstance(result, UnexpectedReply):
        raise result


async def last_delivered_id(execute: Execute) -> Any:
    manager = StreamManager.from_url("redis://localhost")
    manager.execute = execute  # type: ignore[assignment,method-assign]
    await manager.ack_event("orders", "billing", "1-0")
    return await manager.last_delivered_id("orders", "billing")


async def read_events(execute: Execute) -> Any:
    manager = StreamManager.from_url("redis://localhost", encoding="bytes")
    manager.execute = execute  # type: ignore[assignment,method-assign]
    return await manager.read_events("orders", "billing", "pod-a", 1)


async def check_consumers(execute: Execute) -> None:
    manager = StreamManager.from_url("redis://localhost")
    observer = Observer(manager, OwnRegistration(ConsumerId(*NAMES), "token"))
    observer._connection.execute = execute  # type: ignore[assignment,method-assign]
    await observer.check()


async def acquire_name(execute: Execute) -> None:
    registration = OwnRegistration(ConsumerId(*NAMES), "token")
    connection: Any = SimpleNamespace(execute=execute)
    registration.set_identity("reader", await identify(connection, "token"))
    await registration.acquire(connection, timedelta(seconds=1))


async def wake_peer(execute: Execute) -> None:
    async def execute_all(commands: Sequence[Sequence[Any]]) -> list[Any]:
        return [await execute(*command) for command in commands]

    await OwnRegistration(ConsumerId(*NAMES), "token").wake_peer(execute_all, Random())


CALLS: dict[str, Callable[[Execute], Awaitable[Any]]] = {
    "renew": lambda execute: Leases(execute, *NAMES).renew(["1-0"]),
    "start_attempt": lambda execute: Leases(execute, *NAMES).start_attempt("1-0", 1),
    "delete_consumer": lambda execute: Leases(execute, *NAMES).delete_consumer(),
    "wake": wake_peer,
    "page": lambda execute: PendingEntries(execute, SimpleNamespace(), *NAMES).page("pod-a", 1),  # type: ignore[arg-type]
    "claim": claim,
    "restore": lambda execute: GroupSnapshot(execute, *NAMES).restore_group("0-0", "0"),
    "effects": lambda execute: commit_effects(execute, ConsumerId(*NAMES), "1-0", Effects().set("x", "1")),
    "write": write_dead_letter,
    "trim": lambda execute: StreamTrimmer(execute, "orders", "billing", Retention(acknowledged=True)).trim(),
    "check": lambda execute: DeadLetterStore(execute, "orders", "billing", "dead").check(),
    "position": last_delivered_id,
    "read_events": read_events,
    "check_consumers": check_consumers,
    "acquire_name": acquire_name,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@settings(max_examples=30)  # of each of the calls
@given(reply=REPLIES)
async def test_odd_reply_is_an_error_of_the_command(call: Callable[[Execute], Awaitable[Any]], reply: Any) -> None:
    if isinstance(reply, Exception):
        return

    async def execute(*_command: Any) -> Any:
        return reply

    with suppress(UnexpectedReply, InvalidSettings, EffectsRejected, ConsumerNameInUse):
        await call(execute)


@pytest.mark.parametrize("encoding", ["utf-8", "bytes"])
@given(entries=st.lists(REPLIES, min_size=1, max_size=3))
def test_odd_entry_in_a_read_is_an_error(encoding: Encoding, entries: list[Any]) -> None:
    with suppress(UnexpectedReply):
        new_entries(entries, encoding, is_ascii=False)


@pytest.mark.parametrize(
    "entry", [["9" * 400 + "-0", []], ["abc", []], ["1_0-0", []], ["", []], ["1-0", None], ["1-0"], [1, []], 7, None]
)
def test_invalid_entry_in_a_read_is_an_error(entry: Any) -> None:
    with pytest.raises(UnexpectedReply, match="expected pairs of an id and fields"):
        new_entries([entry], "utf-8", is_ascii=True)
