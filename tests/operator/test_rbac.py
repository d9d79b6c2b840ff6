"""The RBAC rules of the chart: the operator has exactly the permissions that it uses.

A real API server authorizes the requests and records them in its audit log.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamconsumer.model import names
from streamconsumer.operator.rbac import RULES, SECRET_READER_RULES
from tests.charts.rendering import Helm, Manifest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.credentials import User
from tests.cluster.namespaces import fresh_namespace
from tests.model.examples import manifest
from tests.operator.namespace import CHILDREN, Namespace, eventually
from tests.operator.operator_process import OperatorProcess, running_operator

ACCOUNT = "streamconsumer-operator"
NOT_REQUESTED = {(names.GROUP, f"{names.PLURAL}/finalizers", "update"), ("", "pods", "patch")}
"""Permissions without a request in this test. An admission plugin checks the first one, see `rbac`. The operator uses
the second one to scale in pods with pending entries, see `autoscaling/test_autoscaling.py`."""

FOR_EVERY_USER = ("authentication.k8s.io", "authorization.k8s.io")
"""The API groups in which every user may ask for its own name and permissions."""

Permission = tuple[str, str, str]
SOURCE = "async def handle(data):\n    print(data)\n"


@pytest.fixture
def installed(control_plane_with_crd: ControlPlane) -> Iterator[Namespace]:
    """A namespace with the RBAC objects of a chart that serves only this namespace."""
    with fresh_namespace(control_plane_with_crd) as name:
        values = f"watchNamespaces={{{name}}},rbac.secretNamespaces={{{name}}}"
        rendered = Helm("helm").template("--namespace", name, "--set", values)
        permissions = [each for each in rendered if each["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
        assert {each["metadata"]["namespace"] for each in permissions} == {name}
        control_plane_with_crd.apply(*permissions)
        yield Namespace(control_plane_with_crd, name)


@pytest.fixture
def operator(installed: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator with the ServiceAccount of the chart."""
    cluster = installed.cluster
    path = f"/api/v1/namespaces/{installed.name}/serviceaccounts/{ACCOUNT}/token"
    token = cluster.request("POST", path, {"spec": {}})["status"]["token"]
    user = User(token, ACCOUNT, "")
    kubeconfig = cluster.credentials.write_kubeconfig(tmp_path / "kubeconfig", cluster.url, user)
    with running_operator(kubeconfig, tmp_path, watch_namespaces=installed.name) as operator:
        yield operator


def test_the_operator_uses_exactly_its_permissions(operator: OperatorProcess, installed: Namespace) -> None:
    exercise_every_permission(installed)
    rules = (*RULES, *SECRET_READER_RULES)
    granted = {(rule.group, resource, verb) for rule in rules for resource in rule.resources for verb in rule.verbs}

    def used_all() -> None:
        assert used_permissions(installed) == granted - NOT_REQUESTED

    eventually(used_all)
    assert not [line for line in operator.unexpected_lines() if "forbidden" in json.dumps(line)]


def test_the_operator_has_no_permission_in_other_namespaces_and_cannot_list_secrets(installed: Namespace) -> None:
    impersonation = f"--as=system:serviceaccount:{installed.name}:{ACCOUNT}"
    for question in (
        ("list", f"{names.PLURAL}.{names.GROUP}", "--namespace", "default"),
        ("create", "deployments.apps", "--namespace", "default"),
        ("list", "secrets", "--namespace", installed.name),
        ("create", "pods", "--namespace", installed.name),
        ("escalate", "roles.rbac.authorization.k8s.io", "--namespace", installed.name),
    ):
        with pytest.raises(Exception, match="failed") as denied:
            installed.cluster.kubectl("auth", "can-i", *question, impersonation)
        assert "Error" not in str(denied.value)


def exercise_every_permission(namespace: Namespace) -> None:
    """Make the operator create and prune every kind of child, and read Secrets, ConfigMaps and an object that is too
    large for its cache."""
    namespace.create(
        manifest(name="large", env=[{"name": f"TEXT_{number}", "value": "x" * 30_000} for number in range(10)])
    )
    redis_with_password = {"url": "redis://127.0.0.1:1/0", "passwordSecretRef": {"name": "redis", "key": "password"}}
    namespace.create(
        manifest(
            name="orders",
            replicas=2,
            handler={"source": SOURCE},
            redis=redis_with_password,
            envFrom=[{"configMapRef": {"name": "shop", "optional": True}}],
        )
    )
    children = eventually(lambda: every_child(namespace))
    for kind in CHILDREN:
        namespace.create({**copy_of(children[kind]), "kind": kind})

    def pruned() -> None:
        assert not [
            kind for kind, child in children.items() if namespace.find(kind, copy_of(child)["metadata"]["name"])
        ]

    eventually(pruned)


def every_child(namespace: Namespace) -> dict[str, Manifest]:
    children = namespace.children("orders")
    assert set(children) == set(CHILDREN)
    return children


def copy_of(child: Manifest) -> Manifest:
    """Return a copy of a child with the operator's label and the same owner. The operator must prune the copy."""
    kept = {name: child["metadata"][name] for name in ("labels", "ownerReferences")}
    name = f"{child['metadata']['name']}-copy"
    return {**child, "metadata": {"name": name, **kept}}


def used_permissions(namespace: Namespace) -> set[Permission]:
    """Return the permissions that the requests of this namespace's operator needed, whether granted or not."""
    user = f"system:serviceaccount:{namespace.name}:{ACCOUNT}"
    lines = map(json.loads, namespace.cluster.audit_log.read_text().splitlines())
    requests = [line for line in lines if line["user"]["username"] == user and "objectRef" in line]
    return {each for line in requests for each in permissions(line) if each[0] not in FOR_EVERY_USER}


def permissions(line: Manifest) -> Iterator[Permission]:
    """Yield the permissions that a request needs. An apply that creates an object needs two."""
    ref = line["objectRef"]
    resource = "/".join(filter(None, (ref["resource"], ref.get("subresource"))))
    yield ref.get("apiGroup", ""), resource, line["verb"]
    if line["verb"] == "patch" and line["responseStatus"]["code"] == 201:
        yield ref.get("apiGroup", ""), resource, "create"
