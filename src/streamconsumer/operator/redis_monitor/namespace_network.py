"""Network access of the operator on behalf of one namespace: checked look-ups, and limits on Redis connections.

The author of a StreamConsumer chooses the number of Redis endpoints. Without a limit, one namespace with 1,000
endpoints would use up the file descriptors and the memory of the operator. All endpoints of a namespace are polled, but
only a limited number at the same time. Only a limited number of endpoints keep their connections between two polls.
"""

import asyncio

from streamconsumer.redis_client.credentials import HostResolver

MAX_CONCURRENT_POLLS = 16
"""Maximum number of endpoints of one namespace that are polled at the same time."""

MAX_KEPT_CONNECTIONS = 64
"""Maximum number of endpoints of one namespace that keep their connections between two polls. An endpoint uses up to
two connections: one for polls, and one for the blocking read that waits for entries of StreamConsumers without pods."""


MAX_KEPT_SECRET_BYTES = 32 * 1024
"""An endpoint keeps its connections only if the values from its Secrets have at most this size in total."""


class NamespaceNetwork:
    """Network access on behalf of one namespace, shared by the pollers of the namespace's endpoints."""

    def __init__(self, resolve: HostResolver) -> None:
        self.resolve = resolve
        """Function that looks up a host and returns the addresses to which the operator may connect."""
        self.polls = asyncio.Semaphore(MAX_CONCURRENT_POLLS)
        """Semaphore that each poll of an endpoint acquires before the poll starts."""
        self.large_secrets = asyncio.Lock()
        """Lock that a poll acquires if the values from the endpoint's Secrets exceed MAX_KEPT_SECRET_BYTES. The lock
        lets a namespace build only one TLS context at a time from such values, because all namespaces share the
        threads. Building a TLS context occupies a thread for up to 0.2 s and needs several megabytes."""
        self._kept = 0

    def try_keep(self) -> bool:
        """Return True if one more endpoint may keep its connections. The endpoint must call `release` when its polling
        stops."""
        if self._kept >= MAX_KEPT_CONNECTIONS:
            return False
        self._kept += 1
        return True

    def release(self) -> None:
        """Let another endpoint keep its connections."""
        self._kept -= 1
