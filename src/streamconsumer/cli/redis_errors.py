"""For who looks at a stream from outside: whatever fails on the way is one of our errors, with a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.errors import BackendUnavailable
from streamconsumer.redis_client.errors_table import classify_error


@contextmanager
def as_backend_unavailable(context: str, advice: str = "") -> Iterator[None]:
    """`where` names what was asked for and the server, without credentials. `advice`: what to do where the server is
    not to be reached at all."""
    try:
        yield
    except (RedisError, OSError) as error:
        sentence = classify_error(error, context).message
        unreached = isinstance(error, OSError | RedisConnectionError | RedisTimeoutError)
        if advice and unreached and not isinstance(error, AuthenticationError):
            sentence = f"{sentence}; {advice}"
        raise BackendUnavailable(sentence) from error
