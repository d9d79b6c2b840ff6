"""Finds settings of a Redis server that can cause the loss of entries. The module has no side effects."""

from collections.abc import Mapping
from dataclasses import dataclass

CHECKED_SETTINGS = ("maxmemory-policy", "save", "appendonly")
"""Settings that `risky_settings` checks."""


@dataclass(frozen=True)
class ServerRisk:
    """A property of the server that endangers its entries, and the remedy."""

    problem: str
    advice: str

    @property
    def message(self) -> str:
        """Problem and remedy in one sentence."""
        return f"{self.problem}; {self.advice}"


def risky_settings(settings: Mapping[str, str | None]) -> list[ServerRisk]:
    """Return the server settings that can cause the loss of entries. An unknown value counts as safe."""
    policy, risky = settings["maxmemory-policy"] or "", []
    if policy.startswith("allkeys-"):
        problem = (
            f"the server's maxmemory-policy is {policy}: when memory runs out, the server may evict the "
            "stream and all its pending entries"
        )
        risky.append(ServerRisk(problem, "set noeviction, or a volatile- policy"))
    if settings["appendonly"] == "no" and settings["save"] == "":
        problem = "the server saves nothing to disk, so all entries are lost when it restarts"
        risky.append(ServerRisk(problem, "set appendonly yes"))
    return risky
