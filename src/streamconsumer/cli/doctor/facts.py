"""Models of the observations and results of `doctor`. Diagnosis defines the JSON of `doctor -o json`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from streamconsumer.cli.status.facts import Finding
from streamconsumer.model.fields import Model
from streamconsumer.redis_client.server_settings import RiskySetting


@dataclass(frozen=True)
class ServerFacts:
    """State of the Redis server, read with the settings of a pod."""

    address: str
    problem: str = ""
    """Why the server cannot be used; empty if it can. With a problem, the other fields are unknown."""
    version: str = ""
    """Empty if the server does not report it."""
    missing_permissions: list[str] = field(default_factory=list)
    """Permissions that the Redis user lacks, in the syntax of ACL SETUSER."""
    settings: dict[str, str | None] = field(default_factory=dict)
    """Values of the server settings. None if the user is not allowed to read a setting."""
    risky_settings: list[RiskySetting] = field(default_factory=list)
    group: Literal["exists", "missing", "unknown"] = "unknown"
    group_problem: str = ""
    """Why the group cannot be read; empty if it can."""


@dataclass(frozen=True)
class Dependency:
    """A handler or a collector."""

    name: str
    problem: str = ""
    """Why it cannot be used; empty if it can."""


@dataclass(frozen=True)
class PodFacts:
    """State of the dependencies of a pod, as the pod observes them."""

    name: str
    stream: str
    consumer_group: str
    server: ServerFacts
    handler: Dependency
    collector: Dependency | None = None
    """None if the environment names no collector."""


class OperatorFacts(Model):
    """A Deployment of the operator."""

    namespace: str
    name: str
    image: str
    desired: int
    """Number of pods in the spec of the Deployment."""
    ready: int
    """Number of ready pods."""


class ClusterFacts(Model):
    """State of the operator and the CRD in the cluster. A field is None if the caller is not allowed to read it."""

    operators: list[OperatorFacts] | None
    missing_fields: list[str] | None
    """Fields that this version defines and the CRD of the cluster does not contain."""
    permissions: dict[str, bool]
    """Keys are `verb resource`. True if the caller has the permission."""


class PassedCheck(Model):
    """A check that passed, or whose result is unknown."""

    object: str
    found: str


class CheckResult(Model):
    """Results of the checks. The lists have no defaults: a document without them is that of another version."""

    passed: list[PassedCheck]
    findings: list[Finding]


class PodCheckResult(CheckResult):
    """Results of the checks that ran in a pod."""

    name: str


class Diagnosis(Model):
    """The document of `-o json`."""

    cluster: CheckResult | None = None
    """None if the checks of the cluster did not run."""
    pod: PodCheckResult | None = None
    """None if no pod ran the checks."""

    @property
    def results(self) -> list[CheckResult]:
        """The results of the checks that ran."""
        return [each for each in (self.cluster, self.pod) if each is not None]
