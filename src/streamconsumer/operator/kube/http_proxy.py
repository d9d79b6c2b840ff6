"""The HTTP proxy for requests to the API server, with the rules of kubectl.

Python's own rules ignore networks in NO_PROXY, such as `10.0.0.0/8`. The addresses of the API server inside the cluster
are never reached through a proxy, because a proxy is usually outside the cluster and cannot reach these addresses.
"""

import os
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from streamconsumer.errors import InvalidSettings

DEFAULT_PORTS = {"http": 80, "https": 443}
IN_CLUSTER_NAMES = ("kubernetes.default", "kubernetes.default.svc")
SUPPORTED_SCHEMES = ("http", "https")


def find_proxy(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL of the proxy for requests to `url`, or None if the requests need no proxy. Raises InvalidSettings
    if the proxy is not an HTTP proxy."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name) or ""
    host, port = (parts.hostname or "").rstrip("."), parts.port or DEFAULT_PORTS[parts.scheme]
    no_proxy = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if not proxy or _is_in_cluster(host, environ) or _is_excluded(host, port, no_proxy):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme.lower() not in SUPPORTED_SCHEMES:
        raise InvalidSettings(
            f"{name.upper()}: found a proxy that is not an HTTP proxy, expected a URL such as http://proxy:3128; "
            "add the API server to NO_PROXY to connect without a proxy"
        )
    return proxy


def _is_in_cluster(host: str, environ: Mapping[str, str]) -> bool:
    """Return True for the Service of the API server, with any cluster domain."""
    if host in IN_CLUSTER_NAMES or host.startswith("kubernetes.default.svc."):
        return True
    service = environ.get("KUBERNETES_SERVICE_HOST", "").lower()
    return (_parse_address(host) or host) == (_parse_address(service) or service)


def _is_excluded(host: str, port: int, no_proxy: str) -> bool:
    """Return True if NO_PROXY contains the host, or if the host is the local host."""
    address = _parse_address(host)
    if host == "localhost" or (address and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, address, port) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    """Return True if an entry of NO_PROXY matches. An entry is `*`, a network, an address or a domain. An address and a
    domain may have a port. `example.com` also matches subdomains, and `.example.com` matches only subdomains."""
    if entry == "*":
        return True
    if "/" in entry:
        return address is not None and _is_in_network(address, entry)
    name, entry_port = _split_port(entry)
    if not name or entry_port not in ("", str(port)):
        return False
    if excluded := _parse_address(name):
        return address == excluded
    domain = name.removeprefix("*").rstrip(".")
    return host == domain or host.endswith(f".{domain.removeprefix('.')}")


def _split_port(entry: str) -> tuple[str, str]:
    """Split `host:port`. An IPv6 address without brackets has no port."""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = entry.partition(":")
    return (entry, "") if ":" in port else (name, port)


def _is_in_network(address: IPv4Address | IPv6Address, entry: str) -> bool:
    try:
        return address in ip_network(entry, strict=False)
    except ValueError:
        return False


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an IP address. The IPv4 address is returned for an IPv6 address that contains an IPv4 address
    (`::ffff:10.0.0.1`)."""
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
