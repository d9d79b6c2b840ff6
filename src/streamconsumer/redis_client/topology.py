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

from streamconsumer.model.processor_settings import RedisAccess
from streamconsumer.redis_client.connection import ask
from streamconsumer.redis_client.credentials import Access, Dial, Place, as_written

Address = tuple[str, int]


class Topology:
    """A fixed address: what the URL says. The others find theirs in `locate`."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._last = access.place()

    @property
    def address(self) -> tuple[str, int | None]:
        """Where the last connection led, or else what the URL says. A socket's path and None."""
        return (self._last.path, None) if self._last.path else (self._last.host, self._last.port)

    async def locate(self) -> Address:
        """Host and port of the primary. Raises redis' ConnectionError where nobody knows one."""
        place = self.access.place()
        return place.host, place.port

    async def place(self) -> Place:
        """The same with credentials and database, as they stand now."""
        host, port = await self.locate()
        self._last = replace(self.access.place(), host=host, port=port)
        return self._last


class Sentinels(Topology):
    """The sentinels know. Whoever answered is asked first the next time."""

    def __init__(self, access: Access, master: str, nodes: Sequence[Address]) -> None:
        super().__init__(access)
        self._master, self._nodes = master, list(nodes)

    async def locate(self) -> Address:
        username, password = self.access.sentinel_credentials()
        places = [Place(host, port, username=username, password=password) for host, port in self._nodes]
        whom = f"no sentinel says where the primary {self._master!r} is"
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
        asked, address = await _first(self.access, places, question, self._primary, whom)
        self._nodes = sorted(self._nodes, key=lambda node: node != (asked.host, asked.port))
        return address

    def _primary(self, _asked: Place, reply: Any) -> Address:
        if reply is None:
            raise LookupError("does not know a primary of this name")
        return reply[0].decode(), int(reply[1])


class Cluster(Topology):
    """The node of the stream's slot. Any node knows; another one is asked each time, for one may have missed a
    failover, or be gone."""

    def __init__(self, access: Access, stream: str) -> None:
        super().__init__(access)
        self._slot = key_slot(stream.encode())
        self._nodes: list[Address] = []

    async def locate(self) -> Address:
        seed = self.access.place()
        nodes = dict.fromkeys([*self._nodes, (seed.host, seed.port)])
        places = [replace(seed, host=host, port=port, database=0) for host, port in nodes]
        whom = "no node of the cluster says where the stream is"
        _, address = await _first(self.access, places, ("CLUSTER", "SLOTS"), self._primary, whom)
        return address

    def _primary(self, asked: Place, reply: Any) -> Address:
        """The reply: first and last slot, then the primary, then its replicas. A node that does not know its own
        name is where we asked."""
        found, nodes = None, []
        for first, last, (host, port, *_), *_replicas in reply:
            address = host.decode() if host else asked.host, int(port)
            nodes.append(address)
            if first <= self._slot <= last:
                found = address
        here = (asked.host, asked.port)
        self._nodes = sorted(nodes, key=lambda node: node == here)
        if found is None:
            raise LookupError(f"no node has slot {self._slot}")
        return found


def topology(settings: RedisAccess, stream: str, dial: Dial = as_written) -> Topology:
    """The one that the settings ask for. Raises InvalidSettings for what cannot be used."""
    access = Access(settings, dial)
    if settings.sentinel_master:
        return Sentinels(access, settings.sentinel_master, [_address(node) for node in settings.sentinel_nodes])
    return Cluster(access, stream) if settings.cluster else Topology(access)


def _address(node: str) -> Address:
    host, _, port = node.rpartition(":")
    return host.strip("[]"), int(port)


async def _first(
    access: Access,
    places: Iterable[Place],
    question: Sequence[str],
    understood: Callable[[Place, Any], Address],
    nobody: str,
) -> tuple[Place, Address]:
    """The first that knows, and what it says. Raises redis' ConnectionError with the reason of each that does not."""
    problems = []
    for place in places:
        try:
            return place, understood(place, await ask(access, place, *question))
        except (RedisError, OSError, LookupError) as error:
            problems.append(f"{place.host}:{place.port}: {' '.join(str(error).split())}")
    raise RedisConnectionError(f"{nobody} ({'; '.join(problems)})")
