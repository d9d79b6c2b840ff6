"""What a handler raised, with its stack: a log record of the attempt's span, beside it and not in it.

The conventions have given up exceptions as events of spans: a span that must carry stacks is one that backends cut off.
Only what is sampled has a record: whoever wants all of them has the log lines of the pod.
"""

import logging
import time
from collections.abc import Mapping
from traceback import TracebackException
from typing import Any

from streamconsumer.processor.telemetry import otlp_encoding, semconv
from streamconsumer.processor.telemetry.export_queue import ExportQueue
from streamconsumer.processor.telemetry.spans import RecordedSpan, error_type

log = logging.getLogger(__name__)

MAX_FRAMES, MAX_STACK_LENGTH, MAX_MESSAGE_LENGTH = 50, 16_384, 2000
"""Of a stack the end is kept, which is where it was raised."""

_WARN = 13, "WARN"
"""What the conventions ask for: the message may well be handled at another attempt."""


class ExceptionLogs:
    """`about`: the attributes that all records have."""

    def __init__(self, queue: ExportQueue, attributes: Mapping[str, Any]) -> None:
        self._queue, self._attributes = queue, attributes

    def record(self, span: RecordedSpan, error: BaseException, attributes: Mapping[str, Any]) -> None:
        """Never raises: not even for an exception that fails at telling what it is."""
        if self._queue.is_full():
            return
        try:
            found = TracebackException.from_exception(error, limit=-MAX_FRAMES, compact=True)
            told = {
                **self._attributes,
                **attributes,
                semconv.EXCEPTION_TYPE: error_type(error),
                semconv.EXCEPTION_MESSAGE: str(found)[:MAX_MESSAGE_LENGTH],
                semconv.EXCEPTION_STACK: "".join(found.format())[-MAX_STACK_LENGTH:],
            }
            ids = span.trace_id, span.span_id, span.flags
            self._queue.put(otlp_encoding.log_record(semconv.EXCEPTION_EVENT, _WARN, time.time_ns(), ids, told))
        except Exception:
            log.exception("an exception could not be written down")

    def flush(self, timeout_seconds: float) -> bool:
        return self._queue.flush(timeout_seconds)

    def close(self, timeout_seconds: float) -> bool:
        return self._queue.close(timeout_seconds)
