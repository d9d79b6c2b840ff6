"""The operator with the rights that the chart gives it, and no others: what it asks for and what it may do are equal.

A real API server decides, and writes down what it was asked.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamconsumer.model import names
from streamconsumer.operator.rbac import RULES
from tests.charts.rendering import Helm, Manifest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.credentials import User
from tests.cluster.namespaces import fresh_namespace
from tests.model.examples import manifest
from tests.operator.namespace import CHILDREN, Namespace, eventually
from tests.operator.operator_process import OperatorProcess, running_operator

ACCOUNT = "streamconsumer-operator"
WITHOUT_A_CALL = {(names.GROUP, f"{names.PLURAL}/finalizers", "update"), ("", "pods", "patch")}
"""Asked of the authorizer by an admission plugin, see `permissions`; asked when pods that hold entries are to be fewer,
see `scaling/test_scaling.py`."""

Asked = tuple[str, str, str]
SOURCE = "async def handle(data):\n    print(data)\n"


@pytest.fixture
def installed(control_plane_with_crd: ControlPlane) -> Iterator[Namespace]:
    """A namespace with the chart's rights in it, for an operator of this namespace alone."""
    with fresh_namespace(control_plane_with_crd) as name:
        rendered = Helm("helm").template("--namespace", name, "--set", f"watchNamespaces={{{name}}}")
        rights = [each for each in rendered if each["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
        assert {each["metadata"]["namespace"] for each in rights} == {name}
        control_plane_with_crd.apply(*rights)
        yield Namespace(control_plane_with_crd, name)


@pytest.fixture
def operator(installed: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator that is its service account."""
    cluster = installed.cluster
    path = f"/api/v1/namespaces/{installed.name}/serviceaccounts/{ACCOUNT}/token"
    token = cluster.request("POST", path, {"spec": {}})["status"]["token"]
    who = User(token, ACCOUNT, "")
    kubeconfig = cluster.credentials.write_kubeconfig(tmp_path / "kubeconfig", cluster.url, who)
    with running_operator(kubeconfig, tmp_path, watch_namespaces=installed.name) as operator:
        yield operator


def test_the_operator_uses_exactly_its_permissions(operator: OperatorProcess, installed: Namespace) -> None:
    live_through_everything(installed)
    granted = {(right.group, what, verb) for right in RULES for what in right.resources for verb in right.verbs}

    def all_of_it() -> None:
        assert asked_for(installed) == granted - WITHOUT_A_CALL

    eventually(all_of_it)
    assert not [line for line in operator.unexpected_lines() if "forbidden" in json.dumps(line)]


def test_the_operator_has_no_permission_in_other_namespaces_and_cannot_list_secrets(installed: Namespace) -> None:
    who = f"--as=system:serviceaccount:{installed.name}:{ACCOUNT}"
    for question in (
        ("list", f"{names.PLURAL}.{names.GROUP}", "--namespace", "default"),
        ("create", "deployments.apps", "--namespace", "default"),
        ("list", "secrets", "--namespace", installed.name),
        ("create", "pods", "--namespace", installed.name),
        ("escalate", "roles.rbac.authorization.k8s.io", "--namespace", installed.name),
    ):
        with pytest.raises(Exception, match="failed") as refused:
            installed.cluster.kubectl("auth", "can-i", *question, who)
        assert "Error" not in str(refused.value)


def live_through_everything(namespace: Namespace) -> None:
    """Have every kind of child made, mended, changed, and pruned."""
    behind_a_password = {"url": "redis://127.0.0.1:1/0", "passwordSecretRef": {"name": "redis", "key": "password"}}
    namespace.create(
        manifest(
            name="orders",
            replicas=2,
            handler={"source": SOURCE},
            redis=behind_a_password,
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
    found = namespace.children("orders")
    assert set(found) == set(CHILDREN)
    return found


def copy_of(child: Manifest) -> Manifest:
    """What somebody has who copies a child: our label, and an owner who does not want it."""
    kept = {name: child["metadata"][name] for name in ("labels", "ownerReferences")}
    name = f"{child['metadata']['name']}-copy"
    return {**child, "metadata": {"name": name, **kept}}


def asked_for(namespace: Namespace) -> set[Asked]:
    """What the operator of this namespace was allowed, or refused, at the API server. That is what it wanted."""
    user = f"system:serviceaccount:{namespace.name}:{ACCOUNT}"
    lines = map(json.loads, namespace.cluster.audit_log.read_text().splitlines())
    return {each for line in lines if line["user"]["username"] == user and "objectRef" in line for each in rights(line)}


def rights(line: Manifest) -> Iterator[Asked]:
    """The rights that one request needs. An apply that makes an object needs two."""
    what = line["objectRef"]
    resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
    yield what.get("apiGroup", ""), resource, line["verb"]
    if line["verb"] == "patch" and line["responseStatus"]["code"] == 201:
        yield what.get("apiGroup", ""), resource, "create"
