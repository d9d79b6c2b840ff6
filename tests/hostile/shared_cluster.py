"""A cluster of several tenants: our CRD, admission policy and RBAC, and an operator with only its own permissions."""

import http.client
import json
import ssl
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from streamconsumer.model import names
from tests.charts.rendering import kustomize
from tests.charts.test_admission import CREATE_PODS, READ_ALL_SECRETS, WRITE_CONSUMERS, role
from tests.cluster.api_server import ApiServer
from tests.cluster.credentials import User
from tests.model.examples import Manifest, manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import Namespace, eventually
from tests.operator.test_hostile import without_rules

OPERATOR_NAMESPACE = "streamconsumer-system"
OPERATOR = "streamconsumer-operator"
OPERATOR_USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR}"
SECRET_READER = "streamconsumer-secret-reader"
TENANT, VICTIM = "tenant", "victim"
TENANT_USER = "mallory"
WRITER = "writer"
"""A user who may write StreamConsumers, but may not create pods."""
RBAC = "rbac.authorization.k8s.io"


class SharedCluster:
    """The namespaces of a hostile tenant and of a victim, which both let the operator read their Secrets."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.tenant, self.victim = Namespace(server, TENANT), Namespace(server, VICTIM)

    def install(self) -> None:
        """Install what the chart installs, and opt both namespaces in."""
        install_crd(self.server)
        kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
        for namespace in (OPERATOR_NAMESPACE, TENANT, VICTIM):
            self.server.kubectl("create", "namespace", namespace)
        base = [each for each in kustomize("overlays/cluster") if each["kind"] in kinds]
        self.server.apply(*base, *kustomize("admission"))
        self.server.apply(*(opt_in(namespace) for namespace in (TENANT, VICTIM)))
        self.server.apply(*role(TENANT, TENANT_USER, [WRITE_CONSUMERS, CREATE_PODS, READ_ALL_SECRETS]))
        self.server.apply(*role(TENANT, WRITER, [WRITE_CONSUMERS]))

    def accept_everything(self) -> None:
        """Replace the CRD and remove the policy, so that resources can be stored past validation."""
        self.server.apply(without_rules())
        policy = [each for each in kustomize("admission") if each["kind"].startswith("ValidatingAdmissionPolicy")]
        for each in policy:
            self.server.kubectl("delete", each["kind"], each["metadata"]["name"])

    def operator_kubeconfig(self, folder: Path) -> Path:
        """Return a kubeconfig with a token of the operator's ServiceAccount."""
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/serviceaccounts/{OPERATOR}/token"
        token = self.server.request("POST", path, {"spec": {"expirationSeconds": 7200}})["status"]["token"]
        user = User(token, OPERATOR, "")
        return self.server.credentials.write_kubeconfig(folder / "operator.kubeconfig", self.server.url, user)

    def forbidden_requests(self) -> list[str]:
        """Return the requests of the operator that no promise allows, from the audit log."""
        lines = map(json.loads, self.server.audit_log.read_text().splitlines())
        return [
            f"{line['verb']} {line['requestURI']}"
            for line in lines
            if line["user"]["username"] == OPERATOR_USER and not is_allowed(line)
        ]


def is_allowed(line: Mapping[str, Any]) -> bool:
    """Return True if the request is one for the tenant, or one that needs no tenant.

    The victim has no Secret in its spec, so a request for a Secret is allowed only in the tenant's namespace."""
    path = unquote(urlsplit(line["requestURI"]).path)
    target = line.get("objectRef", {})
    namespace, resource = target.get("namespace", ""), target.get("resource", "")
    if ".." in path or "//" in path or "\\" in path or target.get("subresource") not in (None, "status"):
        return False
    if resource == "selfsubjectaccessreviews":
        return True
    if not namespace:
        return line["verb"] in ("list", "watch", "get") and resource != "secrets"
    if resource in ("secrets", "configmaps") and namespace != TENANT:
        return False
    return namespace in (TENANT, VICTIM) or (namespace == OPERATOR_NAMESPACE and resource in ("leases", "pods"))


def opt_in(namespace: str) -> Manifest:
    """Return the RoleBinding that lets the operator read the Secrets of a namespace."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": SECRET_READER, "namespace": namespace},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": SECRET_READER},
        "subjects": [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": OPERATOR_NAMESPACE}],
    }


def secret(name: str, data: Mapping[str, str]) -> Manifest:
    encoded = {key: b64encode(value.encode(errors="surrogatepass")).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}


class TenantSession:
    """Requests of the tenant's user over one connection. kubectl would take 50 ms for each."""

    def __init__(self, server: ApiServer) -> None:
        context = ssl.create_default_context(cafile=server.ca)
        self._connection = http.client.HTTPSConnection(server.address, server.port, timeout=30, context=context)
        self._token = server.token

    def create(self, item: Manifest, *, user: str | None = TENANT_USER, dry_run: bool = False) -> str:
        """Create the object. Returns the error, or an empty text. Without a user, the administrator creates it."""
        path = f"/apis/{names.API_VERSION}/namespaces/{TENANT}/{names.PLURAL}"
        if item["kind"] == "Secret":
            path = f"/api/v1/namespaces/{TENANT}/secrets"
        path += "?dryRun=All" if dry_run else ""
        item["metadata"].pop("namespace", None)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        if user:
            headers["Impersonate-User"] = user
        self._connection.request("POST", path, json.dumps(item).encode(), headers)
        response = self._connection.getresponse()
        text = response.read().decode()
        return "" if response.status < 300 else text

    def close(self) -> None:
        self._connection.close()


def wait_until_policy_is_active(session: TenantSession) -> None:
    """Wait until the policy rejects a user who may not create pods, which takes a moment."""

    def check() -> None:
        assert "ValidatingAdmissionPolicy" in session.create(manifest("probe"), user=WRITER, dry_run=True)

    eventually(check)


@contextmanager
def shared_cluster() -> Iterator[SharedCluster]:
    """Run a cluster of its own, because the test replaces the CRD."""
    with ApiServer() as server:
        cluster = SharedCluster(server)
        cluster.install()
        yield cluster
