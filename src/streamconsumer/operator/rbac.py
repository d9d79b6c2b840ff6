"""All that the operator may do at the Kubernetes API, and why. The chart's rules and those of k8s/ are written from
here (`make generate`); a test lets a real API server write down what is asked, and holds it equal to this table."""

from dataclasses import dataclass
from typing import Any

from streamconsumer.model import names

READ = ("get", "list", "watch")
MANAGE = (*READ, "create", "patch", "delete")
"""`create` although only patches are sent: the API server asks for it when an apply makes an object."""


@dataclass(frozen=True)
class PolicyRule:
    """What may be done to some resources of one API group."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    chart_flag: str = ""
    """The value of the chart that takes this right away when it is false."""

    def rule(self) -> dict[str, Any]:
        """As a rule of a Role or ClusterRole."""
        return {"apiGroups": [self.group], "resources": [*self.resources], "verbs": [*self.verbs]}


RULES = (
    PolicyRule(
        names.GROUP,
        (names.PLURAL,),
        ("list", "watch"),
        "What is asked for.",
    ),
    PolicyRule(names.GROUP, (f"{names.PLURAL}/status",), ("patch",), "What is reported; the spec is the user's alone."),
    PolicyRule(
        names.GROUP,
        (f"{names.PLURAL}/finalizers",),
        ("update",),
        "No call: OwnerReferencesPermissionEnforcement requires it of an owner reference with blockOwnerDeletion.",
    ),
    PolicyRule("apps", ("deployments",), MANAGE, "The pods' Deployment."),
    PolicyRule("", ("configmaps", "serviceaccounts"), MANAGE, "Inline source; whom the pods are, without any right."),
    PolicyRule("policy", ("poddisruptionbudgets",), MANAGE, "A drain of nodes takes one pod at a time."),
    PolicyRule(
        "",
        ("pods",),
        ("list", "watch", "patch"),
        "Why a pod does not start. patch: to say which pods hold entries, before others are taken away.",
    ),
    PolicyRule("events.k8s.io", ("events",), ("create",), "What was done, for kubectl describe."),
    PolicyRule(
        "",
        ("secrets",),
        ("get",),
        "No list and no watch: only a Secret that a StreamConsumer beside it names.",
        chart_flag="rbac.readSecrets",
    ),
)
