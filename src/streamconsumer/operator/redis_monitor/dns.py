"""What a host is called where the pods are.

`redis://redis:6379` means the Service `redis` of the StreamConsumer's own namespace. The operator lives in another one,
where that name is nobody's, or somebody else's. So it looks hosts up as a pod of that namespace would: through the
search list that the kubelet gives to every pod, with the namespace in it exchanged.
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_RELATIVE_DOTS = 1
"""`service`, `service.namespace`, `pod.service`: what may mean something else in another namespace. Names with more
dots are the same everywhere."""

_NAMESPACED = re.compile(r"^[^.]+(?=\.svc\.)")


class NamespaceResolver:
    """Those of one namespace."""

    def __init__(self, namespace: str, search: Sequence[str] | None = None) -> None:
        """`search`: the domains that are tried, of a pod; without one, those of this pod."""
        domains = _read_search_domains(RESOLV_CONF) if search is None else search
        in_cluster = any(_NAMESPACED.match(each) for each in domains)
        self._domains = [_NAMESPACED.sub(namespace, each) for each in domains] if in_cluster else []

    async def resolve(self, host: str, port: int) -> str:
        """The name to connect by; the same one outside a cluster, and where no domain knows it."""
        if not self._domains or not is_relative(host):
            return host
        for domain in self._domains:
            candidate = f"{host}.{domain}."
            if await _resolves(candidate, port):
                return candidate
        return f"{host}."  # not what this pod's own search list makes of it


def is_relative(host: str) -> bool:
    """Whether it depends on the namespace who that is."""
    return host.count(".") <= MAX_RELATIVE_DOTS and not host.endswith(".") and not _is_address(host)


async def _resolves(name: str, port: int) -> bool:
    try:
        await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return True


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _read_search_domains(file: Path) -> list[str]:
    """The last `search` line counts."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return []
    found = [words[1:] for words in lines if words[:1] == ["search"]]
    return [each.rstrip(".") for each in found[-1]] if found else []
