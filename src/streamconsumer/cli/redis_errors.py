"""Converts redis-py and network errors into BackendUnavailable for the commands."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.errors import BackendUnavailable
from streamconsumer.redis_client.errors_table import classify_error


@contextmanager
def as_backend_unavailable(context: str, advice: str = "") -> Iterator[None]:
    """Raise BackendUnavailable instead of a Redis or network error.

    `context` names the object and the server in the error message, without credentials. `advice` is appended to the
    message if the server cannot be reached.
    """
    try:
        yield
    except (RedisError, OSError) as error:
        message = classify_error(error, context).message
        is_unreachable = isinstance(error, OSError | RedisConnectionError | RedisTimeoutError)
        if advice and is_unreachable and not isinstance(error, AuthenticationError):
            message = f"{message}; {advice}"
        raise BackendUnavailable(message) from error
