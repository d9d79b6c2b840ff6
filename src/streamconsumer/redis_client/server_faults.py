"""Table of dangerous faults in released versions of Redis and Valkey that affect the commands of StreamConsumer.

The module has no side effects. The table lists only release lines for which a fixed version has been released. A
package of a Linux distribution may contain a fix without its version number.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from streamconsumer.redis_client.server_settings import ServerRisk

Line = tuple[int, int]
"""Release line: major and minor version."""

TLS, CLIENT_EVICTION, DEFRAGMENTATION = "TLS", "maxmemory-clients", "activedefrag"
"""Features that the server must use for some faults to have an effect. The last two are settings of the server."""

FEATURE_SETTINGS = (CLIENT_EVICTION, DEFRAGMENTATION)
"""Settings that enable a feature if they have another value than `0` or `no`."""


@dataclass(frozen=True)
class ServerFault:
    """A fault, with its effect and its source."""

    name: str
    effect: str
    fixed: Mapping[Line, int]
    """First patch version without the fault, by release line."""
    source: str
    feature: str = ""
    """Feature that the server must use for the fault to have an effect. Empty if the fault always has an effect."""


_CVE = "https://www.cve.org/CVERecord?id="
_PULL = "https://github.com/{}/pull/{}"

FAULTS: dict[str, tuple[ServerFault, ...]] = {
    "redis": (
        ServerFault(
            "CVE-2025-49844",
            "a Lua script can execute code in the server",
            {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
            f"{_CVE}CVE-2025-49844",
        ),
        ServerFault(
            "redis#14323",
            "the server can crash while it defragments a stream",
            {(8, 2): 2},
            _PULL.format("redis/redis", 14323),
            DEFRAGMENTATION,
        ),
        ServerFault(
            "CVE-2026-23479",
            "a blocked read can crash the server or execute code in it",
            {(7, 2): 14, (7, 4): 9, (8, 2): 6, (8, 4): 3, (8, 6): 3},
            f"{_CVE}CVE-2026-23479",
            CLIENT_EVICTION,
        ),
        ServerFault(
            "CVE-2026-81934",
            "a TLS client without a password can execute code in the server",
            {(6, 2): 24, (7, 2): 16, (7, 4): 11, (8, 2): 9, (8, 4): 6, (8, 6): 6, (8, 8): 2, (8, 10): 1},
            f"{_CVE}CVE-2026-81934",
            TLS,
        ),
    ),
    "valkey": (
        ServerFault(
            "CVE-2025-49844",
            "a Lua script can execute code in the server",
            {(7, 2): 11, (8, 0): 6, (8, 1): 4},
            f"{_CVE}CVE-2025-49844",
        ),
        ServerFault(
            "valkey#3591",
            "XTRIM can corrupt the stream and crash the server",
            {(8, 0): 10, (8, 1): 8, (9, 0): 5},
            _PULL.format("valkey-io/valkey", 3591),
        ),
        ServerFault(
            "CVE-2026-56684",
            "a TLS client can execute code in the server with CLIENT KILL",
            {(8, 0): 10, (8, 1): 9, (9, 0): 5, (9, 1): 1},
            f"{_CVE}CVE-2026-56684",
            TLS,
        ),
        ServerFault(
            "valkey#4212",
            "the server can crash when several clients wait for the same stream",
            {(8, 1): 10},
            _PULL.format("valkey-io/valkey", 4212),
        ),
        ServerFault(
            "CVE-2026-130822",
            "a write to a stream for which clients wait can crash the server",
            {(7, 2): 16, (8, 0): 13, (8, 1): 12, (9, 0): 8, (9, 1): 4},
            f"{_CVE}CVE-2026-130822",
            CLIENT_EVICTION,
        ),
    ),
}


def enabled_features(settings: Mapping[str, str | None], *, uses_tls: bool) -> set[str]:
    """Return the features that the server uses. A feature whose setting is unknown counts as unused."""
    features = {name for name in FEATURE_SETTINGS if settings.get(name) not in {None, "0", "no"}}
    return features | {TLS} if uses_tls else features


def version_risk(product: str, version: str, features: Collection[str]) -> ServerRisk | None:
    """Return the known faults of a server version, and the version in which all of them are fixed.

    Returns None if the table contains no fault of this version. `product` is `redis` or `valkey`.
    """
    match = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", version)
    if match is None:
        return None
    major, minor, patch = map(int, match.groups())
    found = [
        fault
        for fault in FAULTS.get(product, ())
        if patch < fault.fixed.get((major, minor), 0) and fault.feature in {"", *features}
    ]
    if not found:
        return None
    fixed = max(fault.fixed[major, minor] for fault in found)
    faults = "; ".join(f"{fault.effect} ({fault.name})" for fault in found)
    problem = f"{product.capitalize()} {version} has known faults: {faults}"
    return ServerRisk(problem, f"upgrade to {major}.{minor}.{fixed} or newer")
