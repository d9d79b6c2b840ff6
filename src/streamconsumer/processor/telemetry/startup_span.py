"""The start of a pod: from its process' beginning until its group is there."""

import time
from os import sysconf
from pathlib import Path

from streamconsumer.processor.telemetry import otlp_encoding
from streamconsumer.processor.telemetry.sampling import Sampler
from streamconsumer.processor.telemetry.spans import RecordedSpan
from streamconsumer.processor.telemetry.trace_identity import random_span_id, random_trace_id

_INTERNAL = 1
_START_TIME_FIELD = 19
"""Where /proc/self/stat has it, counted from behind the name, in which there may be anything."""
_MAX_AGE_NS = 600 * 1_000_000_000
"""Whoever is older at its start runs on a kernel that does not tell, and has written 0."""


def process_start_ns() -> int:
    """When this process began, to a hundredth of a second; now, where no kernel tells."""
    now = time.time_ns()
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])
        age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 1_000_000_000 // sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - age if 0 < age < _MAX_AGE_NS else now


def create_startup_span(name: str, sampler: Sampler) -> RecordedSpan | None:
    """Its span, if it is wanted: a trace of its own, for the pod may outlive by months what it was made for."""
    trace_id = random_trace_id()
    if not sampler.should_sample(trace_id, None):
        return None
    span = RecordedSpan(otlp_encoding.span_head(f"start {name}", _INTERNAL), trace_id, random_span_id(), 1)
    span.start_ns = process_start_ns()
    return span
