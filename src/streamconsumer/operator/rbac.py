"""The RBAC rules of the operator, with a reason for each rule.

`make generate` writes the rules of the chart and of k8s/ from this table. A test compares the table with the requests
in the audit log of a real API server.
"""

from dataclasses import dataclass
from typing import Any

from streamconsumer.model import names

READ = ("get", "list", "watch")
MANAGE = (*READ, "create", "patch", "delete")
"""The operator sends only patches. The API server also requires `create` if an apply creates an object."""


@dataclass(frozen=True)
class PolicyRule:
    """The allowed verbs for some resources of one API group."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    chart_flag: str = ""
    """The chart value that removes this rule if it is false. Empty if the rule is always present."""

    def rule(self) -> dict[str, Any]:
        """Return the rule as in a Role or ClusterRole."""
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
