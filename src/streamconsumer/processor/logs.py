"""Logs to standard output, as JSON or as short text lines. JSON records and text lines include the ids of the current
trace."""

import logging
import sys
from contextlib import suppress

from pythonjsonlogger.json import JsonFormatter

from streamconsumer.log_formatter import PrintableFormatter, extra_fields
from streamconsumer.processor.message import current_message
from streamconsumer.processor.telemetry import current_trace
from streamconsumer.text import json_printable, printable, printable_lines

_PACKAGE = "streamconsumer"
"""Name of the logger whose children are the loggers of this package."""


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
    """Formats a record as one line: `ERROR message failed; will retry  message_id=… error=…`.

    A stack trace follows. The lines of the stack trace are indented, so that no such line looks like a record.
    """

    def format(self, record: logging.LogRecord) -> str:
        extras = extra_fields(record)
        for name in ("span_id", "trace_flags"):
            extras.pop(name, None)
        line = printable(f"{record.levelname} {record.getMessage()}")
        fields = printable(" ".join(f"{name}={value}" for name, value in extras.items()))
        stacks = (record.stack_info,) if "error" in extras else (record.exc_text, record.stack_info)
        indented = ("\n" + stack for stack in stacks if stack)  # The field `error` makes the stack unnecessary.
        return (f"{line}  {fields}" if fields else line) + "".join(indented).replace("\n", "\n  ")


class _ProtectedLogger(logging.Logger):
    """Logger of this package. A logging configuration in the handler's module cannot disable the logger.

    `logging.config.dictConfig` and `fileConfig` disable all existing loggers by default."""

    @property
    def disabled(self) -> bool:
        """False, whatever the configuration sets."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    @property
    def propagate(self) -> bool:
        """True if the records also go to the handlers of the parent logger. A logger that has its own handler does not
        need the handlers of the parent. A logging configuration that names the logger removes the logger's own
        handler."""
        return not self.handlers

    @propagate.setter
    def propagate(self, value: bool) -> None:
        pass


def configure(level: str, log_format: str) -> None:
    """Write the records of all loggers to standard output.

    The loggers of this package have a handler of their own, because a logging configuration in the handler's module
    usually replaces the handlers and the level of the root logger."""
    handler = build_handler(log_format)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    protect_loggers()
    package_logger = logging.getLogger(_PACKAGE)
    package_logger.setLevel(level)
    package_logger.handlers[:] = [handler]


def protect_loggers() -> None:
    """Prevent the handler's module from disabling the loggers of this package that exist now."""
    for name in [_PACKAGE, *logging.root.manager.loggerDict]:
        if name == _PACKAGE or name.startswith(f"{_PACKAGE}."):
            logging.getLogger(name).__class__ = _ProtectedLogger


def build_handler(log_format: str) -> logging.Handler:
    """Return a handler that writes to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_TraceContextFilter())
    if log_format == "json":
        rename_fields = {"levelname": "level", "name": "logger"}
        formatter = JsonFormatter(
            "%(message)s%(levelname)s%(name)s",
            rename_fields=rename_fields,
            timestamp="time",
            json_ensure_ascii=False,
        )
        handler.setFormatter(PrintableFormatter(formatter, json_printable))
    else:
        handler.setFormatter(PrintableFormatter(_TextFormatter(), printable_lines))
    return handler
