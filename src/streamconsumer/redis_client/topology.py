"""Finds the primary that holds the stream, at each connect. The primary has a fixed address, or is found through
sentinels or in a Redis Cluster.

A fixed address, the sentinels and a Redis Cluster each lead to exactly one server, because all keys of a consumer share
a hash slot (`keys.group_key`). Callers therefore do not need to know how the primary was found. After a failover, or
after the error READONLY or MOVED, the connection is closed, and the next connect goes to the current primary. Two
threads may search for the primary at the same time. A remembered address or list is therefore replaced as a whole and
never modified.

Each query to a sentinel or a node opens its own connection. The Sentinel and Cluster clients of redis-py are not used,
because they keep connections open, need more permissions (SENTINEL MASTERS, COMMAND) and do not read credential files
again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from streamconsumer.errors import DestinationNotAllowed, InvalidSettings, StreamConsumerError
from streamconsumer.model.env_codec import env_name
from streamconsumer.model.redis_url import InvalidRedisUrl, format_host_port, parse_host_port
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.connection import execute_once
from streamconsumer.redis_client.credentials import RedisAddress, RedisCredentials

HostPort = tuple[str, int]

_NO_HOST_NAME = b"?"
"""Host that a Redis Cluster node announces if its settings prefer host names but the node has no host name."""

_PORT_COMMANDS = "SENTINEL or CLUSTER SLOTS"
"""Commands whose replies contain the port of a primary."""


class PrimaryUnknown(StreamConsumerError, RedisConnectionError):
    """All sentinels or nodes replied, and none of them knows the primary."""


class Topology:
    """Topology with the fixed address in the URL. Subclasses override `find_primary` to look up the address."""

    def __init__(self, credentials: RedisCredentials) -> None:
        self.credentials = credentials
        self._last_address = credentials.address()

    @property
    def address(self) -> tuple[str, int | None]:
        """Host and port of the last connect. Before the first connect, host and port in the URL. For a Unix socket, the
        path and None."""
        return (
            (self._last_address.socket_path, None)
            if self._last_address.socket_path
            else (self._last_address.host, self._last_address.port)
        )

    async def find_primary(self) -> HostPort:
        """Return host and port of the primary. Raises redis-py's ConnectionError if no server knows the primary."""
        address = self.credentials.address()
        return address.host, address.port

    async def current_address(self) -> RedisAddress:
        """Return the primary's address with the current credentials and database."""
        await self.credentials.refresh()
        host, port = await self.find_primary()
        self._last_address = replace(self.credentials.address(), host=host, port=port)
        return self._last_address


class SentinelTopology(Topology):
    """Asks the sentinels for the primary, beginning with the sentinel that answered the previous query."""

    def __init__(self, credentials: RedisCredentials, primary_name: str, nodes: Sequence[HostPort]) -> None:
        super().__init__(credentials)
        self._primary_name, self._nodes = primary_name, list(nodes)
        if self._nodes:  # errors name a sentinel until the primary is known
            host, port = self._nodes[0]
            self._last_address = replace(self._last_address, host=host, port=port)

    async def find_primary(self) -> HostPort:
        """Return the primary, as reported by the first sentinel that answers."""
        username, password = self.credentials.sentinel_credentials()
        sentinels = [RedisAddress(host, port, username=username, password=password) for host, port in self._nodes]
        failure_message = f"no sentinel reports the address of the primary {self._primary_name!r}"
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._primary_name)
        sentinel, primary = await _first_reply(self.credentials, sentinels, command, self._parse_reply, failure_message)
        self._nodes = sorted(self._nodes, key=lambda node: node != (sentinel.host, sentinel.port))
        return primary

    def _parse_reply(self, _node_address: RedisAddress, reply: Any) -> HostPort:
        if reply is None:
            raise LookupError("the sentinel does not know a primary with this name")
        host, port = replies.array(reply, "SENTINEL", 2)
        return replies.text(host, "SENTINEL"), _parse_port(port)


