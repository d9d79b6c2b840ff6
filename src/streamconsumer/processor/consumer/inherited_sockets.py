"""Sockets that forked children inherit: each child drops its copies of this process's connections to Redis.

A connection exists until all processes have closed their copies of its socket. A handler may fork a child, for example
with `multiprocessing`. If this process died, the child would keep the connections open, and other consumers would
regard this process as alive.
"""

import os
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from redis.asyncio.connection import AbstractConnection

_connections: WeakSet[AbstractConnection] = WeakSet()


def close_in_children(connection: AbstractConnection) -> None:
    """Close the connection's socket in each child that this process forks later."""
    _connections.add(connection)


def _close_inherited() -> None:
    """Replace each inherited socket by /dev/null.

    The number of the file descriptor stays in use, because an object in the child may close it later."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for connection in list(_connections):
        writer: Any = connection._writer  # noqa: SLF001 - redis-py has no public access to it
        opened = writer and writer.get_extra_info("socket")
        with suppress(OSError, ValueError):  # the connection may be closed
            if opened is not None and opened.fileno() >= 0:
                os.dup2(null, opened.fileno(), inheritable=False)
    os.close(null)


os.register_at_fork(after_in_child=_close_inherited)
