"""For who looks at a stream from outside: whatever fails on the way is one of our errors, with a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.errors import ServerUnavailable
from streamconsumer.redis_client.errors_table import fault


@contextmanager
def told_as_ours(where: str, advice: str = "") -> Iterator[None]:
    """`where` names what was asked for and the server, without credentials. `advice`: what to do where the server is
    not to be reached at all."""
    try:
        yield
    except (RedisError, OSError) as error:
        sentence = fault(error, where).sentence
        unreached = isinstance(error, OSError | RedisConnectionError | RedisTimeoutError)
        if advice and unreached and not isinstance(error, AuthenticationError):
            sentence = f"{sentence}; {advice}"
        raise ServerUnavailable(sentence) from error
