"""Acknowledgements are sent once they are made, and again until Redis has confirmed them."""

import asyncio
from collections.abc import Collection

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from streamconsumer.processor.consumer import ack_buffer
from streamconsumer.processor.consumer.ack_buffer import AckBuffer
from streamconsumer.processor.metrics import Metrics
from tests.processor.eventually import eventually


class Sender:
    """Sends acknowledgements to a server that confirms all of them, or does not respond."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.in_flight: list[str] = []
        self.metrics = Metrics()
        self.buffer = AckBuffer(self.send, self.metrics, lambda: self.in_flight)

    async def send(self, ids: Collection[str]) -> int:
        self.sent.append([*ids])
        await self.gate.wait()
        if self.error:
            raise self.error
        return len(ids)


@pytest.fixture
async def sender() -> Sender:
    return Sender()


async def test_acknowledgements_are_sent_together_after_a_short_wait(sender: Sender) -> None:
    sender.buffer.add("1-0")
    sender.buffer.add_many(["2-0", "1-0"])
    assert not sender.sent
    await eventually(lambda: sender.metrics.acknowledged == 2)
    sender.buffer.add("3-0")
    await eventually(lambda: sender.metrics.acknowledged == 3)
    assert sender.sent == [["1-0", "2-0"], ["3-0"]]
    await eventually(lambda: not sender.buffer._flushing)


async def test_read_takes_the_acknowledgements_so_that_no_other_command_sends_them(sender: Sender) -> None:
    sender.buffer.add("1-0")
    timer = sender.buffer._timer
    assert timer
    acks = sender.buffer.take_batch()
    assert timer.cancelled()
    assert not sender.buffer.is_buffered("1-0")
    sender.buffer.add("2-0")
    await eventually(lambda: sender.sent == [["2-0"]])
    sender.buffer.confirm(acks, 1)


async def test_empty_buffer_sends_nothing(sender: Sender) -> None:
    assert sender.buffer.take_batch() == {}
    await sender.buffer.flush()
    await sender.buffer.flush_final()
    assert not sender.sent
    assert not sender.buffer._unconfirmed


async def test_confirmed_batch_is_counted_and_reported(sender: Sender) -> None:
    reported: list[tuple[Collection[str], int]] = []
    sender.buffer.add_many(["1-0", "2-0", "3-0"])
    first = sender.buffer.take_batch()
    sender.buffer.on_sent = lambda ids, sent_ns: reported.append((ids, sent_ns))
    sender.buffer.confirm(first, 2)
    assert (sender.metrics.acknowledged, sender.metrics.acknowledgements_lost) == (2, 1)
    assert reported == [(first, 0)], "telemetry was off when the batch was sent"
    sender.buffer.add("4-0")
    second = sender.buffer.take_batch()
    sender.buffer.confirm(second, 1)
    assert reported[1][0] == second
    assert reported[1][1] > 10**18


async def test_only_unconfirmed_batches_are_sent_again(sender: Sender) -> None:
    buffer = sender.buffer
    batches = []
    for number in range(4):
        buffer.add(f"{number}-0")
        batches.append(buffer.take_batch())
    confirmed, lost, open_, _ = batches
    buffer.confirm(confirmed, 1)
    for batch in (confirmed, lost):
        buffer.requeue(batch)
    assert [buffer.is_buffered(f"{number}-0") for number in range(4)] == [False, True, False, False]
    with buffer.acked_during() as acked_ids:
        assert acked_ids == {"1-0", "2-0", "3-0"}, "a batch that is sent again is not confirmed"
    buffer.confirm(buffer.take_batch(), 1)
    with buffer.acked_during() as acked_ids:
        assert acked_ids == {"2-0", "3-0"}
    buffer.clear()
    buffer.requeue(open_)
    with buffer.acked_during() as acked_ids:
        assert not acked_ids


async def test_acknowledgements_are_seen_only_while_they_may_contradict_a_reply(sender: Sender) -> None:
    buffer = sender.buffer
    with buffer.acked_during() as outer:
        buffer.add("1-0")
        with buffer.acked_during() as inner:
            buffer.record_acked("2-0")
        buffer.add("3-0")
        assert (outer, inner) == ({"1-0", "2-0", "3-0"}, {"1-0", "2-0"})
    buffer.add("4-0")
    assert "4-0" not in outer
    assert not buffer._listeners


async def test_running_flush_ends_before_the_consumer_closes(sender: Sender) -> None:
    sender.gate.clear()
    sender.buffer.add("1-0")
    await eventually(lambda: sender.sent)
    closing = asyncio.create_task(sender.buffer.flush_final())
    await asyncio.sleep(0)
    assert not closing.done()
    sender.gate.set()
    await closing
    assert sender.metrics.acknowledged == 1
    sender.buffer.add("2-0")
    await sender.buffer.flush_final()
    assert sender.sent == [["1-0"], ["2-0"]]


async def test_cancelled_flush_keeps_its_acknowledgements(sender: Sender) -> None:
    sender.gate.clear()
    sender.buffer.add("1-0")
    await eventually(lambda: sender.sent)
    sender.buffer.cancel()
    await eventually(lambda: not sender.buffer._flushing)
    assert sender.buffer.is_buffered("1-0")


async def test_failed_flush_is_repeated_once(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_buffer, "RETRY_DELAY_SECONDS", 0.05)
    sender.error = RedisConnectionError("no connection")
    sender.buffer.add("1-0")
    await eventually(lambda: len(sender.sent) == 2)
    sender.error = None
    await eventually(lambda: sender.metrics.acknowledged == 1)
    sender.error = RedisConnectionError("no connection")
    sender.buffer.add("2-0")
    with pytest.raises(RedisConnectionError):
        await sender.buffer.flush()


async def test_acknowledgement_during_a_failing_flush_sets_the_time_of_the_next(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second timer would send acknowledgements although the first one is replaced by the next read."""
    sender.gate.clear()
    sender.error = RedisConnectionError("no connection")
    sender.buffer.add("1-0")
    await eventually(lambda: sender.sent)
    monkeypatch.setattr(ack_buffer, "LINGER_SECONDS", 60)
    sender.buffer.add("2-0")
    timer = sender.buffer._timer
    sender.gate.set()
    await asyncio.gather(*sender.buffer._flushing)
    assert sender.buffer._timer is timer
    sender.buffer.take_batch()


