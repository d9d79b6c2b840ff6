"""Admission policy on a real API server: no user gains a permission through a StreamConsumer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from streamconsumer.model import names
from tests.charts.rendering import Helm, Manifest
from tests.cluster.api_server import ApiServer
from tests.cluster.clusters import KubectlError
from tests.cluster.namespaces import fresh_namespace
from tests.model.examples import manifest
from tests.model.string_fields import ATTACKS, string_fields, with_value
from tests.operator.conftest import install_crd
from tests.operator.namespace import eventually
from tests.operator.test_hostile import without_rules
from tools.admission import SECRETS

WRITE_CONSUMERS = {
    "apiGroups": [names.GROUP],
    "resources": [names.PLURAL],
    "verbs": ["get", "create", "update", "patch"],
}
CREATE_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}
CREATE_DEPLOYMENTS = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}
READ_ONE_SECRET = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["redis"]}
READ_ALL_SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
USERS = {
    "writer": [WRITE_CONSUMERS],
    "deployer": [WRITE_CONSUMERS, CREATE_DEPLOYMENTS],
    "developer": [WRITE_CONSUMERS, CREATE_PODS, READ_ONE_SECRET],
    "owner": [WRITE_CONSUMERS, CREATE_PODS, READ_ALL_SECRETS],
}
READABLE_PASSWORD = {"url": "redis://redis:6379/0", "passwordSecretRef": {"name": "redis", "key": "password"}}
OTHER_PASSWORD = {"url": "redis://redis:6379/0", "passwordSecretRef": {"name": "payroll", "key": "password"}}


class PolicyNamespace:
    """Namespace with the users of USERS, on an API server with the policy."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace = server, namespace

    def apply(self, user: str, **spec: Any) -> None:
        consumer = manifest(**spec)
        consumer["metadata"].pop("namespace", None)
        self.kubectl("apply", "--server-side", "-f", "-", f"--as={user}", input=json.dumps(consumer))

    def rejection(self, user: str, **spec: Any) -> str:
        with pytest.raises(KubectlError) as rejected:
            self.apply(user, **spec)
        return str(rejected.value)

    def create_all(self, user: str, resources: list[Manifest]) -> str:
        """Try to create the resources, without storing them. Returns the rejections."""
        for resource in resources:
            del resource["metadata"]["namespace"]
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": resources})
        try:
            self.kubectl("create", "--dry-run=server", "--validate=false", "-f", "-", f"--as={user}", input=items)
        except KubectlError as failure:
            return str(failure)
        return ""

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - as in subprocess
        return self.server.kubectl(*arguments, "--namespace", self.namespace, input=input)


@pytest.fixture(scope="module")
def api_with_policy(api_server: ApiServer) -> Iterator[ApiServer]:
    """API server with the policy while this module runs. Other modules run without it."""
    install_crd(api_server)
    policy = apply_policy(api_server)
    yield api_server
    for policy_object in policy:
        api_server.kubectl("delete", policy_object["kind"], policy_object["metadata"]["name"])


@pytest.fixture
def policy_namespace(api_with_policy: ApiServer) -> Iterator[PolicyNamespace]:
    with namespace_with_users(api_with_policy) as policy_namespace:
        yield policy_namespace


@pytest.fixture(scope="module")
def lax_policy_namespace() -> Iterator[PolicyNamespace]:
    """A namespace on an API server whose CRD has no rules, such as the CRD of an older version."""
    with ApiServer() as server:
        install_crd(server, without_rules())
        apply_policy(server)
        with namespace_with_users(server) as policy_namespace:
            yield policy_namespace


def apply_policy(server: ApiServer) -> list[Manifest]:
    objects = Helm("helm").template()
    policy = [each for each in objects if each["kind"].startswith("ValidatingAdmissionPolicy")]
    assert len(policy) == 2
    server.apply(*policy)
    return policy


@contextmanager
def namespace_with_users(server: ApiServer) -> Iterator[PolicyNamespace]:
    with fresh_namespace(server) as name:
        for user, rules in USERS.items():
            server.apply(*role(name, user, rules))
        policy_namespace = PolicyNamespace(server, name)
        eventually(lambda: check_policy_is_active(policy_namespace))
        yield policy_namespace


def check_policy_is_active(policy_namespace: PolicyNamespace) -> None:
    """Check that the policy and the permissions are active, which takes a moment."""
    consumer = manifest()
    consumer["metadata"].pop("namespace")
    try:
        policy_namespace.kubectl("create", "--dry-run=server", "-f", "-", "--as=writer", input=json.dumps(consumer))
        output = "accepted"
    except KubectlError as failure:
        output = str(failure)
    assert "ValidatingAdmissionPolicy" in output, "the policy is not active yet"
    try:
        policy_namespace.kubectl("auth", "can-i", "get", "secrets", "--as=owner")
    except KubectlError as failure:
        raise AssertionError(str(failure)) from None


