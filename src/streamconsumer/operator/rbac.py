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
        "The resources to reconcile.",
    ),
    PolicyRule(names.GROUP, (f"{names.PLURAL}/status",), ("patch",), "The status. The operator never writes the spec."),
    PolicyRule(
        names.GROUP,
        (f"{names.PLURAL}/finalizers",),
        ("update",),
        "Not called. OwnerReferencesPermissionEnforcement requires it for owner references with blockOwnerDeletion.",
    ),
    PolicyRule("apps", ("deployments",), MANAGE, "The Deployment of the pods."),
    PolicyRule(
        "",
        ("configmaps", "serviceaccounts"),
        MANAGE,
        "Inline source. ServiceAccounts of the pods, without permissions.",
    ),
    PolicyRule("policy", ("poddisruptionbudgets",), MANAGE, "Limits node drains to one pod at a time."),
    PolicyRule(
        "",
        ("pods",),
        ("list", "watch", "patch"),
        "Finds out why a pod does not start. patch sets the deletion cost, so that a scale-in removes idle pods first.",
    ),
    PolicyRule("events.k8s.io", ("events",), ("create",), "Events for kubectl describe."),
    PolicyRule(
        "",
        ("secrets",),
        ("get",),
        "Without list and watch. The operator gets only the Secrets that StreamConsumers of the namespace name.",
        chart_flag="rbac.readSecrets",
    ),
)