class ClusterTopology(Topology):
    """Asks the nodes of a Redis Cluster for the primary of the stream's hash slot.

    Any node can answer. Each search begins with a different node, because a node may be gone or may have missed a
    failover.
    """

    def __init__(self, credentials: RedisCredentials, stream: str) -> None:
        super().__init__(credentials)
        self._slot = key_slot(stream.encode())
        self._nodes: list[HostPort] = []

    async def find_primary(self) -> HostPort:
        """Return the primary, as reported by the first node that answers."""
        seed = self.credentials.address()
        nodes = dict.fromkeys([*self._nodes, (seed.host, seed.port)])
        addresses = [replace(seed, host=host, port=port, database=0) for host, port in nodes]
        failure_message = "no node of the cluster reports the address of the stream's primary"
        command = ("CLUSTER", "SLOTS")
        _, primary = await _first_reply(self.credentials, addresses, command, self._parse_reply, failure_message)
        return primary

    def _parse_reply(self, node_address: RedisAddress, reply: Any) -> HostPort:
        """Return the primary of the hash slot, and remember all primaries.

        Each line of the reply contains the first slot, the last slot, the primary and the replicas.
        """
        slot_owner, nodes, has_owner = None, [], False
        for line in replies.array(reply, "CLUSTER SLOTS"):
            first, last, primary_node, *_replicas = replies.array(line, "CLUSTER SLOTS") + 3 * [None]
            primary = _parse_cluster_node(primary_node, node_address)
            if primary is not None:
                nodes.append(primary)
            if replies.count(first, "CLUSTER SLOTS") <= self._slot <= replies.count(last, "CLUSTER SLOTS"):
                slot_owner, has_owner = primary, True
        answering_node = (node_address.host, node_address.port)
        self._nodes = sorted(nodes, key=lambda node: node == answering_node)
        if slot_owner is not None:
            return slot_owner
        if has_owner:
            remedy = "set cluster-announce-hostname, or change cluster-preferred-endpoint-type"
            raise LookupError(f"the node that owns hash slot {self._slot} announces no host name; {remedy}")
        raise LookupError(f"no node of the Redis Cluster owns hash slot {self._slot}")


def topology(credentials: RedisCredentials, stream: str) -> Topology:
    """Return the topology that the settings select. Raises InvalidSettings if the settings cannot be used."""
    settings = credentials.settings
    if settings.sentinel_master:
        nodes = [_parse_node(node) for node in settings.sentinel_nodes]
        return SentinelTopology(credentials, settings.sentinel_master, nodes)
    return ClusterTopology(credentials, stream) if settings.cluster else Topology(credentials)


def _parse_cluster_node(reply: Any, queried: RedisAddress) -> HostPort | None:
    """Return the host and the port of a node, or None if the node announces no host.

    A node that does not know its own host announces an empty host. In this case, the host of the queried address is
    returned. A node that has no host name although its settings prefer host names announces the host `?`. In this case,
    the node's IP address is returned.
    """
    host, port, _id, metadata, *_ = replies.array(reply, "CLUSTER SLOTS") + 4 * [None]
    if host == _NO_HOST_NAME:
        host = replies.to_dict(metadata or [], "CLUSTER SLOTS").get(b"ip")
        if not host:
            return None
    return replies.text(host, "CLUSTER SLOTS") if host else queried.host, _parse_port(port)


def _parse_port(reply: Any) -> int:
    port = replies.count(reply, _PORT_COMMANDS)
    if not 1 <= port <= 65_535:
        raise replies.UnexpectedReply(_PORT_COMMANDS, reply, "a port from 1 to 65535")
    return port


def _parse_node(node: str) -> HostPort:
    try:
        return parse_host_port(node)
    except InvalidRedisUrl:
        name = env_name("redis", "sentinel_nodes")
        raise InvalidSettings(f"{name} contains an invalid item; every item must be host:port") from None


async def _first_reply(
    credentials: RedisCredentials,
    addresses: Iterable[RedisAddress],
    command: Sequence[str],
    parse_reply: Callable[[RedisAddress, Any], HostPort],
    failure_message: str,
) -> tuple[RedisAddress, HostPort]:
    """Send a command to the addresses in order. Returns the first address that answers, and the parsed reply.

    If no server knows the primary, raises one of three errors: DestinationNotAllowed if a connection to an address is
    not allowed, PrimaryUnknown if all servers replied, and redis-py's ConnectionError in all other cases.
    PrimaryUnknown and ConnectionError contain the reason for each address.
    """
    problems, refusal, all_replied = [], None, True
    for address in addresses:
        try:
            return address, parse_reply(address, await execute_once(credentials, address, *command))
        except (RedisError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error.__cause__, DestinationNotAllowed):
                refusal = DestinationNotAllowed(f"{address.host}: {error.__cause__}")
            all_replied = all_replied and isinstance(error, LookupError)
            problems.append(f"{format_host_port(address.host, address.port)}: {' '.join(str(error).split())}")
    if refusal is not None:
        raise refusal
    error_class = PrimaryUnknown if all_replied else RedisConnectionError
    raise error_class(f"{failure_message} ({'; '.join(problems)})")