# -- scripts and lease renewals --------------------------------------------------------------------------------------


async def test_entry_of_a_script_is_not_renewed_until_it_is_settled(sender: Sender) -> None:
    buffer = sender.buffer
    with buffer.settled_by_script(["1-0", "2-0"]):
        assert buffer.ids_in_scripts == {"1-0", "2-0"}
    assert not buffer.ids_in_scripts, "the script failed, so that the entries are still owned"


async def test_settled_entry_is_not_renewed_while_it_is_in_flight(sender: Sender) -> None:
    buffer = sender.buffer
    sender.in_flight = ["1-0", "2-0", "3-0"]
    with buffer.settled_by_script(["1-0", "2-0", "3-0", "4-0"]):
        buffer.record_acked("1-0")
        buffer.record_postponed(["2-0"])
        buffer.record_postponed(["4-0"])
    assert buffer.ids_in_scripts == {"1-0", "2-0"}
    sender.in_flight = ["1-0", "2-0"]
    with buffer.settled_by_script(["1-0"]):
        pass
    assert buffer.ids_in_scripts == {"2-0"}, "the entry was received again, and its script failed"


async def test_renewal_that_overtakes_the_reply_of_a_script_is_undone(sender: Sender) -> None:
    buffer = sender.buffer
    with buffer.settled_by_script(["1-0", "2-0"]):
        assert buffer.record_renewed(["1-0", "3-0"]) == {"1-0"}
        buffer.record_acked("1-0")
        buffer.record_acked("2-0")
        assert [buffer.is_buffered(each) for each in ("1-0", "2-0")] == [True, False]
    with buffer.settled_by_script(["1-0"]):
        buffer.take_batch()
        buffer.record_acked("1-0")
        assert not buffer.is_buffered("1-0"), "no renewal overtook this script"
