"""Rules for the addresses to which the operator connects."""

from ipaddress import ip_address, ip_network

import pytest

from streamconsumer.operator.redis_monitor.destinations import Destinations, dangerous_addresses, parse_address

LOOPBACK, UNSPECIFIED = "a loopback address", "an unspecified address"
LINK_LOCAL, MULTICAST = "a link-local address", "a multicast address"
METADATA, RESERVED = "the metadata service of a cloud", "a reserved address"
API_SERVER = "an endpoint of the Kubernetes API server"


def refusal(host: str, *allowed: str, port: int = 6379, api_server: str | None = None) -> str | None:
    address = parse_address(host)
    assert address is not None
    destinations = Destinations(map(ip_network, allowed))
    destinations.api_servers = frozenset({(ip_address(api_server), 443)} if api_server else ())
    return destinations.refusal(address, port)


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("127.0.0.1", LOOPBACK),
        ("127.255.255.254", LOOPBACK),
        ("127.1", LOOPBACK),
        ("127.0.1", LOOPBACK),
        ("0x7f000001", LOOPBACK),
        ("0X7F.0.0.1", LOOPBACK),
        ("2130706433", LOOPBACK),
        ("0177.0.0.1", LOOPBACK),
        ("017700000001", LOOPBACK),
        ("::1", LOOPBACK),
        ("::1%lo", LOOPBACK),
        ("0:0:0:0:0:0:0:1", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
        ("::ffff:7f00:1", LOOPBACK),
        ("::ffff:0:127.0.0.1", LOOPBACK),
        ("::127.0.0.1", LOOPBACK),
        ("64:ff9b::127.0.0.1", LOOPBACK),
        ("2002:7f00:1::1", LOOPBACK),
        ("2001:0:7f00:1::", LOOPBACK),
        ("0", UNSPECIFIED),
        ("0.0.0.0", UNSPECIFIED),
        ("0.1.2.3", UNSPECIFIED),
        ("::", UNSPECIFIED),
        ("::ffff:0.0.0.0", UNSPECIFIED),
        ("169.254.169.254", METADATA),
        ("169.254.20.10", LINK_LOCAL),
        ("169.254.170.2", METADATA),
        ("2852039166", METADATA),
        ("::ffff:a9fe:a9fe", METADATA),
        ("64:ff9b::a9fe:a9fe", METADATA),
        ("fe80::1", LINK_LOCAL),
        ("fe80::1%eth0", LINK_LOCAL),
        ("febf::1", LINK_LOCAL),
        ("224.0.0.1", MULTICAST),
        ("239.255.255.255", MULTICAST),
        ("ff02::1", MULTICAST),
        ("255.255.255.255", RESERVED),
        ("240.0.0.1", RESERVED),
        ("100.100.100.200", METADATA),
        ("168.63.129.16", METADATA),
        ("192.0.0.192", METADATA),
        ("fd00:ec2::254", METADATA),
        ("fd00:ec2::23", METADATA),
        ("fd20:ce::254", METADATA),
        ("64:ff9b::168.63.129.16", METADATA),
        ("64:ff9b:1::7f00:1", "an address of a local NAT64 gateway"),
        ("64:ff9b:1:7f00:0:100::", "an address of a local NAT64 gateway"),
    ],
)
def test_address_is_refused_by_rule(host: str, rule: str) -> None:
    assert refusal(host) == rule


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.7",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "8.8.8.8",
        "169.253.0.1",
        "fd00::1",
        "fd12:3456::1",
        "2001:db8::1",
        "64:ff9b::10.0.0.7",
        "::ffff:10.0.0.7",
        "2002:a00:7::1",
    ],
)
def test_private_and_public_addresses_are_allowed(host: str) -> None:
    assert refusal(host) is None


@pytest.mark.parametrize("host", ["redis", "redis.shop", "1.2.3.4.5", "0x", "08.0.0.1x", "127.0.0.1 x", "", "1..2"])
def test_host_name_is_not_an_address(host: str) -> None:
    assert parse_address(host) is None


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", "127.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.0/8"),
        ("64:ff9b::127.0.0.1", "127.0.0.0/8"),
        ("64:ff9b::127.0.0.1", "64:ff9b::/96"),
        ("169.254.20.10", "169.254.20.10/32"),
        ("::1", "::1/128"),
        ("fe80::1%eth0", "fe80::/10"),
        ("64:ff9b:1::a00:7", "64:ff9b:1::/48"),
    ],
)
def test_exception_allows_the_address(host: str, allowed: str) -> None:
    assert refusal(host) is not None
    assert refusal(host, allowed) is None


def test_exception_does_not_allow_other_addresses() -> None:
    assert refusal("::1", "127.0.0.0/8") == LOOPBACK
    assert refusal("169.254.169.254", "169.254.20.10/32", "127.0.0.0/8") == METADATA
    assert refusal("2001:0:a00:1:0:0:80ff:fffe", "10.0.0.0/8") == LOOPBACK  # Teredo: server 10.0.0.1, client 127.0.0.1


@pytest.mark.parametrize(
    ("exception", "kinds"),
    [
        ("10.0.0.0/8", []),
        ("169.254.20.10/32", []),
        ("fe80::/10", []),
        ("fd00::/64", []),
        ("64:ff9b::a00:0/104", []),
        ("127.0.0.1/32", [LOOPBACK]),
        ("::1/128", [UNSPECIFIED, LOOPBACK]),
        ("0.0.0.0/32", [UNSPECIFIED]),
        ("169.254.0.0/16", [METADATA]),
        ("100.64.0.0/10", [METADATA]),
        ("fd00::/8", [METADATA]),
        ("::ffff:127.0.0.0/104", [LOOPBACK]),
        ("64:ff9b::a9fe:a9fe/128", [METADATA]),
        ("64:ff9b::/96", [UNSPECIFIED, LOOPBACK, METADATA]),
        ("0.0.0.0/1", [UNSPECIFIED, LOOPBACK, METADATA]),
        ("::/0", [UNSPECIFIED, LOOPBACK, METADATA]),
    ],
)
def test_dangerous_exceptions_are_recognized(exception: str, kinds: list[str]) -> None:
    assert dangerous_addresses(ip_network(exception)) == kinds


@pytest.mark.parametrize("host", ["10.96.0.1", "::ffff:10.96.0.1", "64:ff9b::10.96.0.1"])
def test_api_server_is_refused_at_its_port_even_with_an_exception(host: str) -> None:
    for allowed in ((), ("10.0.0.0/8", "::/0")):
        assert refusal(host, *allowed, port=443, api_server="10.96.0.1") == API_SERVER
        assert refusal(host, *allowed, port=6379, api_server="10.96.0.1") is None
