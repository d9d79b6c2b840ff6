"""The RBAC rules of the operator, with a reason for each rule.

`make generate` writes the tables of this module into the Helm chart and into k8s/ as RBAC rules. A test compares the
tables with the requests in the audit log of a real API server.

The operator has no access to Secrets by default. A RoleBinding to the role SECRET_READER grants this access in one
namespace.
"""

import shlex
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

    def rule(self) -> dict[str, Any]:
        """Return the rule in the format of a Role or ClusterRole."""
        return {"apiGroups": [self.group], "resources": [*self.resources], "verbs": [*self.verbs]}


RULES = (
    PolicyRule(
        names.GROUP,
        (names.PLURAL,),
        READ,
        "The operator watches and reconciles these resources, and reads resources that are too large for its cache.",
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
        "ConfigMaps contain inline source code. ServiceAccounts identify the pods and have no permissions.",
    ),
    PolicyRule("policy", ("poddisruptionbudgets",), MANAGE, "The PodDisruptionBudget limits node drains."),
    PolicyRule(
        "",
        ("pods",),
        ("list", "watch", "patch"),
        "The operator reports why a pod does not start. It sets the pod deletion cost, so that scaling down deletes "
        "idle pods first.",
    ),
    PolicyRule("events.k8s.io", ("events",), ("create",), "kubectl describe shows these Events."),
)

SECRET_READER = "streamconsumer-secret-reader"  # noqa: S105 - the name of a role
"""The name of the role that allows the operator to read Secrets. The role has no effect until a RoleBinding refers to
the role. The role is a ClusterRole. If the operator watches only some namespaces, each of these namespaces has a Role
instead, so that the installation needs no cluster-wide permissions."""

SECRET_READER_RULES = (
    PolicyRule(
        "",
        ("secrets",),
        ("get",),
        "Only get, not list or watch: the operator reads only the Secrets that StreamConsumers in the namespace refer "
        "to.",
    ),
)

SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
"""The prefix of the user name of a ServiceAccount. In a user name, the namespace and the name of the ServiceAccount
follow this prefix, separated by a colon."""


def grant_command(namespace: str, user: str, *, is_cluster_wide: bool) -> str:
    """Return the command that allows an operator to read the Secrets of a namespace.

    `user` is the user name of the operator, or an empty string if the user name is unknown. `is_cluster_wide` is True
    if the operator watches all namespaces. The role of a RoleBinding is immutable. The RoleBinding to a Role and the
    RoleBinding to the ClusterRole therefore have different names."""
    binding, option = (SECRET_READER, "clusterrole") if is_cluster_wide else (f"{SECRET_READER}-role", "role")
    subject = f"--user={shlex.quote(user)}"
    if user.startswith(SERVICE_ACCOUNT_PREFIX):
        subject = f"--serviceaccount={user.removeprefix(SERVICE_ACCOUNT_PREFIX)}"
    elif not user:
        subject = "--serviceaccount=OPERATOR_NAMESPACE:OPERATOR_SERVICE_ACCOUNT"
    return f"kubectl create rolebinding {binding} -n {namespace} --{option}={SECRET_READER} {subject}"
