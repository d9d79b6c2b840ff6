"""Host name resolution from the viewpoint of a StreamConsumer's namespace.

`redis://redis:6379` means the Service `redis` in the namespace of the StreamConsumer. In the operator's own namespace,
the name `redis` may be missing or belong to another Service. The operator therefore resolves host names as a pod of the
StreamConsumer does. The resolver uses the search domains that the kubelet gives to the operator's pod, and replaces the
operator's namespace in these domains with the StreamConsumer's namespace.

All look-ups run in one c-ares channel, without a thread for each look-up. The resolver of the C library would need a
thread for each look-up, and a silent name server would block these threads. The client for the Kubernetes API does not
use this channel.
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import aiodns
import pycares
from aiodns.error import ARES_ENODATA, ARES_ENOTFOUND, DNSError

from streamconsumer.errors import DestinationNotAllowed, HostNotResolved
from streamconsumer.operator.redis_monitor.destinations import Address, Destinations, parse_address, refusal_message

RESOLV_CONF = Path("/etc/resolv.conf")

LOOKUP_TIMEOUT_SECONDS = 4.0
"""Timeout of the look-up of one host, including all search domains."""

QUERY_TIMEOUT_SECONDS = 1.0
QUERY_TRIES = 2

MAX_ADDRESSES = 8
"""Maximum number of addresses that are used per host."""

QUERIES_PER_CHANNEL = 2000
"""Number of queries after which the c-ares channel is replaced. The channel caches each answer for the answer's TTL,
without a limit on the number of answers. The authors of StreamConsumers choose the names, so without the replacement,
the cache would grow without limit."""

DEFAULT_NDOTS = 1

_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_NAMESPACED = re.compile(r"^[^.]+(?=\.svc\.)")
_NOT_FOUND = (ARES_ENODATA, ARES_ENOTFOUND)


class SearchOptions(NamedTuple):
    """Options of resolv.conf that apply to relative host names."""

    domains: tuple[str, ...] = ()
    ndots: int = DEFAULT_NDOTS
    """A host name with at least this number of dots is first looked up as an absolute name."""


class NameServers:
    """Look-ups at the name servers of the operator's pod, shared by all namespaces."""

    def __init__(self, servers: Sequence[str] | None = None) -> None:
        """If `servers` is None, the name servers in resolv.conf are used."""
        self._servers = servers
        self._channels: list[aiodns.DNSResolver] = []
        """The c-ares channels, of which the last one is the current channel. Earlier channels stay until their look-ups
        have ended."""
        self._queries = 0

    async def look_up(self, name: str) -> list[Address]:
        """Return the addresses of a host name. The list is empty if the name does not exist. Raises HostNotResolved if
        the name servers do not answer."""
        try:
            answer = await self._current_channel().getaddrinfo(name, type=socket.SOCK_STREAM)
        except DNSError as error:
            if error.args[0] in _NOT_FOUND:
                return []
            raise HostNotResolved(f"the name servers have no answer for this host name ({error.args[1]})") from None
        addresses = dict.fromkeys(ip_address(node.addr[0].decode()) for node in answer.nodes)
        return [*addresses][:MAX_ADDRESSES]

    async def aclose(self) -> None:
        """Cancel all look-ups."""
        while self._channels:
            await self._channels.pop().close()

    def _current_channel(self) -> aiodns.DNSResolver:
        self._queries += 1
        if not self._channels or self._queries > QUERIES_PER_CHANNEL:
            if self._channels:
                asyncio.get_running_loop().call_later(2 * LOOKUP_TIMEOUT_SECONDS, self._drop_oldest)
            # Without TCP, an answer is small and a name server cannot stall a connection.
            flags = pycares.ARES_FLAG_IGNTC | pycares.ARES_FLAG_EDNS
            options = {"timeout": QUERY_TIMEOUT_SECONDS, "tries": QUERY_TRIES, "flags": flags}
            self._channels.append(aiodns.DNSResolver(self._servers, **options))
            self._queries = 1
        return self._channels[-1]

    def _drop_oldest(self) -> None:
        """Drop the oldest channel, whose look-ups have ended. A channel closes when no reference to the channel
        remains."""
        if len(self._channels) > 1:
            del self._channels[0]


class NamespaceResolver:
    """Resolves host names as the pods of one namespace do, and returns only addresses to which the operator may
    connect."""

    def __init__(
        self,
        namespace: str,
        name_servers: NameServers,
        destinations: Destinations,
        search: SearchOptions,
    ) -> None:
        """`search` contains the search domains and the option `ndots` of the operator's pod."""
        in_cluster = any(_NAMESPACED.match(domain) for domain in search.domains)
        domains = tuple(_NAMESPACED.sub(namespace, domain) for domain in search.domains) if in_cluster else ()
        self._search = SearchOptions(domains, search.ndots)
        self._name_servers, self._destinations = name_servers, destinations

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses to connect to, in order. Raises HostNotResolved if the host has no address, and
        DestinationNotAllowed if the rules refuse all its addresses."""
        if not 0 < port <= 65535:
            raise HostNotResolved(f"found port {port}, expected 1 to 65535")
        address = parse_address(host)
        addresses = [address] if address is not None else await self._look_up(host)
        refusals = {each: self._destinations.refusal(each, port) for each in addresses}
        allowed = [str(each) for each, rule in refusals.items() if rule is None]
        if not allowed:
            raise DestinationNotAllowed(refusal_message(str(refusals[addresses[0]])))
        return allowed

    async def _look_up(self, host: str) -> list[Address]:
        if not _HOST_NAME.fullmatch(host):
            raise HostNotResolved("the host is neither a valid host name nor an IP address")
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_SECONDS):
                for name in absolute_names(host, self._search):
                    if addresses := await self._name_servers.look_up(name):
                        return addresses
        except TimeoutError:
            message = f"the name servers did not answer within {LOOKUP_TIMEOUT_SECONDS:.0f} s"
            raise HostNotResolved(message) from None
        raise HostNotResolved("the host name does not exist")


def absolute_names(host: str, search: SearchOptions) -> list[str]:
    """Return the names to look up, in the order in which the C library in a pod looks them up.

    Outside a cluster, `search` has no domains. Without domains, the host is returned unchanged, and the search domains
    of the machine apply."""
    if host.rstrip(".").lower() == "localhost":
        return ["localhost"]
    if not search.domains or host.endswith("."):
        return [host]
    searched = [f"{host}.{domain}." for domain in search.domains]
    return [f"{host}.", *searched] if host.count(".") >= search.ndots else [*searched, f"{host}."]


def read_search_options(file: Path = RESOLV_CONF) -> SearchOptions:
    """Read resolv.conf. Return the domains of the last `search` line, as the C library does, and the option `ndots`."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return SearchOptions()
    search_lists = [words[1:] for words in lines if words[:1] == ["search"]]
    options = [word for words in lines if words[:1] == ["options"] for word in words[1:]]
    ndots = [int(word[6:]) for word in options if re.fullmatch(r"ndots:[0-9]{1,2}", word)]
    domains = tuple(domain.rstrip(".") for domain in search_lists[-1]) if search_lists else ()
    return SearchOptions(domains, ndots[-1] if ndots else DEFAULT_NDOTS)
