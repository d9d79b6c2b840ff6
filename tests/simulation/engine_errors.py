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

from redis.exceptions import RedisError

from streamconsumer.errors import StreamConsumerError
from streamconsumer.processor.handler.outcomes import Outcome

INJECTING_FILES = {
    str(Path(__file__).with_name(f"{name}.py")) for name in ("handlers", "network", "own_manager", "pod")
}
"""Modules of the simulation that raise the errors of handlers and faults."""

EXPECTED_ERRORS = (RedisError, OSError, StreamConsumerError, Outcome)


def unexpected_error(error: BaseException | None) -> BaseException | None:
    """Return the error, or the first error of its group, that the engine does not expect. None if there is none."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(unexpected_error, error.exceptions)), None)
    if not isinstance(error, Exception) or isinstance(error, EXPECTED_ERRORS):
        return None
    frame = _origin(error)
    return None if frame is not None and frame.filename in INJECTING_FILES else error


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
