"""What `doctor` looks at, and what it says: the shape of its `-o json`. Pure."""

from typing import Literal

from pydantic import Field

from streamconsumer.cli.status.facts import Finding
from streamconsumer.model.fields import Model
from streamconsumer.redis_client.server_settings import RiskySetting


class ServerFacts(Model):
    """Redis, seen with a pod's own settings."""

    address: str
    problem: str = ""
    """Why it cannot be used; then nothing else is known."""
    version: str = ""
    """Empty: it does not say."""
    lacking: list[str] = Field([])
    """Rights, as ACL SETUSER spells them."""
    settings: dict[str, str | None] = Field({})
    """None: the user may not ask for it."""
    dangers: list[RiskySetting] = Field([])
    group: Literal["exists", "missing", "unknown"] = "unknown"
    group_problem: str = ""


class Dependency(Model):
    """A handler or a collector: what it is called, and why it cannot be used."""

    name: str
    problem: str = ""


class PodFacts(Model):
    """What a pod sees of what it needs."""

    name: str
    stream: str
    consumer_group: str
    server: ServerFacts
    handler: Dependency
    collector: Dependency | None = None
    """None: its environment names none."""


class OperatorFacts(Model):
    """A Deployment of the operator."""

    namespace: str
    name: str
    image: str
    wanted: int
    ready: int


class ClusterFacts(Model):
    """What the cluster holds of StreamConsumer. None: whoever asks may not look."""

    operators: list[OperatorFacts] | None
    fields_lacking: list[str] | None
    """Fields that this command line knows and the CRD of the cluster does not."""
    rights: dict[str, bool]
    """`verb resource` of whoever asks."""


class PassedCheck(Model):
    """One thing that was looked at and is right, or that nobody can tell anything of."""

    object: str
    found: str


class CheckResult(Model):
    """Everything that was looked at."""

    checked: list[PassedCheck] = Field([])
    findings: list[Finding] = Field([])


class PodCheckResult(CheckResult):
    """What was seen from within a pod."""

    name: str


class Diagnosis(Model):
    """The document."""

    cluster: CheckResult | None = None
    """None: only a pod was asked."""
    pod: PodCheckResult | None = None
    """None: no pod could be asked."""

    @property
    def results(self) -> list[CheckResult]:
        return [each for each in (self.cluster, self.pod) if each is not None]
