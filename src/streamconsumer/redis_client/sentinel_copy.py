"""Copies of the connection pool of redis-py's Sentinel client.

The connections of a Sentinel pool ask the sentinels for the address of the primary. For these queries, the pool
contains clients that belong to one event loop. Each connection has only a weak reference to its pool. If the user's
redis client is freed, the pool is freed too. A stream manager therefore uses a copy of the pool, with new clients for
the sentinels.
"""

from copy import copy
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.sentinel import SentinelConnectionPool


def copy_sentinel_pool(pool: Any) -> SentinelConnectionPool | None:
    """Return a copy of a Sentinel pool with its own clients of the sentinels. Returns None if the pool is not a
    Sentinel pool."""
    sentinel = getattr(pool, "sentinel_manager", None)
    if sentinel is None:
        return None
    own_sentinel = copy(sentinel)
    own_sentinel.sentinels = [_copy_client(client) for client in sentinel.sentinels]
    return SentinelConnectionPool(  # type: ignore[no-untyped-call] # ships no types
        pool.service_name,
        own_sentinel,
        is_master=pool.is_master,
        check_connection=pool.check_connection,
        connection_class=pool.connection_class,
        **{key: value for key, value in pool.connection_kwargs.items() if key != "connection_pool"},
    )


async def close_sentinel_pool(pool: SentinelConnectionPool) -> None:
    """Close the clients of a copy."""
    for client in pool.sentinel_manager.sentinels:
        await client.aclose()


def _copy_client(client: Redis) -> Redis:
    pool = client.connection_pool
    own: Redis = Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs))
    own.auto_close_connection_pool = True
    return own
