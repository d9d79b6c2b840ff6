"""Errors of handlers and of Redis: errors inside exception groups, texts of errors, and helpers that log an error and
continue."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import TracebackException

from streamconsumer.redis_client.errors_table import classify_error

MAX_ERROR_LENGTH = 8192
"""Maximum number of characters of an error's text. The text of a handler's error can contain a whole HTTP response."""

MAX_LEAVES = 10
"""Maximum number of errors of an exception group that a text names."""

log = logging.getLogger(__name__)


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors in an exception group and in the groups within it. Returns any other error in a list."""
    return [each for each in _walk(error) if not isinstance(each, BaseExceptionGroup)]


def groups(error: BaseException) -> list[BaseException]:
    """Return an exception group and the groups within it. Returns an empty list for any other error."""
    return [each for each in _walk(error) if isinstance(each, BaseExceptionGroup)]


def _walk(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors within it, without recursion, because a handler may nest groups to any depth."""
    stack = [error]
    while stack:
        each = stack.pop()
        yield each
        if isinstance(each, BaseExceptionGroup):
            stack.extend(reversed(each.exceptions))


def format_error(error: BaseException) -> str:
    """Format an error as `Type: text`, of limited length, even if the exception's `__str__` fails. The text of an
    exception group contains the errors in the group. The result can be encoded as UTF-8."""
    text = _format_single(error)
    if isinstance(error, BaseExceptionGroup):
        text = f"{text}: {format_leaves(leaves(error))}"
    return text[:MAX_ERROR_LENGTH]


def format_leaves(errors: Sequence[BaseException]) -> str:
    """Format the errors of an exception group as one text."""
    texts = [_format_single(error) for error in errors[:MAX_LEAVES]]
    if len(errors) > MAX_LEAVES:
        texts.append(f"and {len(errors) - MAX_LEAVES} more")
    return "; ".join(texts)


def _format_single(error: BaseException) -> str:
    text = str(TracebackException.from_exception(error, limit=0))[:MAX_ERROR_LENGTH]
    name = type(error).__name__
    return (f"{name}: {text}" if text else name).encode(errors="backslashreplace").decode()


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
