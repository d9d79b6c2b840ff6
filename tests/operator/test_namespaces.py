"""Watched namespaces are independent: a namespace that the operator may not read does not affect other namespaces."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamconsumer.operator.metrics import SERVED
from streamconsumer.operator.rbac import RULES
from tests.cluster.api_server import ApiServer
from tests.cluster.namespaces import fresh_namespace
from tests.model.examples import manifest
from tests.operator.faulty_api_proxy import FaultyApiProxy
from tests.operator.namespace import Namespace, eventually, wait_until_reconciled, wait_until_settled
from tests.operator.operator_process import OperatorProcess, running_operator

USER = "limited-operator"
RBAC = "rbac.authorization.k8s.io"
LEASE_RULE = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
TIMEOUT_SECONDS = 60.0


def grant(namespace: Namespace) -> None:
    """Give the operator's user the permissions in this namespace, as the chart does with watchNamespaces."""
    metadata = {"name": USER, "namespace": namespace.name}
    rules = [*(each.rule() for each in RULES), LEASE_RULE]
    role = {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": USER},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": USER}],
    }
    namespace.cluster.apply(role, binding)


def revoke(namespace: Namespace) -> None:
    namespace.kubectl("delete", "rolebinding", USER)


@pytest.fixture
def kubeconfig(api: ApiServer, tmp_path: Path) -> Path:
    """A kubeconfig whose user has only the permissions of `grant`."""
    config = json.loads(api.kubeconfig.read_text())
    for user in config["users"]:
        user["user"]["as"] = USER
    path = tmp_path / "limited.kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def namespaces(api: ApiServer) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces in which the operator has its permissions."""
    with fresh_namespace(api) as one, fresh_namespace(api) as other:
        pair = Namespace(api, one), Namespace(api, other)
        for namespace in pair:
            grant(namespace)
        yield pair


@contextmanager
def watching(kubeconfig: Path, folder: Path, *names: str) -> Iterator[OperatorProcess]:
    with running_operator(kubeconfig, folder, watch_namespaces=",".join(names)) as operator:
        yield operator


def served(operator: OperatorProcess) -> dict[str, bool]:
    lines = [line for line in operator.metrics().splitlines() if line.startswith(SERVED)]
    return {line.split('"')[1]: line.endswith(" 1.0") for line in lines}


def check_served(operator: OperatorProcess, namespace: Namespace, expected: bool) -> None:
    assert served(operator)[namespace.name] == expected


@pytest.mark.timeout(240)
def test_a_refused_namespace_does_not_stop_others_at_the_start_and_is_served_when_it_is_allowed(
    namespaces: tuple[Namespace, Namespace], kubeconfig: Path, tmp_path: Path
) -> None:
    refused, other = namespaces
    revoke(refused)
    for namespace in namespaces:
        namespace.create(manifest())
    with watching(kubeconfig, tmp_path, refused.name, other.name) as operator:
        wait_until_reconciled(other)
        assert served(operator) == {refused.name: False, other.name: True}
        status, text = operator.get("readyz")
        assert status == 200
        assert f"not serving namespace {refused.name}: " in text
        assert "is forbidden" in text
        [line] = operator.logged("failed to list resources; retrying")
        assert line["namespace"] == f"namespace {refused.name}"
        assert refused.find("Deployment", "orders-consumer") is None
        grant(refused)
        wait_until_reconciled(refused)
        assert served(operator) == {refused.name: True, other.name: True}
        refused.edit("orders", batchCount=20)
        wait_until_reconciled(refused)
        assert operator.get("readyz") == (200, "ok\n")


@pytest.mark.timeout(240)
def test_a_namespace_that_does_not_exist_is_served_when_it_is_created(
    api: ApiServer, namespaces: tuple[Namespace, Namespace], kubeconfig: Path, tmp_path: Path
) -> None:
    existing, _ = namespaces
    late = Namespace(api, f"{existing.name}-late")
    with watching(kubeconfig, tmp_path, existing.name, late.name) as operator:
        existing.create(manifest())
        wait_until_reconciled(existing)
        check_served(operator, late, expected=False)
        api.kubectl("create", "namespace", late.name)
        grant(late)
        late.create(manifest())
        wait_until_reconciled(late)
        api.delete_namespace(late.name)


