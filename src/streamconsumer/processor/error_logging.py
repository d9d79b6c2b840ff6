"""Helpers that log an error and continue."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import TracebackException

from streamconsumer.redis_client.errors_table import classify_error

MAX_ERROR_LENGTH = 8192
"""Maximum number of characters of an error's text. The text of a handler's error can contain a whole HTTP response."""

log = logging.getLogger(__name__)


def format_error(error: BaseException) -> str:
    """Format an error as `Type: text`, of limited length, even if the exception's `__str__` fails. The result can be
    encoded as UTF-8."""
    text = str(TracebackException.from_exception(error, limit=0))[:MAX_ERROR_LENGTH]
    return f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()


def log_redis_error(message: str, context: str, error: Exception) -> None:
    """Log a warning with the code and the explanation of a Redis error. `context` names the stream and the group."""
    error_info = classify_error(error, context)
    log.warning(message, extra={"code": error_info.code, "error": error_info.message})


@contextmanager
def logging_redis_errors(message: str, context: str) -> Iterator[None]:
    """Log any exception that the `with` block raises, and continue after the block."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - every error is logged
        log_redis_error(message, context, error)
