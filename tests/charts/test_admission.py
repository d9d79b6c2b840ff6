"""Nobody gets by a StreamConsumer what he could not have himself: the policy on a real API server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from streamconsumer.model import names
from tests.charts.rendering import Helm, Manifest
from tests.cluster.api_server import ApiServer
from tests.cluster.clusters import KubectlError
from tests.cluster.namespaces import fresh_namespace
from tests.model.examples import manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import eventually
from tools.admission import SECRETS

WRITES = {"apiGroups": [names.GROUP], "resources": [names.PLURAL], "verbs": ["get", "create", "update", "patch"]}
MAKES_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}
MAKES_DEPLOYMENTS = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}
READS_ONE = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["redis"]}
READS_ALL = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
PEOPLE = {
    "writer": [WRITES],
    "deployer": [WRITES, MAKES_DEPLOYMENTS],
    "developer": [WRITES, MAKES_PODS, READS_ONE],
    "owner": [WRITES, MAKES_PODS, READS_ALL],
}
BEHIND_A_PASSWORD = {"url": "redis://redis:6379/0", "passwordSecretRef": {"name": "redis", "key": "password"}}
BEHIND_ANOTHER = {"url": "redis://redis:6379/0", "passwordSecretRef": {"name": "payroll", "key": "password"}}


class Town:
    """A namespace in which people have the rights that PEOPLE says, and the policy rules."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace = server, namespace

    def writes(self, who: str, **spec: Any) -> None:
        consumer = manifest(**spec)
        consumer["metadata"].pop("namespace", None)
        self.kubectl("apply", "--server-side", "-f", "-", f"--as={who}", input=json.dumps(consumer))

    def refusal(self, who: str, **spec: Any) -> str:
        with pytest.raises(KubectlError) as refused:
            self.writes(who, **spec)
        return str(refused.value)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - as in subprocess
        return self.server.kubectl(*arguments, "--namespace", self.namespace, input=input)


@pytest.fixture(scope="module")
def ruled(api_server: ApiServer) -> Iterator[ApiServer]:
    """An API server with the policy, for the length of this module: other tests write as they like."""
    install_crd(api_server)
    policy = [each for each in Helm("helm").template() if each["kind"].startswith("ValidatingAdmissionPolicy")]
    assert len(policy) == 2
    api_server.apply(*policy)
    yield api_server
    for each in policy:
        api_server.kubectl("delete", each["kind"], each["metadata"]["name"])


@pytest.fixture
def town(ruled: ApiServer) -> Iterator[Town]:
    with fresh_namespace(ruled) as namespace:
        ruled.apply(*(each for who, rules in PEOPLE.items() for each in role(namespace, who, rules)))
        town = Town(ruled, namespace)
        eventually(lambda: rules_here(town))
        yield town


def rules_here(town: Town) -> None:
    """The API server takes a moment to take a new policy and new rights up."""
    consumer = manifest()
    consumer["metadata"].pop("namespace")
    try:
        town.kubectl("create", "--dry-run=server", "-f", "-", "--as=writer", input=json.dumps(consumer))
        answer = "accepted"
    except KubectlError as failure:
        answer = str(failure)
    assert "ValidatingAdmissionPolicy" in answer, "the policy is not in force yet"
    try:
        town.kubectl("auth", "can-i", "get", "secrets", "--as=owner")
    except KubectlError as failure:
        raise AssertionError(str(failure)) from None


def role(namespace: str, who: str, rules: list[Manifest]) -> list[Manifest]:
    api, metadata = "rbac.authorization.k8s.io", {"name": who, "namespace": namespace}
    return [
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": who},
            "subjects": [{"apiGroup": api, "kind": "User", "name": who}],
        },
    ]


def test_who_may_make_no_pods_gets_none_made(town: Town) -> None:
    assert "you need permission to create pods or deployments there" in town.refusal("writer")
    town.writes("deployer")
    town.writes("developer")


def test_who_may_not_read_a_secret_gets_it_into_no_pod(town: Town) -> None:
    assert "you need permission to get Secret redis" in town.refusal("deployer", redis=BEHIND_A_PASSWORD)
    assert "you need permission to get Secret payroll" in town.refusal("developer", redis=BEHIND_ANOTHER)
    town.writes("developer", redis=BEHIND_A_PASSWORD)
    town.writes("owner", redis=BEHIND_ANOTHER)


def test_an_edit_cannot_bring_in_what_a_creation_could_not(town: Town) -> None:
    town.writes("developer", redis=BEHIND_A_PASSWORD)
    assert "you need permission to get Secret payroll" in town.refusal("developer", redis=BEHIND_ANOTHER)


def test_what_gives_nobody_anything_is_not_asked_about(town: Town) -> None:
    town.writes("owner", redis=BEHIND_ANOTHER)
    town.kubectl("label", names.PLURAL, "orders", "team=shop", "--as=writer")
    change = '{"metadata": {"finalizers": ["example.com/wait"]}}'
    town.kubectl("patch", names.PLURAL, "orders", "--type=merge", "--patch", change, "--as=writer")


@pytest.mark.parametrize(
    "redis",
    [
        {"urlSecretRef": {"name": "payroll", "key": "x"}},
        {**BEHIND_A_PASSWORD, "usernameSecretRef": {"name": "payroll", "key": "x"}},
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
def test_a_secret_is_asked_about_wherever_it_is_named(town: Town, redis: Manifest) -> None:
    assert "you need permission to get Secret payroll" in town.refusal("developer", redis=redis)


@pytest.mark.parametrize(
    "spec",
    [
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "payroll", "key": "x"}}}]},
        {"envFrom": [{"configMapRef": {"name": "plain"}}, {"secretRef": {"name": "payroll"}}]},
        {"imagePullSecrets": [{"name": "payroll"}]},
    ],
)
def test_so_it_is_among_what_the_pods_are_given(town: Town, spec: Manifest) -> None:
    assert "you need permission to get Secret payroll" in town.refusal("developer", **spec)
    town.writes("owner", **spec)


def test_the_most_secrets_that_may_be_named_are_all_asked_about(town: Town) -> None:
    def variables(count: int) -> list[Manifest]:
        key = {"secretKeyRef": {"name": "redis", "key": "password"}}
        return [{"name": f"V{number}", "valueFrom": key} for number in range(count)]

    town.writes("developer", env=variables(SECRETS))
    assert f"names more than {SECRETS} Secrets" in town.refusal("developer", env=variables(SECRETS + 1))
    town.writes("owner", env=variables(SECRETS + 1))