def role(namespace: str, user: str, rules: list[Manifest]) -> list[Manifest]:
    api, metadata = "rbac.authorization.k8s.io", {"name": user, "namespace": namespace}
    return [
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": user},
            "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
        },
    ]


def test_user_without_permission_to_create_pods_is_rejected(policy_namespace: PolicyNamespace) -> None:
    assert "you need permission to create pods or deployments" in policy_namespace.rejection("writer")
    policy_namespace.apply("deployer")
    policy_namespace.apply("developer")


def test_user_without_permission_to_read_a_secret_is_rejected(policy_namespace: PolicyNamespace) -> None:
    assert "you need permission to get Secret redis" in policy_namespace.rejection("deployer", redis=READABLE_PASSWORD)
    assert "you need permission to get Secret payroll" in policy_namespace.rejection("developer", redis=OTHER_PASSWORD)
    policy_namespace.apply("developer", redis=READABLE_PASSWORD)
    policy_namespace.apply("owner", redis=OTHER_PASSWORD)


def test_update_is_checked_like_a_create(policy_namespace: PolicyNamespace) -> None:
    policy_namespace.apply("developer", redis=READABLE_PASSWORD)
    assert "you need permission to get Secret payroll" in policy_namespace.rejection("developer", redis=OTHER_PASSWORD)


def test_change_outside_the_spec_is_not_checked(policy_namespace: PolicyNamespace) -> None:
    policy_namespace.apply("owner", redis=OTHER_PASSWORD)
    policy_namespace.kubectl("label", names.PLURAL, "orders", "team=shop", "--as=writer")
    change = '{"metadata": {"finalizers": ["example.com/wait"]}}'
    policy_namespace.kubectl("patch", names.PLURAL, "orders", "--type=merge", "--patch", change, "--as=writer")


@pytest.mark.parametrize(
    "redis",
    [
        {"urlSecretRef": {"name": "payroll", "key": "x"}},
        {**READABLE_PASSWORD, "usernameSecretRef": {"name": "payroll", "key": "x"}},
        {"url": "rediss://redis:6379/0", "tls": {"caSecretRef": {"name": "payroll", "key": "x"}}},
        {"url": "rediss://redis:6379/0", "tls": {"certSecretRef": {"name": "payroll"}}},
        {
            "url": "redis:///0",
            "sentinel": {
                "masterName": "primary",
                "nodes": ["sentinel:26379"],
                "passwordSecretRef": {"name": "payroll", "key": "x"},
            },
        },
    ],
)
def test_each_secret_reference_of_redis_is_checked(policy_namespace: PolicyNamespace, redis: Manifest) -> None:
    assert "you need permission to get Secret payroll" in policy_namespace.rejection("developer", redis=redis)


@pytest.mark.parametrize(
    "spec",
    [
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "payroll", "key": "x"}}}]},
        {"envFrom": [{"configMapRef": {"name": "plain"}}, {"secretRef": {"name": "payroll"}}]},
        {"imagePullSecrets": [{"name": "payroll"}]},
    ],
)
def test_each_secret_reference_of_the_pods_is_checked(policy_namespace: PolicyNamespace, spec: Manifest) -> None:
    assert "you need permission to get Secret payroll" in policy_namespace.rejection("developer", **spec)
    policy_namespace.apply("owner", **spec)


def test_all_secrets_up_to_the_limit_are_checked(policy_namespace: PolicyNamespace) -> None:
    def variables(count: int) -> list[Manifest]:
        key = {"secretKeyRef": {"name": "redis", "key": "password"}}
        return [{"name": f"V{number}", "valueFrom": key} for number in range(count)]

    policy_namespace.apply("developer", env=variables(SECRETS))
    assert f"names more than {SECRETS} Secrets" in policy_namespace.rejection("developer", env=variables(SECRETS + 1))
    policy_namespace.apply("owner", env=variables(SECRETS + 1))


REFERENCES = [
    field
    for field, _ in string_fields()
    if field.endswith(".name") and ("Ref" in field or field.startswith("imagePullSecrets"))
]


@pytest.mark.cluster
@pytest.mark.parametrize("field", REFERENCES)
def test_reference_by_a_path_is_rejected_even_for_an_owner_and_an_older_crd(
    lax_policy_namespace: PolicyNamespace, field: str
) -> None:
    resources = [with_value(field, attack, f"attack-{number}") for number, attack in enumerate(ATTACKS.values())]
    output = lax_policy_namespace.create_all("owner", resources)
    assert output.count("a Secret or Config") == len(resources), output
    assert lax_policy_namespace.create_all("owner", [with_value(field, "a.b-c")]) == ""


@pytest.mark.cluster
def test_owner_passes_its_own_secrets_with_an_older_crd(lax_policy_namespace: PolicyNamespace) -> None:
    rejection = lax_policy_namespace.rejection("developer", redis=OTHER_PASSWORD)
    assert "you need permission to get Secret payroll" in rejection
    lax_policy_namespace.apply("owner", redis=OTHER_PASSWORD)
