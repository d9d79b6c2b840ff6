"""Logs to standard output, as JSON or as short text lines. Both formats include the ids of the current trace."""

import logging
import sys
from contextlib import suppress

from pythonjsonlogger.json import JsonFormatter

from streamconsumer.processor.message import current_message
from streamconsumer.processor.telemetry import current_trace

_STANDARD_ATTRIBUTES = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _TraceContextFilter(logging.Filter):
    """Adds the ids of the current message and trace to a log record."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in current_trace().items():
            setattr(record, name, value)
        if not hasattr(record, "message_id"):
            with suppress(LookupError):
                record.message_id = current_message().message_id
        return True


class _TextFormatter(logging.Formatter):
    """Formats a record as one line: `ERROR message failed; will retry  message_id=… error=…`."""

    def format(self, record: logging.LogRecord) -> str:
        extras = {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}
        for name in ("span_id", "trace_flags"):
            extras.pop(name, None)
        if record.exc_info and "error" in extras:  # The line contains the error. Stack traces are only in JSON logs.
            record.exc_info, record.exc_text = None, None
        line = super().format(record)
        fields = " ".join(f"{name}={value}" for name, value in extras.items())
        return f"{line}  {fields}" if fields else line


def configure(level: str, log_format: str) -> None:
    """Write the records of all loggers to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_TraceContextFilter())
    if log_format == "json":
        rename_fields = {"levelname": "level", "name": "logger"}
        handler.setFormatter(
            JsonFormatter("%(message)s%(levelname)s%(name)s", rename_fields=rename_fields, timestamp="time")
        )
    else:
        handler.setFormatter(_TextFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
