"""For who looks at a stream from outside: whatever fails on the way is one of our errors, with a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from streamconsumer.errors import ServerUnavailable
from streamconsumer.server.faults import fault


@contextmanager
def told_as_ours(where: str) -> Iterator[None]:
    """`where` names what was asked for and the server, without credentials."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise ServerUnavailable(fault(error, where).sentence) from error