@pytest.mark.timeout(240)
def test_a_namespace_that_is_refused_later_is_not_served_and_loses_nothing(
    namespaces: tuple[Namespace, Namespace], kubeconfig: Path, tmp_path: Path
) -> None:
    refused, other = namespaces
    for namespace in namespaces:
        namespace.create(manifest())
    with watching(kubeconfig, tmp_path, refused.name, other.name) as operator:
        for namespace in namespaces:
            wait_until_reconciled(namespace)
        versions = wait_until_settled(refused)
        revoke(refused)
        # The API server does not end the running watch of a user who has lost the permission.
        refused.create(manifest("refused"))
        eventually(lambda: check_served(operator, refused, expected=False), TIMEOUT_SECONDS)
        assert f'resource_namespace="{refused.name}",resource_name=' not in operator.metrics()
        other.edit("orders", batchCount=20)
        wait_until_reconciled(other)
        assert {uid: version for uid, version in refused.versions().items() if uid in versions} == versions
        grant(refused)
        eventually(lambda: check_served(operator, refused, expected=True), TIMEOUT_SECONDS)
        wait_until_reconciled(refused, "refused")
        wait_until_settled(refused)
        assert {uid: version for uid, version in refused.versions().items() if uid in versions} == versions
        assert operator.exit_code is None


@pytest.mark.timeout(240)
def test_an_operator_that_may_read_no_namespace_is_not_ready_and_waits(
    namespaces: tuple[Namespace, Namespace], kubeconfig: Path, tmp_path: Path
) -> None:
    watched = ",".join(each.name for each in namespaces)
    for namespace in namespaces:
        revoke(namespace)
    operator = OperatorProcess(kubeconfig, tmp_path, watch_namespaces=watched).start()
    try:
        eventually(lambda: check_unready(operator), TIMEOUT_SECONDS)
        grant(namespaces[1])
        operator.wait_until_started(TIMEOUT_SECONDS)
        namespaces[1].create(manifest())
        wait_until_reconciled(namespaces[1])
        assert operator.get("readyz")[0] == 200
    finally:
        operator.kill()


def check_unready(operator: OperatorProcess) -> None:
    assert len(operator.logged("failed to list resources; retrying")) == 2


@pytest.mark.timeout(300)
def test_a_follower_is_ready_only_if_it_could_lead(
    namespaces: tuple[Namespace, Namespace], kubeconfig: Path, tmp_path: Path
) -> None:
    """A rolling upgrade ends the leader when the follower is ready."""
    first, second = namespaces
    settings = {"watch_namespaces": f"{first.name},{second.name}", "lease": f"{first.name}/operator"}
    leader, follower = (OperatorProcess(kubeconfig, tmp_path, **settings) for _ in range(2))
    admin = OperatorProcess(first.cluster.kubeconfig, tmp_path, **settings)
    try:
        admin.start().wait_until_started()
        revoke(second)
        follower.start()
        eventually(lambda: check_ready(follower, 200, "ok, follower\n"), TIMEOUT_SECONDS)
        revoke(first)
        eventually(lambda: check_ready(follower, 503, "follower; cannot read the Lease"), TIMEOUT_SECONDS)
        grant_lease(first)
        eventually(lambda: check_ready(follower, 503, "follower; cannot serve namespace"), TIMEOUT_SECONDS)
        assert admin.stop()[0] == 0
        admin = leader.start()
        grant(second)
        eventually(lambda: check_logged_start(follower, leader), TIMEOUT_SECONDS)
    finally:
        for each in (admin, leader, follower):
            each.kill()


def grant_lease(namespace: Namespace) -> None:
    """Give the operator's user only the permissions for the Lease."""
    grant(namespace)
    rules = {"rules": [LEASE_RULE]}
    namespace.cluster.request("PATCH", f"/apis/{RBAC}/v1/namespaces/{namespace.name}/roles/{USER}", rules)


def check_ready(operator: OperatorProcess, status: int, text: str) -> None:
    assert [line for line in operator.lines() if "http_port" in line]
    found = operator.get("readyz")
    assert found[0] == status, found
    assert found[1].startswith(text), found


def check_logged_start(*operators: OperatorProcess) -> None:
    assert any(each.logged("operator started") for each in operators)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["500", "429", "hang", "page", "drop"])
def test_a_namespace_whose_lists_fail_does_not_stop_others(
    api: ApiServer, namespaces: tuple[Namespace, Namespace], tmp_path: Path, fault: str
) -> None:
    """The API server may be unable to convert or decrypt an object of the namespace."""
    broken, other = namespaces
    for namespace in namespaces:
        namespace.create(manifest())
    with FaultyApiProxy(api) as proxy:
        proxy.fault_for = lambda request: fault if f"/{broken.name}/" in request.path else None
        with watching(proxy.kubeconfig(tmp_path), tmp_path, broken.name, other.name) as operator:
            wait_until_reconciled(other)
            check_served(operator, broken, expected=False)
            assert f"not serving namespace {broken.name}: " in operator.get("readyz")[1]
            proxy.fault_for = lambda _: None
            wait_until_reconciled(broken)
            assert operator.get("readyz") == (200, "ok\n")
