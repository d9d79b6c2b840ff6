"""Access to Secrets after `helm install`, `upgrade` and `uninstall`, on a real API server."""

from collections.abc import Iterator

import pytest

from tests.charts.rendering import CHART, NAMESPACE
from tests.charts.test_upgrade import DEFINITION, PREVIOUS
from tests.cluster.api_server import ApiServer
from tests.cluster.control_plane import ControlPlane
from tests.operator.namespace import eventually

pytestmark = pytest.mark.cluster

TENANTS = ("shop", "billing")


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """Separate server, because the release owns the CRD. Its controllers aggregate the cluster role `admin`."""
    with ControlPlane() as server:
        for namespace in (NAMESPACE, *TENANTS):
            server.kubectl("create", "namespace", namespace)
        yield server


@pytest.fixture(autouse=True)
def _uninstalled(server: ApiServer) -> Iterator[None]:
    yield
    for release in server.helm("list", "--short", "--namespace", NAMESPACE).split():
        server.helm("uninstall", release, "--namespace", NAMESPACE)
    server.kubectl("delete", "crd", DEFINITION, "--ignore-not-found")


def readable(server: ApiServer, account: str = "streamconsumer-operator") -> list[str]:
    """Return the namespaces in which the operator is allowed to get Secrets."""
    return [each for each in (NAMESPACE, *TENANTS) if can(server, account, "get", each)]


def can(server: ApiServer, account: str, verb: str, namespace: str) -> bool:
    spec = {
        "user": f"system:serviceaccount:{NAMESPACE}:{account}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
        "resourceAttributes": {"verb": verb, "resource": "secrets", "namespace": namespace},
    }
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    response = server.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(response["status"]["allowed"])


def check_readable(server: ApiServer, *namespaces: str, account: str = "streamconsumer-operator") -> None:
    """Check the access eventually, because the authorizer reads RoleBindings from a cache."""
    eventually(lambda: _check(server, account, [*namespaces]))


def _check(server: ApiServer, account: str, namespaces: list[str]) -> None:
    assert readable(server, account) == namespaces
    assert not any(can(server, account, verb, each) for verb in ("list", "watch", "update") for each in TENANTS)


def helm(server: ApiServer, verb: str, values: str = "", *, release: str = "streamconsumer") -> None:
    arguments = ("--set", values) if values else ()
    server.helm(verb, release, str(CHART), "--namespace", NAMESPACE, *arguments)


def test_an_upgrade_grants_no_access_and_a_value_grants_it_per_namespace(server: ApiServer) -> None:
    server.helm("install", "streamconsumer", str(PREVIOUS), "--namespace", NAMESPACE)
    helm(server, "upgrade")
    check_readable(server)
    helm(server, "upgrade", "rbac.secretNamespaces={shop,billing}")
    check_readable(server, *TENANTS)
    helm(server, "upgrade", "rbac.secretNamespaces={billing}")
    check_readable(server, "billing")


def test_an_upgrade_can_switch_between_all_and_some_namespaces(server: ApiServer) -> None:
    """The roleRef of a RoleBinding is immutable."""
    helm(server, "install", "rbac.secretNamespaces={shop}")
    check_readable(server, "shop")
    helm(server, "upgrade", "rbac.secretNamespaces={shop},watchNamespaces={shop,billing}")
    check_readable(server, "shop")
    helm(server, "upgrade", "rbac.secretNamespaces={billing}")
    check_readable(server, "billing")


def test_releases_for_different_namespaces_have_no_object_in_common(server: ApiServer) -> None:
    for release in TENANTS:
        values = f"watchNamespaces={{{release}}},rbac.secretNamespaces={{{release}}}"
        shared = "" if release == TENANTS[0] else ",crds.enabled=false"
        helm(server, "install", values + shared, release=release)
    for release in TENANTS:
        check_readable(server, release, account=f"{release}-streamconsumer-operator")
    server.helm("uninstall", TENANTS[0], "--namespace", NAMESPACE)
    check_readable(server, account=f"{TENANTS[0]}-streamconsumer-operator")
    check_readable(server, TENANTS[1], account=f"{TENANTS[1]}-streamconsumer-operator")


def test_a_role_binding_of_kubectl_survives_an_upgrade(server: ApiServer) -> None:
    helm(server, "install")
    command = ("create", "rolebinding", "streamconsumer-secret-reader", "-n", "shop")
    account = f"--serviceaccount={NAMESPACE}:streamconsumer-operator"
    server.kubectl(*command, "--clusterrole=streamconsumer-secret-reader", account)
    helm(server, "upgrade", "rbac.secretNamespaces={billing}")
    check_readable(server, *TENANTS)
    server.kubectl("delete", "rolebinding", "streamconsumer-secret-reader", "-n", "shop")
    check_readable(server, "billing")


def test_an_administrator_of_namespaces_can_install_without_cluster_permissions(server: ApiServer) -> None:
    helm(server, "install", "fullnameOverride=crd,replicaCount=0", release="crd")
    for namespace in (NAMESPACE, "shop"):
        server.kubectl("create", "rolebinding", "lead", "-n", namespace, "--clusterrole=admin", "--user=lead")
    missing = ("--verb=patch,update", "--resource=streamconsumers/status,streamconsumers/finalizers")
    server.kubectl("create", "role", "lead", "-n", "shop", *missing)
    server.kubectl("create", "rolebinding", "lead-more", "-n", "shop", "--role=lead", "--user=lead")
    values = "crds.enabled=false,watchNamespaces={shop},rbac.secretNamespaces={shop}"
    install = ("install", "mine", str(CHART), "--namespace", NAMESPACE, "--kube-as-user", "lead")

    def installed() -> None:
        try:
            server.helm(*install, "--set", values)
        except Exception as failure:  # noqa: BLE001 - the authorizer does not know the RoleBindings yet
            server.helm("uninstall", "mine", "--namespace", NAMESPACE, "--ignore-not-found")
            raise AssertionError(str(failure)) from None

    eventually(installed)
    check_readable(server, "shop", account="mine-streamconsumer-operator")
