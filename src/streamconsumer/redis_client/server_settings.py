"""Judges settings of a Redis server that can cost entries. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

CHECKED_SETTINGS = ("maxmemory-policy", "save", "appendonly")
"""Settings that `risky_settings` judges."""


@dataclass(frozen=True)
class RiskySetting:
    """A setting of the server that can cost entries, with the remedy."""

    problem: str
    advice: str

    @property
    def message(self) -> str:
        """Problem and remedy in one sentence."""
        return f"{self.problem}; {self.advice}"


def risky_settings(settings: Mapping[str, str | None]) -> list[RiskySetting]:
    """Return the settings that can cost entries. A setting with an unknown value counts as correct."""
    policy, risky = settings["maxmemory-policy"] or "", []
    if policy.startswith("allkeys-"):
        problem = (
            f"the server's maxmemory-policy is {policy}: short of memory it deletes the stream and all pending entries"
        )
        risky.append(RiskySetting(problem, "set noeviction, or a volatile- policy"))
    if settings["appendonly"] == "no" and settings["save"] == "":
        problem = "the server keeps nothing on disk: a restart loses every entry"
        risky.append(RiskySetting(problem, "set appendonly yes"))
    return risky
