"""Host name resolution from the viewpoint of a StreamConsumer's namespace.

`redis://redis:6379` means the Service `redis` in the namespace of the StreamConsumer. In the operator's own namespace
that name may be missing or belong to another Service. The operator therefore resolves host names as a pod of the
StreamConsumer does. The resolver uses the search domains that the kubelet gives to the operator's pod, and replaces the
operator's namespace in these domains with the StreamConsumer's namespace.
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_RELATIVE_DOTS = 1
"""Maximum number of dots in a host name that is resolved with the search domains: `service`, `service.namespace` or
`pod.service`."""

_NAMESPACED = re.compile(r"^[^.]+(?=\.svc\.)")


class NamespaceResolver:
    """Resolves host names as the pods of one namespace do."""

    def __init__(self, namespace: str, search: Sequence[str] | None = None) -> None:
        """`search` lists the search domains. If None, the search domains of the operator's pod are used."""
        domains = _read_search_domains(RESOLV_CONF) if search is None else search
        in_cluster = any(_NAMESPACED.match(domain) for domain in domains)
        self._domains = [_NAMESPACED.sub(namespace, domain) for domain in domains] if in_cluster else []

    async def resolve(self, host: str, port: int) -> str:
        """Return the host name to connect to.

        Returns `host` unchanged if the operator runs outside a cluster or `host` is not relative. If `host` exists in
        no search domain, returns `host` as an absolute name."""
        if not self._domains or not is_relative(host):
            return host
        for domain in self._domains:
            candidate = f"{host}.{domain}."
            if await _resolves(candidate, port):
                return candidate
        return f"{host}."  # absolute, so that the search domains of the operator's pod are not used


def is_relative(host: str) -> bool:
    """Return True if the meaning of the host name depends on the namespace."""
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
    """Return the domains of the last `search` line, which is also the line that the system resolver uses."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return []
    search_lists = [words[1:] for words in lines if words[:1] == ["search"]]
    return [domain.rstrip(".") for domain in search_lists[-1]] if search_lists else []
