"""The start of a pod: from its process' beginning until its group is there."""

import time
from os import sysconf
from pathlib import Path

from streamconsumer.processor.telemetry import otlp_encoding
from streamconsumer.processor.telemetry.sampling import Sampling
from streamconsumer.processor.telemetry.spans import RecordedSpan
from streamconsumer.processor.telemetry.trace_identity import random_span, random_trace

_INTERNAL = 1
_START_TICKS = 19
"""Where /proc/self/stat has it, counted from behind the name, in which there may be anything."""
_OLDEST_NS = 600 * 1_000_000_000
"""Whoever is older at its start runs on a kernel that does not tell, and has written 0."""


def process_began_ns() -> int:
    """When this process began, to a hundredth of a second; now, where no kernel tells."""
    now = time.time_ns()
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[_START_TICKS])
        age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 1_000_000_000 // sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - age if 0 < age < _OLDEST_NS else now


def begun(name: str, sampling: Sampling) -> RecordedSpan | None:
    """Its span, if it is wanted: a trace of its own, for the pod may outlive by months what it was made for."""
    trace_id = random_trace()
    if not sampling.wants(trace_id, None):
        return None
    span = RecordedSpan(otlp_encoding.head(f"start {name}", _INTERNAL), trace_id, random_span(), 1)
    span.start_ns = process_began_ns()
    return span
