"""Models of the observations and results of `doctor`. `Diagnosis` defines the JSON of `doctor -o json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from streamconsumer.cli.status.facts import Finding
from streamconsumer.model.fields import Model
from streamconsumer.redis_client.server_settings import ServerRisk


@dataclass(frozen=True)
class ServerFacts:
    """State of the Redis server, as read with the settings of a pod."""

    address: str
    problem: str = ""
    """Reason why the server cannot be used, or an empty string if the server can be used. If the server cannot be used,
    all fields except `address` are unknown."""
    version: str = ""
    """Version of the server, or an empty string if the server does not report the version."""
    missing_permissions: list[str] = field(default_factory=list)
    """Permissions that the Redis user lacks, in the syntax of ACL SETUSER."""
    settings: dict[str, str | None] = field(default_factory=dict)
    """Values of the server settings, by name. The value is None if the Redis user is not allowed to read the
    setting."""
    risky_settings: list[ServerRisk] = field(default_factory=list)
    version_risk: ServerRisk | None = None
    """Known faults of the server's version, or None if no fault is known."""
    group: Literal["exists", "missing", "unknown"] = "unknown"
    group_problem: str = ""
    """Reason why the group cannot be read, or an empty string if the group can be read."""


@dataclass(frozen=True)
class Dependency:
    """A handler or a collector."""

    name: str
    problem: str = ""
    """Reason why the handler or collector cannot be used, or an empty string if the handler or collector can be
    used."""


@dataclass(frozen=True)
class PodFacts:
    """State of the dependencies of a pod, as the pod observes them."""

    name: str
    stream: str
    consumer_group: str
    server: ServerFacts
    handler: Dependency
    collector: Dependency | None = None
    """The collector, or None if no environment variable sets the address of a collector."""


class OperatorFacts(Model):
    """A Deployment of the operator."""

    namespace: str
    name: str
    image: str
    service_account: str = "default"
    watch_namespaces: list[str] = Field(default=[])
    """Namespaces that the operator watches, or an empty list if the operator watches all namespaces."""
    desired: int
    """Number of pods in the spec of the Deployment."""
    ready: int
    """Number of ready pods."""


class SecretAccess(Model):
    """Permission of an operator to get the Secrets of the StreamConsumer's namespace."""

    operator: str
    """Namespace and name of the operator's Deployment. Empty if unknown."""
    granted: bool | None
    """True if the operator has the permission. None if unknown."""
    command: str
    """Command that grants the permission."""


class ClusterFacts(Model):
    """State of the operator and the CRD in the cluster. `operators` is None if the caller is not allowed to list
    Deployments. `missing_fields` is None if the caller is not allowed to get the CRD."""

    operators: list[OperatorFacts] | None
    missing_fields: list[str] | None
    """Fields that this version defines and that are missing from the CRD in the cluster."""
    secret_namespace: str = ""
    """Namespace of the StreamConsumer and of its Secrets."""
    secret_access: list[SecretAccess] = Field(default=[])
    """Permissions of the operators that watch this namespace, or an empty list if the StreamConsumer names no
    Secrets."""
    permissions: dict[str, bool]
    """Permissions of the caller: the value is True for each permission that the caller has, and False for every other
    permission. A key such as `list pods` consists of verb and resource."""


class PassedCheck(Model):
    """A check that found no problem: either the check passed, or its result is unknown."""

    object: str
    found: str


class CheckResult(Model):
    """Results of the checks. The lists have no defaults, so that a document without these lists is rejected. Another
    version may print a document without these lists."""

    passed: list[PassedCheck]
    findings: list[Finding]


class PodCheckResult(CheckResult):
    """Results of the checks that ran in a pod."""

    name: str


class Diagnosis(Model):
    """The JSON document that `doctor -o json` prints."""

    cluster: CheckResult | None = None
    """Result of the checks of the cluster, or None if these checks did not run."""
    pod: PodCheckResult | None = None
    """Result of the checks in a pod, or None if no pod ran the checks."""

    @property
    def results(self) -> list[CheckResult]:
        """The results of the checks that ran."""
        return [each for each in (self.cluster, self.pod) if each is not None]
