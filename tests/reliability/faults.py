"""What can go wrong, one class a scale: a pod, the pair of servers, the network before them."""

import contextlib
import random
import threading
from collections import Counter
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.cluster.redis_servers import RedisServer
from tests.cluster.runs import wait_until
from tests.reliability.proxy import NetworkFault, Proxy

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""What was confirmed survives kill -9 of the server."""


class ServerPair:
    """A primary with a replica; which of the two is which changes. Behind a proxy, as behind a Service."""

    def __init__(self) -> None:
        self.primary, self.replica = RedisServer(DURABLE).start(), RedisServer(DURABLE).start()
        self.client = self._connect(self.primary)
        self._follow()
        self.proxy = Proxy(self.primary.host, self.primary.port).start()

    def close(self) -> None:
        self.proxy.stop()
        self.client.close()
        for server in (self.primary, self.replica):
            server.resume()
            server.remove()

    @property
    def is_in_sync(self) -> bool:
        """Whether both have everything, on disk too: time for the next misfortune. A replica that has just got all its
        data keeps them in memory alone until it has written its append-only file anew."""
        try:
            about: list[Any] = [self._connect(each).info() for each in (self.primary, self.replica)]
        except (RedisError, OSError):
            return False
        writing = any(each["aof_rewrite_in_progress"] or each["aof_rewrite_scheduled"] for each in about)
        return about[1].get("master_link_status") == "up" and not writing

    def wait_in_sync(self) -> None:
        """Until both are in step."""
        assert wait_until(lambda: self.is_in_sync, 60), "the replica has not come into step in 60 s"

    def restart(self) -> None:
        """kill -9, and up again with what it had confirmed."""
        self.primary.kill()
        self.primary.start()

    def freeze(self, seconds: float) -> None:
        """It answers nobody for a while."""
        self.primary.pause()
        threading.Timer(seconds, self.primary.resume).start()

    def promote(self) -> None:
        """The replica becomes the primary; what it had not yet been told is gone. The old one follows it."""
        self.replica, self.primary = self.primary, self.replica
        self.client = self._connect(self.primary)
        self.client.replicaof("NO", "ONE")
        self.proxy.set_target(self.primary.host, self.primary.port)
        self._follow()

    def _follow(self) -> None:
        self._connect(self.replica).replicaof(self.primary.host, self.primary.port)
        self.wait_in_sync()

    @staticmethod
    def _connect(server: RedisServer) -> Redis:
        return Redis.from_url(server.url, decode_responses=True, retry=None, socket_timeout=5)


class NetworkFaultQueue:
    """A proxy's plan: what was asked for befalls the next commands, whichever they are."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._lock = rng, threading.Lock()
        self._queued: list[NetworkFault] = []
        self.injected: Counter[NetworkFault] = Counter()

    def enqueue(self, fault: NetworkFault) -> None:
        with self._lock:
            self._queued.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._queued.clear()

    def __call__(self, _label: str) -> NetworkFault | None:
        with self._lock:
            if not self._queued or self._rng.random() > 0.2:
                return None
            harm = self._queued.pop()
            self.injected[harm] += 1
            return harm


@contextlib.contextmanager
def running_server_pair() -> Any:
    """A pair that is gone afterwards."""
    pair = ServerPair()
    try:
        yield pair
    finally:
        pair.close()
