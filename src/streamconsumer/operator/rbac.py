"""The RBAC rules of the operator, with a reason for each rule.

`make generate` writes this table into the Helm chart and into k8s/ as RBAC rules. A test compares the table with the
requests in the audit log of a real API server.
"""

from dataclasses import dataclass
from typing import Any

from streamconsumer.model import names

READ = ("get", "list", "watch")
MANAGE = (*READ, "create", "patch", "delete")
"""The verbs for objects that the operator manages. `create` is necessary because a server-side apply (PATCH)
that creates an object requires both `patch` and `create`."""


@dataclass(frozen=True)
class PolicyRule:
    """The verbs that the operator is allowed to use on some resources of one API group."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    chart_flag: str = ""
    """The name of a chart value. If the value is false, the chart omits this rule. Empty if the rule is always
    present."""

    def rule(self) -> dict[str, Any]:
        """Return the rule in the format of a Role or ClusterRole."""
        return {"apiGroups": [self.group], "resources": [*self.resources], "verbs": [*self.verbs]}


RULES = (
    PolicyRule(
        names.GROUP,
        (names.PLURAL,),
        ("list", "watch"),
        "The operator watches and reconciles these resources.",
    ),
    PolicyRule(names.GROUP, (f"{names.PLURAL}/status",), ("patch",), "The operator writes the status, never the spec."),
    PolicyRule(
        names.GROUP,
        (f"{names.PLURAL}/finalizers",),
        ("update",),
        "No request uses this permission. The admission plugin OwnerReferencesPermissionEnforcement requires it for "
        "blockOwnerDeletion in owner references.",
    ),
    PolicyRule("apps", ("deployments",), MANAGE, "The Deployment creates the pods."),
    PolicyRule(
        "",
        ("configmaps", "serviceaccounts"),
        MANAGE,
        "ConfigMaps contain inline source. ServiceAccounts identify the pods and have no permissions.",
    ),
    PolicyRule("policy", ("poddisruptionbudgets",), MANAGE, "The PodDisruptionBudget limits node drains."),
    PolicyRule(
        "",
        ("pods",),
        ("list", "watch", "patch"),
        "The operator reads why a pod does not start. It patches the deletion cost, so that a scale-in deletes idle "
        "pods first.",
    ),
    PolicyRule("events.k8s.io", ("events",), ("create",), "kubectl describe shows these Events."),
    PolicyRule(
        "",
        ("secrets",),
        ("get",),
        "Only get, not list or watch: the operator reads only the Secrets that StreamConsumers in the namespace refer "
        "to.",
        chart_flag="rbac.readSecrets",
    ),
)
