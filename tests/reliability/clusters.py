"""Groups of servers: a Sentinel that watches a primary, and a Redis Cluster with two nodes."""

from pathlib import Path
from typing import Any

from redis import Redis

from tests.cluster.processes import Program, free_port
from tests.cluster.redis_servers import RedisServer
from tests.cluster.runs import wait_until

SLOTS = 16384


def execute(client: Redis, *words: Any) -> Any:
    """Execute one command."""
    return client.execute_command(*words)  # type: ignore[no-untyped-call] # ships no types for it


class Sentinel(RedisServer):
    """Sentinel with a quorum of one."""

    def __init__(self, primary: RedisServer) -> None:
        super().__init__()
        self._primary = primary

    def _config_lines(self, directory: Path) -> list[str]:
        return [
            f"bind {self.host}",
            f"port {self.port}",
            f"dir {directory}",
            f"sentinel monitor shop {self._primary.host} {self._primary.port} 1",
            "sentinel down-after-milliseconds shop 300",
            "sentinel failover-timeout shop 3000",
        ]

    def _build_program(self, directory: Path) -> Program:
        configuration = directory / "sentinel.conf"
        configuration.write_text("\n".join(self._config_lines(directory)) + "\n")
        return Program("sentinel", [self.binary, configuration, "--sentinel"], directory)

    @property
    def client(self) -> Redis:
        return Redis.from_url(self.url, decode_responses=True)

    def has_replica(self) -> bool:
        reply: Any = execute(self.client, "SENTINEL", "MASTER", "shop")
        info = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
        return int(info["num-slaves"]) > 0

    def primary(self) -> tuple[str, int]:
        host, port = execute(self.client, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop")
        return str(host), int(port)


class Cluster:
    """Redis Cluster with two nodes. The first node has all slots until they are moved."""

    def __init__(self) -> None:
        self.nodes = [self._node().start() for _ in range(2)]
        self.clients: list[Redis] = [Redis.from_url(node.url, decode_responses=True) for node in self.nodes]
        first, second = self.clients
        execute(first, "CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        port, bus = self.nodes[1].port, self.nodes[1].options["cluster-port"]
        execute(first, "CLUSTER", "MEET", self.nodes[1].host, port, bus)
        assert wait_until(lambda: all(self._is_ready(each) for each in (first, second)), 60)

    @staticmethod
    def _node() -> RedisServer:
        return RedisServer({"cluster-enabled": "yes", "cluster-port": str(free_port())})

    @staticmethod
    def _is_ready(client: Redis) -> bool:
        reply: Any = execute(client, "CLUSTER", "INFO")
        info = reply if isinstance(reply, dict) else dict(line.split(":") for line in reply.split())
        return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "2")

    def move_slot_of(self, key: str) -> None:
        """Move the slot of a key, with all its keys, from the first node to the second while both serve."""
        first, second = self.clients
        slot = execute(first, "CLUSTER", "KEYSLOT", key)
        ids = [execute(each, "CLUSTER", "MYID") for each in self.clients]
        execute(second, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        execute(first, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        address = (self.nodes[1].host, self.nodes[1].port)
        while keys := execute(first, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            execute(first, "MIGRATE", *address, "", 0, 5000, "KEYS", *keys)
        for client in (second, first):
            execute(client, "CLUSTER", "SETSLOT", slot, "NODE", ids[1])

    def remove(self) -> None:
        for client in self.clients:
            client.close()
        for node in self.nodes:
            node.remove()
