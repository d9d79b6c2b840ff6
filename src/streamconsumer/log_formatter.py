"""Log formatter of the operator and the processor: each record becomes printable text of limited length.

Records contain untrusted text: errors of servers, exceptions of handlers, names and ids. The formatter wraps another
formatter, which determines the layout of a record. A record that cannot be formatted is logged with a placeholder.
Without the placeholder, `logging` would print the raw values of the record.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable
from traceback import TracebackException
from types import TracebackType
from typing import Any

from streamconsumer.text import ELLIPSIS, printable_lines

MAX_FIELD_LENGTH = 8192
"""Maximum number of characters in the message and in each field of a record."""

MAX_STACK_LENGTH = 65_536
"""Maximum number of characters in a stack trace. If a stack trace is longer, its middle is left out. The start of a
stack trace shows the frames, and the end shows the last exception."""

_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class PrintableFormatter(logging.Formatter):
    """Limits the length of a record, formats the record with another formatter, and escapes the result."""

    def __init__(self, formatter: logging.Formatter, escape: Callable[[str], str]) -> None:
        super().__init__()
        self._formatter, self._escape = formatter, escape

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of the record. The record itself is not modified, because other logging handlers may format
        it too."""
        return self._escape(self._formatter.format(limit_record(record)))


def limit_record(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy of the record in which all texts have a limited length. `exc_text` of the copy is the stack
    trace."""
    limited = logging.makeLogRecord(vars(record) | extra_fields(record))
    limited.msg, limited.args = _message(record), None
    stack = record.exc_text or (_format_exception(record.exc_info) if record.exc_info else "")
    limited.exc_info, limited.exc_text = None, limit_stack(stack) or None
    limited.stack_info = limit_stack(record.stack_info) if record.stack_info else None
    return limited


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that `extra` added to the record, with values of limited length."""
    return {name: _limit(value) for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}


def limit_stack(text: str) -> str:
    """Leave out the middle of a long stack trace."""
    half = MAX_STACK_LENGTH // 2
    return text if len(text) <= MAX_STACK_LENGTH else f"{text[:half]}\n{ELLIPSIS}\n{text[-half:]}"


def print_uncaught_exceptions() -> None:
    """Print the stack traces of uncaught exceptions in printable form, in all threads."""

    def print_exception(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        stack = _format_exception((type(error), error, error.__traceback__))
        sys.stderr.write(printable_lines(limit_stack(stack)).rstrip("\n") + "\n")

    def print_thread_exception(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            print_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    sys.excepthook = print_exception
    threading.excepthook = print_thread_exception


def _message(record: logging.LogRecord) -> Any:
    if isinstance(record.msg, dict):  # the JSON formatter adds the fields of such a message to the record
        return {name: _limit(value) for name, value in record.msg.items()}
    try:
        return _limit(record.getMessage())
    except Exception:  # noqa: BLE001 - the arguments do not match the message, or their `__str__` fails
        return f"{_limit(record.msg)} (arguments do not match)"


def _limit(value: Any) -> Any:
    """Return the value if its text is short enough for a log, otherwise the truncated text.

    Returns a placeholder if the value cannot be converted to text.
    """
    if value is None or isinstance(value, bool | float):
        return value
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    except Exception as error:  # noqa: BLE001 - `__str__` may raise any error
        return f"({type(value).__name__}, which cannot be converted to text: {type(error).__name__})"
    return value if len(text) <= MAX_FIELD_LENGTH else text[: MAX_FIELD_LENGTH - 1] + ELLIPSIS


def _format_exception(exc_info: ExceptionInfo) -> str:
    if exc_info[1] is None:
        return ""
    try:
        return "".join(TracebackException.from_exception(exc_info[1]).format()).rstrip("\n")
    except Exception as error:  # noqa: BLE001 - an exception's own code may raise any error
        return f"{type(exc_info[1]).__name__}: stack trace cannot be formatted: {type(error).__name__}"
