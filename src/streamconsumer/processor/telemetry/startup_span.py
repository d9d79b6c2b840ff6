"""Startup span of a pod, which lasts from the start of the process until the consumer group exists."""

import time
from os import sysconf
from pathlib import Path

from streamconsumer.processor.telemetry import otlp_encoding
from streamconsumer.processor.telemetry.sampling import Sampler
from streamconsumer.processor.telemetry.spans import RecordedSpan
from streamconsumer.processor.telemetry.trace_identity import random_span_id, random_trace_id

_INTERNAL = 1
_START_TIME_FIELD = 19
"""Index of the start time among the fields that follow the process name in /proc/self/stat."""
_MAX_AGE_NS = 600 * 1_000_000_000
"""Maximum plausible age of a process at its start. The computed age exceeds this maximum if the kernel writes 0 as the
start time."""


def process_start_ns() -> int:
    """Return the start time of this process, accurate to 10 ms, or the current time if the start time is unknown."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])
        age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 1_000_000_000 // sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.time_ns()
    now = time.time_ns()  # read right after the boot clock, because the result depends on the difference of the clocks
    return now - age if 0 < age < _MAX_AGE_NS else now


def create_startup_span(name: str, sampler: Sampler) -> RecordedSpan | None:
    """Create the startup span of the pod. Returns None if the span is not sampled.

    The span has its own trace, because the pod may still be running months after the change that created the pod.
    """
    trace_id = random_trace_id()
    if not sampler.should_sample(trace_id, None):
        return None
    span = RecordedSpan(otlp_encoding.span_head(f"start {name}", _INTERNAL), trace_id, random_span_id(), 1)
    span.start_ns = process_start_ns()
    return span
