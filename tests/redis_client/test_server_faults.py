"""Known faults of server versions: which versions have them, and which version is named as the fixed one."""

import re
from pathlib import Path

import pytest

from streamconsumer.redis_client.server_faults import (
    CLIENT_EVICTION,
    DEFRAGMENTATION,
    FAULTS,
    TLS,
    enabled_features,
    version_risk,
)

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "redis.md"
ALL = {TLS, CLIENT_EVICTION, DEFRAGMENTATION}


@pytest.mark.parametrize(
    ("product", "version", "features", "fixed"),
    [
        ("redis", "8.2.1", set(), "8.2.2"),
        ("redis", "8.2.2", set(), ""),
        ("redis", "8.2.3", {CLIENT_EVICTION}, "8.2.6"),
        ("redis", "8.2.8", {TLS}, "8.2.9"),
        ("redis", "8.2.0", ALL, "8.2.9"),
        ("redis", "8.2.9", ALL, ""),
        ("redis", "8.4.5", ALL, "8.4.6"),
        ("redis", "8.6.2", {CLIENT_EVICTION}, "8.6.3"),
        ("redis", "8.8.0", ALL, "8.8.2"),
        ("redis", "8.10.0", ALL, "8.10.1"),
        ("redis", "8.10.1", ALL, ""),
        ("redis", "9.0.0", ALL, ""),
        ("redis", "6.2.14", set(), "6.2.20"),
        ("redis", "7.0.15", ALL, ""),
        ("redis", "7.2.4", set(), "7.2.11"),
        ("redis", "8.2.1-rc1", set(), "8.2.2"),
        ("redis", "8.2", ALL, ""),
        ("redis", "unknown", ALL, ""),
        ("redis", "", ALL, ""),
        ("valkey", "8.1.7", set(), "8.1.10"),
        ("valkey", "8.1.3", ALL, "8.1.12"),
        ("valkey", "9.0.4", set(), "9.0.5"),
        ("valkey", "9.1.2", set(), ""),
        ("valkey", "9.1.2", {CLIENT_EVICTION}, "9.1.4"),
        ("valkey", "9.1.4", ALL, ""),
        ("valkey", "8.2.1", ALL, ""),
        ("keydb", "6.2.1", ALL, ""),
        ("", "8.2.1", ALL, ""),
    ],
)
def test_fixed_version_is_named(product: str, version: str, features: set[str], fixed: str) -> None:
    risk = version_risk(product, version, features)
    assert (risk.advice if risk else "") == (f"upgrade to {fixed} or newer" if fixed else "")


def test_message_names_the_version_the_effects_and_the_sources() -> None:
    risk = version_risk("redis", "8.2.1", {CLIENT_EVICTION})
    assert risk
    assert risk.message == (
        "Redis 8.2.1 has known faults: a Lua script can execute code in the server (CVE-2025-49844); "
        "a blocked read can crash the server or execute code in it (CVE-2026-23479); upgrade to 8.2.6 or newer"
    )


@pytest.mark.parametrize(
    ("settings", "uses_tls", "features"),
    [
        ({}, False, set()),
        ({CLIENT_EVICTION: None, DEFRAGMENTATION: None}, False, set()),
        ({CLIENT_EVICTION: "0", DEFRAGMENTATION: "no"}, True, {TLS}),
        ({CLIENT_EVICTION: "5%", DEFRAGMENTATION: "yes"}, False, {CLIENT_EVICTION, DEFRAGMENTATION}),
    ],
)
def test_features_follow_from_the_settings(settings: dict[str, str | None], uses_tls: bool, features: set[str]) -> None:
    assert enabled_features(settings, uses_tls=uses_tls) == features


def test_each_fault_has_a_source_that_names_it() -> None:
    for fault in [fault for faults in FAULTS.values() for fault in faults]:
        number = re.split(r"[#-]", fault.name)[-1]
        assert fault.source.startswith("https://")
        assert fault.source.endswith(number)


def test_documentation_lists_the_fixed_versions() -> None:
    rows = [line.split("|")[1:-1] for line in DOCUMENTATION.read_text().splitlines() if line.startswith("| [")]
    documented = {
        (product, re.findall(r"\[(.+?)\]", row[0])[0]): re.findall(r"[\d.]+", cell)
        for row in rows
        if re.match(r" \[(CVE|redis#|valkey#)", row[0])
        for product, cell in zip(("redis", "valkey"), row[3:], strict=True)
        if cell.strip()
    }
    assert documented == {
        (product, fault.name): [f"{major}.{minor}.{patch}" for (major, minor), patch in fault.fixed.items()]
        for product, faults in FAULTS.items()
        for fault in faults
    }
