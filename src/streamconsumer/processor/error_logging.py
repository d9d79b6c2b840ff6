"""Errors that are told and gone on after."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import TracebackException

from streamconsumer.redis_client.errors_table import classify_error

log = logging.getLogger(__name__)


def format_error(error: BaseException) -> str:
    """`Type: text` in what UTF-8 can carry. A handler's exception may fail even at telling what it is."""
    text = str(TracebackException.from_exception(error, limit=0))
    return f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()


def log_redis_error(message: str, context: str, error: Exception) -> None:
    """Say that something failed that is gone on after."""
    found = classify_error(error, context)
    log.warning(message, extra={"code": found.code, "error": found.message})


@contextmanager
def logging_redis_errors(message: str, context: str) -> Iterator[None]:
    """Go on after an error, and say so."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        log_redis_error(message, context, error)
