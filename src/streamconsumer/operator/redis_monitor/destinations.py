"""Rules for the addresses to which the operator connects on behalf of a StreamConsumer. This module performs no I/O.

The author of a StreamConsumer chooses the address of the Redis server, and the operator may reach addresses that the
author cannot reach. The operator therefore refuses addresses of its own host, of the API server and of the cloud's
metadata services. The caller first resolves a host name, then checks the address, and finally connects to the checked
address. A name server therefore cannot return another address for the connection.

Private addresses are allowed, because Redis servers usually have private addresses.
"""

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Endpoint = tuple[Address, int]
"""Address and port."""

API_SERVER_RULE = "an endpoint of the Kubernetes API server"
UNSPECIFIED, LOOPBACK = "an unspecified address", "a loopback address"
METADATA = "the metadata service of a cloud"

_REFUSED: dict[str, str] = {
    "0.0.0.0/8": UNSPECIFIED,
    "127.0.0.0/8": LOOPBACK,
    "169.254.169.254/32": METADATA,  # most clouds
    "169.254.170.2/32": METADATA,  # AWS, for containers
    "169.254.170.23/32": METADATA,  # AWS, for pods
    "169.254.0.0/16": "a link-local address",
    "224.0.0.0/4": "a multicast address",
    "240.0.0.0/4": "a reserved address",
    "100.100.100.200/32": METADATA,  # Alibaba Cloud
    "168.63.129.16/32": METADATA,  # Azure
    "192.0.0.192/32": METADATA,  # Oracle Cloud
    "::/128": UNSPECIFIED,
    "::1/128": LOOPBACK,
    "fe80::/10": "a link-local address",
    "ff00::/8": "a multicast address",
    "fd00:ec2::/32": METADATA,  # AWS
    "fd00:c1::a9fe:a9fe/128": METADATA,  # Oracle Cloud
    "fd00:42::42/128": METADATA,  # Scaleway
    "fd20:ce::254/128": METADATA,  # Google Cloud
    "64:ff9b:1::/48": "an address of a local NAT64 gateway",  # the position of the IPv4 address is unknown
}
_REFUSED_NETWORKS: list[tuple[Network, str]] = [(ip_network(network), rule) for network, rule in _REFUSED.items()]

_LAST_32_BITS = [IPv6Network(prefix) for prefix in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")]
"""Prefixes of IPv6 addresses whose last 32 bits are an IPv4 address: compatible, mapped, translated (SIIT) and
NAT64."""

_DANGEROUS_RULES = (UNSPECIFIED, LOOPBACK, METADATA)
"""Rules whose exceptions give the authors of StreamConsumers access to servers in the operator's own pod, or to the
credentials of its node. The kernel sends packets for an unspecified address to the local host."""

_CLASSIC_IPV4 = re.compile(r"(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+)){0,3}", re.IGNORECASE)


class Destinations:
    """Decides whether the operator may connect to an address."""

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        """`allowed` lists exceptions from the rules. The rule about the API server has no exceptions."""
        self._allowed = tuple(allowed)
        self.api_servers: frozenset[Endpoint] = frozenset()
        """Endpoints of the API server. The operator never connects to these endpoints for a StreamConsumer, because no
        Redis server listens on these endpoints."""

    def refusal(self, address: Address, port: int) -> str | None:
        """Return the rule that forbids this address, such as `a loopback address`, or None if the address is
        allowed.

        If an IPv6 address contains an IPv4 address, the rules apply to both addresses. An exception for the IPv6
        address also covers the IPv4 address. No exception covers an endpoint of the API server."""
        candidates = [_without_zone(address), *_embedded(address)]
        if any((candidate, port) in self.api_servers for candidate in candidates):
            return API_SERVER_RULE
        if self._is_exception(candidates[0]):
            return None
        rules = (_rule(candidate) for candidate in candidates if not self._is_exception(candidate))
        return next(filter(None, rules), None)

    def _is_exception(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)


def dangerous_addresses(exception: Network) -> list[str]:
    """Return the dangerous kinds of addresses that an exception from the rules allows, such as `a loopback address`."""
    networks = [exception, *_embedded_networks(exception)]
    rules = {rule for refused, rule in _REFUSED_NETWORKS if any(_overlap(network, refused) for network in networks)}
    return [rule for rule in _DANGEROUS_RULES if rule in rules]


def _embedded_networks(network: Network) -> list[Network]:
    """Return the IPv4 networks that the last 32 bits of the addresses in the network form."""
    if isinstance(network, IPv4Network):
        return []
    prefixes = [prefix for prefix in _LAST_32_BITS if _overlap(network, prefix)]
    inner = [max(network, prefix, key=lambda each: each.prefixlen) for prefix in prefixes]
    return [IPv4Network((int(each.network_address) & 0xFFFFFFFF, each.prefixlen - 96)) for each in inner]


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def refusal_message(rule: str) -> str:
    """Return why the operator does not connect to an address, and the remedy."""
    remedy = (
        "change the address"
        if rule == API_SERVER_RULE
        else "a cluster administrator can allow the address in the chart value allowedDestinations"
    )
    return f"the operator does not connect to {rule}; {remedy}"


def parse_address(host: str) -> Address | None:
    """Parse an address as the system's resolver does. Returns None if `host` is a host name that needs a look-up.

    The resolver accepts old forms of IPv4 addresses such as `127.1`, `0x7f000001`, `2130706433` and `0177.0.0.1`."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    if not _CLASSIC_IPV4.fullmatch(host):
        return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _rule(address: Address) -> str | None:
    return next((rule for network, rule in _REFUSED_NETWORKS if address in network), None)


def _without_zone(address: Address) -> Address:
    return IPv6Address(int(address)) if isinstance(address, IPv6Address) else address


def _embedded(address: Address) -> list[IPv4Address]:
    """Return the IPv4 addresses to which the kernel, a tunnel or a gateway may translate an IPv6 address."""
    if isinstance(address, IPv4Address):
        return []
    is_last = any(address in prefix for prefix in _LAST_32_BITS)
    last = IPv4Address(int(address) & 0xFFFFFFFF) if is_last else None
    return [each for each in (last, address.sixtofour, *(address.teredo or ())) if each is not None]
