"""Exceptions of handlers as OTLP log records, each with its stack and the ids of the attempt's span.

The semantic conventions no longer record exceptions as span events, because backends truncate spans that contain
stacks. Only exceptions of sampled attempts are recorded; the pod's log contains every exception.
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
"""Limits of a record. The start of a long stack is cut off, so that the frame that raised the exception remains."""

_WARN = 13, "WARN"
"""Severity that the semantic conventions require for the exception of an attempt, because a later attempt may
succeed."""


class ExceptionLogs:
    """Encodes exceptions into an export queue. `attributes` are common to all records."""

    def __init__(self, queue: ExportQueue, attributes: Mapping[str, Any]) -> None:
        self._queue, self._attributes = queue, attributes

    def record(self, span: RecordedSpan, error: BaseException, attributes: Mapping[str, Any]) -> None:
        """Queue a record of an exception. Never raises, even if `str()` of the exception fails."""
        if self._queue.drop_if_full():
            return
        try:
            traceback = TracebackException.from_exception(error, limit=-MAX_FRAMES, compact=True)
            record_attributes = {
                **self._attributes,
                **attributes,
                semconv.EXCEPTION_TYPE: error_type(error),
                semconv.EXCEPTION_MESSAGE: str(traceback)[:MAX_MESSAGE_LENGTH],
                semconv.EXCEPTION_STACK: "".join(traceback.format())[-MAX_STACK_LENGTH:],
            }
            ids = span.trace_id, span.span_id, span.flags
            self._queue.put(
                otlp_encoding.log_record(semconv.EXCEPTION_EVENT, _WARN, time.time_ns(), ids, record_attributes)
            )
        except Exception:
            log.exception("failed to record the exception of a handler")

    def flush(self, timeout_seconds: float) -> bool:
        """Send queued records. Returns False if the timeout expired before the queue was empty."""
        return self._queue.flush(timeout_seconds)

    def close(self, timeout_seconds: float) -> bool:
        """Send queued records and stop the queue. Returns False if the timeout expired before the queue was empty."""
        return self._queue.close(timeout_seconds)
