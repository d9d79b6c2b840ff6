"""Faults of a pair of servers and of the network in front of it."""

import contextlib
import random
import threading
from collections import Counter
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.cluster.redis_servers import DEFAULT, Flavour, RedisServer
from tests.cluster.runs import wait_until
from tests.reliability.proxy import NetworkFault, Proxy

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""Options with which a confirmed write survives kill -9 of the server."""


TEMPORARY_SETTINGS = {
    "the server's memory is full": ("maxmemory", "1", "0"),
    "the server limits its replies": ("client-output-buffer-limit", "normal 65536 0 0", "normal 0 0 0"),
}
"""Faults that are settings of the server: the name of the setting, its value during the fault, and its usual value."""


class ServerPair:
    """A primary with a replica, which can swap roles, behind a proxy as behind a Service."""

    def __init__(self, flavour: Flavour = DEFAULT) -> None:
        self.primary, self.replica = (RedisServer(DURABLE, flavour).start() for _ in range(2))
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
        """True if both servers have all data on disk, so that the next fault may come.

        A replica that has just received all data has it only in memory until its append-only file is rewritten.
        """
        try:
            infos: list[Any] = [self._connect(each).info() for each in (self.primary, self.replica)]
        except (RedisError, OSError):
            return False
        is_rewriting = any(each["aof_rewrite_in_progress"] or each["aof_rewrite_scheduled"] for each in infos)
        return infos[1].get("master_link_status") == "up" and not is_rewriting

    def wait_in_sync(self) -> None:
        """Wait until both servers are in sync."""
        assert wait_until(lambda: self.is_in_sync, 60), "the replica is not in sync after 60 s"

    def restart(self) -> None:
        """Kill the primary with kill -9 and start it again with all confirmed writes."""
        self.primary.kill()
        self.primary.start()

    def freeze(self, seconds: float) -> None:
        """Stop the primary from responding for a while."""
        self.primary.pause()
        threading.Timer(seconds, self.primary.resume).start()

    def slow_down(self, delay_seconds: float, seconds: float) -> None:
        """Delay each request and each reply on all connections of the pods for a while."""
        self.proxy.slowness_seconds = delay_seconds
        threading.Timer(seconds, setattr, (self.proxy, "slowness_seconds", 0.0)).start()

    def pause_writes(self, seconds: float) -> None:
        """Let writes wait for a while, as a manual failover does."""
        self.client.client_pause(int(seconds * 1000), all=False)

    def set_for(self, seconds: float, option: str, value: str, usual: str) -> None:
        """Change a setting of the primary for a while."""
        client = self.client
        client.config_set(option, value)
        threading.Timer(seconds, _try_to_set, (client, option, usual)).start()

    def end_faults(self) -> None:
        """End all faults that end by themselves after a while."""
        self.proxy.slowness_seconds = 0.0
        for server in (self.primary, self.replica):
            server.resume()
            if not server.is_running:  # its last restart took longer than the time limit
                server.start()
            client = self._connect(server)
            with contextlib.suppress(RedisError, OSError):
                client.client_unpause()
            for option, _, usual in TEMPORARY_SETTINGS.values():
                _try_to_set(client, option, usual)

    def promote(self) -> None:
        """Make the replica the primary. Writes that it has not received are lost. The old primary follows it."""
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
    """Plan of a proxy that applies queued faults to the next commands."""

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
            fault = self._queued.pop()
            self.injected[fault] += 1
            return fault


def _try_to_set(client: Redis, option: str, value: str) -> None:
    with contextlib.suppress(RedisError, OSError):
        client.config_set(option, value)


@contextlib.contextmanager
def running_server_pair(flavour: Flavour = DEFAULT) -> Any:
    """Run a pair of servers and remove it afterwards."""
    pair = ServerPair(flavour)
    try:
        yield pair
    finally:
        pair.close()
