"""Errors that the engine does not expect: it only logs them, or they end one of its tasks.

An expected error is an error of Redis or of the network, a documented error of the engine, or an error that the
simulation itself raised, such as the error of a handler. Each other error is a fault of the engine, although the engine
may continue after it.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import FrameSummary, extract_tb

import redis.asyncio.connection
from redis.exceptions import DataError, RedisError

from streamconsumer.errors import StreamConsumerError
from streamconsumer.processor.handler.outcomes import Outcome

INJECTING_FILES = {
    str(Path(__file__).with_name(f"{name}.py")) for name in ("handlers", "network", "own_manager", "pod")
}
"""Modules of the simulation that raise the errors of handlers and faults."""

EXPECTED_ERRORS = (RedisError, OSError, StreamConsumerError, Outcome)


def unexpected_error(error: BaseException | None) -> BaseException | None:
    """Return the error, or the first error of its group, that the engine does not expect. None if there is none.

    redis-py raises AttributeError if a task closes the connection with which another task is sending.
    """
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(unexpected_error, error.exceptions)), None)
    is_expected = isinstance(error, EXPECTED_ERRORS) and not isinstance(error, DataError)
    if not isinstance(error, Exception) or is_expected:
        return None
    frame = _origin(error)
    file_name = "" if frame is None else frame.filename
    is_closed = isinstance(error, AttributeError) and file_name == redis.asyncio.connection.__file__
    return None if is_closed or file_name in INJECTING_FILES else error


def error_text(error: BaseException) -> str:
    """Return an error and the place that raised it. The text contains no memory address."""
    frame = _origin(error)
    return f"{error!r} in {frame.name}" if frame else repr(error)


def _origin(error: BaseException) -> FrameSummary | None:
    frames = extract_tb(error.__traceback__)
    return frames[-1] if frames else None


class _RecordHandler(logging.Handler):
    def __init__(self, on_record: Callable[[logging.LogRecord, BaseException | None], object]) -> None:
        super().__init__()
        self._on_record = on_record

    def emit(self, record: logging.LogRecord) -> None:
        self._on_record(record, sys.exc_info()[1])


@contextmanager
def engine_log(on_record: Callable[[logging.LogRecord, BaseException | None], object], level: int) -> Iterator[None]:
    """Pass each log record of the engine to a function, together with the error that is being handled."""
    logger, handler = logging.getLogger("streamconsumer"), _RecordHandler(on_record)
    before, disabled = (logger.level, logger.propagate), logging.root.manager.disable
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    logging.disable(logging.NOTSET)
    try:
        yield
    finally:
        logging.disable(disabled)
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
