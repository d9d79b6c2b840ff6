"""How long reads block, and how a server that ignores BLOCK is detected."""

from datetime import timedelta

from streamconsumer.processor.consumer.blocking_reads import MAX_EARLY_READS, BlockingReads
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.message import ConsumerId
from streamconsumer.processor.processor import RedisStreamProcessor
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder

ENTRIES = [["orders", []]]


def blocking_reads(seconds: float = 5) -> BlockingReads:
    return BlockingReads(timedelta(seconds=seconds), ConsumerId("orders", "billing", "pod-a"))


def test_reads_of_an_idle_consumer_block_for_up_to_a_minute() -> None:
    reads = blocking_reads()
    durations = []
    for _ in range(6):
        durations.append(reads.seconds)
        assert not reads.record(None, reads.seconds)
    assert durations == [5, 10, 20, 40, 60, 60]
    assert reads.is_long
    assert b"$5\r\nBLOCK\r\n$5\r\n60000\r\n" in reads.command(10)


def test_a_received_entry_makes_the_next_read_short() -> None:
    reads = blocking_reads()
    reads.record(None, 5)
    assert not reads.record(ENTRIES, 1)
    assert reads.seconds == 5
    assert not reads.is_long


def test_a_poll_interval_above_a_minute_is_kept() -> None:
    reads = blocking_reads(90)
    reads.record(None, 90)
    assert reads.seconds == 90


def test_a_read_that_another_consumer_ended_is_early_but_does_not_count_as_ignored_block() -> None:
    reads = blocking_reads()
    for _ in range(MAX_EARLY_READS):
        reads.record(None, 5)
        assert reads.record(None, 8)
    assert reads.is_supported


def test_ten_immediate_empty_reads_show_that_block_is_ignored() -> None:
    reads = blocking_reads()
    for _ in range(MAX_EARLY_READS):
        assert reads.is_supported
        assert reads.record(None, 0.01)
    assert not reads.is_supported
    reads.record(ENTRIES, 0.01)
    assert reads.is_supported


def reads_of(processor: RedisStreamProcessor) -> BlockingReads:
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    return consumer._blocking_reads


async def test_an_idle_consumer_sends_ever_fewer_reads_and_still_gets_new_entries_immediately(group: Group) -> None:
    handler = Recorder()
    processor = await group.start(handler, poll=0.1)
    await eventually(lambda: reads_of(processor).seconds >= 1.6)
    assert processor.metrics.reads < 15
    await group.add(1)
    await handler.wait_until_finished(1)
    await eventually(lambda: reads_of(processor).seconds < 1.6)


async def test_a_server_that_stops_responding_ends_a_long_read_early(group: Group) -> None:
    """The timeout of the read alone would notice the outage only after the BLOCK duration."""
    processor = group.processor(Recorder(), poll=0.1)
    reads_of(processor).seconds = 60.0
    await processor.start_listening()
    await group.wait_until_reading()
    group.server.pause()
    await eventually(lambda: processor.health.readiness()[1] not in {"", "ok", "starting"}, within=40)
