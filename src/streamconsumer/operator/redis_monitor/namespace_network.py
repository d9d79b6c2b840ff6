"""Network access of the operator on behalf of one namespace: checked look-ups, and limits on Redis connections.

The author of a StreamConsumer chooses the number of Redis endpoints. Without a limit, one namespace with 1,000
endpoints would use up the file descriptors and the memory of the operator. All endpoints of a namespace are polled, but
only a limited number at the same time. Only a limited number of endpoints keep their connections between two polls. The
same limits exist for all namespaces together, so that the operator always has file descriptors for the API server.
"""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from streamconsumer.redis_client.credentials import HostResolver

MAX_CONCURRENT_POLLS = 16
"""Maximum number of endpoints of one namespace that are polled at the same time."""

MAX_KEPT_CONNECTIONS = 64
"""Maximum number of endpoints of one namespace that keep their connections between two polls."""

CONNECTIONS_PER_ENDPOINT = 2
"""Maximum number of connections that an endpoint keeps: one for polls, and one for the blocking read that waits for
entries of StreamConsumers without pods."""

MAX_CONNECTIONS = 4096
"""Maximum number of connections to Redis servers. The limit is needed because each connection needs memory."""

MAX_KEPT_SECRET_BYTES = 32 * 1024
"""An endpoint keeps its connections only if the values from its Secrets have at most this size in total."""


class ConnectionLimits:
    """Limits on the Redis connections of all namespaces together."""

    def __init__(self, connections: int) -> None:
        """Half of the connections are for endpoints that keep their connections, half are for all other polls."""
        self.polls = asyncio.Semaphore(max(1, connections // 2))
        self._free = connections // 2 // CONNECTIONS_PER_ENDPOINT

    def try_keep(self) -> bool:
        """Return True if one more endpoint may keep its connections. The endpoint must call `release` later."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def release(self) -> None:
        """Let another endpoint keep its connections."""
        self._free += 1


def max_connections() -> int:
    """Return the maximum number of connections to Redis servers: MAX_CONNECTIONS, but at most half of the limit of open
    files.

    The other half of the file descriptors is for the API server, the probe port and the name servers."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)


class NamespaceNetwork:
    """Network access on behalf of one namespace, shared by the pollers of the namespace's endpoints."""

    def __init__(self, resolve: HostResolver, limits: ConnectionLimits) -> None:
        self.resolve = resolve
        """Function that looks up a host and returns the addresses to which the operator may connect."""
        self._limits = limits
        self._polls = asyncio.Semaphore(MAX_CONCURRENT_POLLS)
        self.large_secrets = asyncio.Lock()
        """Lock that a poll acquires if its values from Secrets exceed MAX_KEPT_SECRET_BYTES, because a TLS context with
        these values needs several megabytes."""
        self.tls_setup = asyncio.Lock()
        """Lock for building a TLS context, which occupies a thread for up to 0.2 s. All namespaces share the threads.
        The lock lets a namespace use only one thread at a time, so that the namespace delays other namespaces by at
        most the time for one TLS context."""
        self._kept = 0

    @asynccontextmanager
    async def poll(self, *, is_kept: bool) -> AsyncIterator[None]:
        """Wait until one more endpoint may be polled. The limit for all namespaces together applies only if the
        endpoint does not keep its connections."""
        async with self._polls, nullcontext() if is_kept else self._limits.polls:
            yield

    def try_keep(self) -> bool:
        """Return True if one more endpoint may keep its connections. The endpoint must call `release` when its polling
        stops."""
        if self._kept >= MAX_KEPT_CONNECTIONS or not self._limits.try_keep():
            return False
        self._kept += 1
        return True

    def release(self) -> None:
        """Let another endpoint keep its connections."""
        self._kept -= 1
        self._limits.release()
