"""Queue times of the entries of a read."""

import time

import pytest

from streamconsumer.processor.metrics import QUEUE_BUCKETS_SECONDS, Metrics


def test_entries_of_a_read_are_counted_by_their_queue_time() -> None:
    metrics, now = Metrics(), int(time.time() * 1000)
    metrics.record_queue_time(1, f"{now + 60_000}-0", f"{now + 60_000}-0")  # the server's clock is ahead
    metrics.record_queue_time(100, f"{now - 20_100}-0", f"{now - 20_000}-7")
    metrics.record_queue_time(3, f"{now - 4_000_000}-0", f"{now}-0")
    counts = dict(zip([*QUEUE_BUCKETS_SECONDS, "more"], metrics.queue_duration.counts, strict=True))
    assert {bound: count for bound, count in counts.items() if count and bound not in (0.001, 0.005, 0.01, 0.05)} == {
        30.0: 100,
        3600.0: 1,
        "more": 1,
    }
    assert sum(metrics.queue_duration.counts) == 104
    assert metrics.queue_duration.sum == pytest.approx(100 * 20.05 + 6000, abs=1)
