"""Where the primary is that has the stream, found anew at each connect: at a fixed address, by Sentinel, in a Cluster.

All three come down to one server at a time, because all keys of a consumer share a slot (keys.companion). So nothing
above needs to know of them: after a failover, READONLY or MOVED the connection is given up, and the next one leads to
where the stream then is. Two threads may ask at the same time; what they remember is only ever replaced as a whole.

Sentinels and nodes are asked one question over a connection of its own. redis-py's own clients for them keep
connections, need more rights (SENTINEL MASTERS, COMMAND), and know nothing of files that change.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.redis_client.connection import execute_once
from streamconsumer.redis_client.credentials import HostResolver, RedisAddress, RedisCredentials, no_host_lookup

HostPort = tuple[str, int]


class Topology:
    """A fixed address: what the URL says. The others find theirs in `locate`."""

    def __init__(self, credentials: RedisCredentials) -> None:
        self.credentials = credentials
        self._last_address = credentials.address()

    @property
    def address(self) -> tuple[str, int | None]:
        """Where the last connection led, or else what the URL says. A socket's path and None."""
        return (
            (self._last_address.socket_path, None)
            if self._last_address.socket_path
            else (self._last_address.host, self._last_address.port)
        )

    async def find_primary(self) -> HostPort:
        """Host and port of the primary. Raises redis' ConnectionError where nobody knows one."""
        place = self.credentials.address()
        return place.host, place.port

    async def current_address(self) -> RedisAddress:
        """The same with credentials and database, as they stand now."""
        host, port = await self.find_primary()
        self._last_address = replace(self.credentials.address(), host=host, port=port)
        return self._last_address


class SentinelTopology(Topology):
    """The sentinels know. Whoever answered is asked first the next time."""

    def __init__(self, credentials: RedisCredentials, primary_name: str, nodes: Sequence[HostPort]) -> None:
        super().__init__(credentials)
        self._primary_name, self._nodes = primary_name, list(nodes)

    async def find_primary(self) -> HostPort:
        username, password = self.credentials.sentinel_credentials()
        places = [RedisAddress(host, port, username=username, password=password) for host, port in self._nodes]
        whom = f"no sentinel says where the primary {self._primary_name!r} is"
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._primary_name)
        asked, address = await _first_reply(self.credentials, places, question, self._parse_reply, whom)
        self._nodes = sorted(self._nodes, key=lambda node: node != (asked.host, asked.port))
        return address

    def _parse_reply(self, _node_address: RedisAddress, reply: Any) -> HostPort:
        if reply is None:
            raise LookupError("does not know a primary of this name")
        return reply[0].decode(), int(reply[1])


class ClusterTopology(Topology):
    """The node of the stream's slot. Any node knows; another one is asked each time, for one may have missed a
    failover, or be gone."""

    def __init__(self, credentials: RedisCredentials, stream: str) -> None:
        super().__init__(credentials)
        self._slot = key_slot(stream.encode())
        self._nodes: list[HostPort] = []

    async def find_primary(self) -> HostPort:
        seed = self.credentials.address()
        nodes = dict.fromkeys([*self._nodes, (seed.host, seed.port)])
        places = [replace(seed, host=host, port=port, database=0) for host, port in nodes]
        whom = "no node of the cluster says where the stream is"
        _, address = await _first_reply(self.credentials, places, ("CLUSTER", "SLOTS"), self._parse_reply, whom)
        return address

    def _parse_reply(self, node_address: RedisAddress, reply: Any) -> HostPort:
        """The reply: first and last slot, then the primary, then its replicas. A node that does not know its own
        name is where we asked."""
        found, nodes = None, []
        for first, last, (host, port, *_), *_replicas in reply:
            address = host.decode() if host else node_address.host, int(port)
            nodes.append(address)
            if first <= self._slot <= last:
                found = address
        here = (node_address.host, node_address.port)
        self._nodes = sorted(nodes, key=lambda node: node == here)
        if found is None:
            raise LookupError(f"no node has slot {self._slot}")
        return found


def topology(settings: RedisSettings, stream: str, resolve_host: HostResolver = no_host_lookup) -> Topology:
    """The one that the settings ask for. Raises InvalidSettings for what cannot be used."""
    access = RedisCredentials(settings, resolve_host)
    if settings.sentinel_master:
        return SentinelTopology(
            access, settings.sentinel_master, [_parse_node(node) for node in settings.sentinel_nodes]
        )
    return ClusterTopology(access, stream) if settings.cluster else Topology(access)


def _parse_node(node: str) -> HostPort:
    host, _, port = node.rpartition(":")
    return host.strip("[]"), int(port)


async def _first_reply(
    credentials: RedisCredentials,
    addresses: Iterable[RedisAddress],
    command: Sequence[str],
    parse_reply: Callable[[RedisAddress, Any], HostPort],
    failure_message: str,
) -> tuple[RedisAddress, HostPort]:
    """The first that knows, and what it says. Raises redis' ConnectionError with the reason of each that does not."""
    problems = []
    for place in addresses:
        try:
            return place, parse_reply(place, await execute_once(credentials, place, *command))
        except (RedisError, OSError, LookupError) as error:
            problems.append(f"{place.host}:{place.port}: {' '.join(str(error).split())}")
    raise RedisConnectionError(f"{failure_message} ({'; '.join(problems)})")
