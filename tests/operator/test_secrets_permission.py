"""The permission to read Secrets, with the RBAC objects of the chart on a real API server.

A RoleBinding grants and revokes the permission. Deployments have pods, because the controllers of Kubernetes run.
"""

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.operator.rbac import SECRET_READER
from tests.charts.rendering import Helm, Manifest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.credentials import User
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.operator.namespace import Namespace, eventually, wait_until_settled
from tests.operator.operator_process import OperatorProcess
from tests.operator.redis_operator import create_secret, manifest_for, redis_client, wait_for_condition

ACCOUNT = "streamconsumer-operator"
PASSWORD = "hunter2"
TOKEN_OF_BANK = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "bank", "key": "token"}}}
CHECK_SECONDS = 2
QUICK_OPERATOR = f"""
from datetime import timedelta
from streamconsumer.operator import main
from streamconsumer.operator.kube import secret_reader

secret_reader.CHECK_INTERVAL = timedelta(seconds={CHECK_SECONDS})
secret_reader.TICK = timedelta(seconds=0.2)
main.run()
"""


class QuickOperator(OperatorProcess):
    """An operator that checks the permission every two seconds instead of every minute."""

    command = (sys.executable, "-c", QUICK_OPERATOR)


class Installation:
    """The chart's RBAC objects, an operator with the chart's ServiceAccount, and the namespace of a tenant."""

    def __init__(self, cluster: ControlPlane, system: str, tenant: str, folder: Path) -> None:
        self.cluster, self.system, self.folder = cluster, system, folder
        self.tenant = Namespace(cluster, tenant)
        self.operator: OperatorProcess | None = None

    def apply_rbac(self, *arguments: str) -> None:
        rendered = Helm("helm").template("--namespace", self.system, *arguments)
        kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
        self.cluster.apply(*(each for each in rendered if each["kind"] in kinds))

    def start(self, **settings: object) -> None:
        """Start the operator, or start it again."""
        self.stop()
        path = f"/api/v1/namespaces/{self.system}/serviceaccounts/{ACCOUNT}/token"
        token = self.cluster.request("POST", path, {"spec": {}})["status"]["token"]
        user = User(token, ACCOUNT, "")
        kubeconfig = self.cluster.credentials.write_kubeconfig(self.folder / "kubeconfig", self.cluster.url, user)
        self.operator = QuickOperator(kubeconfig, self.folder, stream_interval="1s", **settings)
        self.operator.start().wait_until_started()

    def stop(self) -> None:
        if self.operator:
            self.operator.kill()

    def revoke(self) -> None:
        self.tenant.kubectl("delete", "rolebinding", *self.bindings())

    def bindings(self) -> list[str]:
        return (
            self.tenant.kubectl("get", "rolebindings", "-o", "name")
            .replace("rolebinding.rbac.authorization.k8s.io/", "")
            .split()
        )

    def template(self, name: str = "orders") -> Manifest:
        template: Manifest = self.tenant.get("Deployment", f"{name}-consumer")["spec"]["template"]
        return template

    def pods(self, name: str = "orders") -> set[str]:
        """Return the uids of the pods."""
        pods = self.tenant.list_all("Pod", f"?labelSelector={names.LABEL_CONSUMER}={name}")
        return {pod["metadata"]["uid"] for pod in pods}

    def known(self, name: str = "orders") -> str:
        """Return the annotation with the objects whose hash the operator knows."""
        annotations = self.tenant.get("Deployment", f"{name}-consumer")["metadata"]["annotations"]
        return str(annotations.get(names.ANNOTATION_KNOWN_REFERENCES, ""))

    def change_secret(self, name: str, **data: str) -> None:
        path = f"/api/v1/namespaces/{self.tenant.name}/secrets/{name}"
        self.cluster.request("PATCH", path, {"stringData": data})

    def requests(self) -> list[Manifest]:
        """Return the requests of the operator in the audit log."""
        user = f"system:serviceaccount:{self.system}:{ACCOUNT}"
        lines = map(json.loads, self.cluster.audit_log.read_text().splitlines())
        return [line for line in lines if line["user"]["username"] == user]


@pytest.fixture
def installation(control_plane_with_crd: ControlPlane, tmp_path: Path) -> Iterator[Installation]:
    # The operator would also check its permission in the namespaces of earlier tests.
    control_plane_with_crd.kubectl("delete", "streamconsumers", "--all", "--all-namespaces")
    with fresh_namespace(control_plane_with_crd) as system, fresh_namespace(control_plane_with_crd) as tenant:
        installed = Installation(control_plane_with_crd, system, tenant, tmp_path)
        installed.apply_rbac()
        try:
            yield installed
        finally:
            installed.stop()
            control_plane_with_crd.kubectl("delete", "clusterrole,clusterrolebinding", "-l", "helm.sh/chart")


@pytest.fixture
def redis(start_redis: StartRedis) -> RedisServer:
    return start_redis({"requirepass": PASSWORD})


def consumer_with_credentials(server: RedisServer, name: str = "orders", **spec: Any) -> Manifest:
    ref = {"name": "redis", "key": "password"}
    return manifest_for(server, name, password=ref, env=[TOKEN_OF_BANK], **spec)


def create_secrets(namespace: Namespace) -> None:
    create_secret(namespace, "redis", password=PASSWORD)
    create_secret(namespace, "bank", token="x")


def command_in(message: str) -> list[str]:
    """Return the arguments of the kubectl command in a condition."""
    match = re.search(r"run: kubectl (.*)$", message)
    assert match, message
    return shlex.split(match[1])


def holds(check: Callable[[], bool], namespace: Namespace) -> None:
    """Check that the operator has settled and the condition still holds."""
    wait_until_settled(namespace, 0.5)
    assert check()


@pytest.mark.timeout(400)
def test_the_printed_command_grants_the_permission_and_restarts_no_pod(
    installation: Installation, redis: RedisServer
) -> None:
    tenant, scaling = installation.tenant, {"minReplicas": 0, "cooldown": "1h"}
    create_secrets(tenant)
    installation.start()
    tenant.create(consumer_with_credentials(redis, autoscaling=scaling))
    active = wait_for_condition(tenant, "orders", "ScalingActive", "SecretsNotReadable")
    reachable = wait_for_condition(tenant, "orders", "RedisReachable", "SecretsNotReadable")
    assert (active["status"], reachable["status"]) == ("False", "Unknown")
    command = (
        f"create rolebinding {SECRET_READER} -n {tenant.name} --clusterrole={SECRET_READER} "
        f"--serviceaccount={installation.system}:{ACCOUNT}"
    )
    for message in (active["message"], reachable["message"]):
        assert message.endswith(f"run: kubectl {command}")
        for effect in ("monitor", "autoscale", "env or envFrom"):
            assert effect in message
    client = redis_client(redis, password=PASSWORD)
    eventually(lambda: check_replicas(tenant, 1))
    before, pods = installation.template(), eventually(lambda: check_pods(installation))

    installation.cluster.kubectl(*command_in(active["message"]))
    wait_for_condition(tenant, "orders", "RedisReachable", "Connected")
    eventually(lambda: check_status(tenant, "ScalingActive", "True"))
    eventually(lambda: check_known(installation, "Secret/bank="))
    holds(lambda: (installation.template(), installation.pods()) == (before, pods), tenant)

    installation.start()
    holds(lambda: (installation.template(), installation.pods()) == (before, pods), tenant)

    installation.change_secret("bank", token="y")
    tenant.patch("StreamConsumer", "orders", {"metadata": {"labels": {"look": "again"}}})
    eventually(lambda: check_template_changed(installation, before))
    wait_until_settled(tenant)
    after = installation.template()
    assert after["spec"] == before["spec"]

    connections = len(client.client_list())
    installation.revoke()
    wait_for_condition(tenant, "orders", "RedisReachable", "SecretsNotReadable")
    wait_for_condition(tenant, "orders", "ScalingActive", "SecretsNotReadable")
    eventually(lambda: check_less(len(client.client_list()), connections))
    pods = installation.pods()
    installation.change_secret("bank", token="z")
    tenant.patch("StreamConsumer", "orders", {"metadata": {"labels": {"look": "once-more"}}})
    eventually(lambda: check_known(installation, ""))
    holds(lambda: (installation.template(), installation.pods()) == (after, pods), tenant)
    check_replicas(tenant, 1)

    installation.start()
    holds(lambda: (installation.template(), installation.pods()) == (after, pods), tenant)
    installation.cluster.kubectl(*command_in(active["message"]))
    wait_for_condition(tenant, "orders", "RedisReachable", "Connected")
    eventually(lambda: check_known(installation, "Secret/bank="))
    holds(lambda: (installation.template(), installation.pods()) == (after, pods), tenant)
    check_requests(installation)
    client.close()


def check_requests(installation: Installation) -> None:
    """Check that the operator asked only for the Secrets of the spec, and was never refused."""
    requests = [line for line in installation.requests() if line.get("objectRef", {}).get("resource") == "secrets"]
    asked = {(line["verb"], line["objectRef"]["namespace"], line["objectRef"]["name"]) for line in requests}
    assert asked == {("get", installation.tenant.name, name) for name in ("redis", "bank")}
    refused = [line["requestURI"] for line in installation.requests() if line["responseStatus"]["code"] == 403]
    assert refused == []


def check_replicas(namespace: Namespace, expected: int) -> None:
    assert namespace.get("Deployment", "orders-consumer")["spec"]["replicas"] == expected


def check_pods(installation: Installation) -> set[str]:
    pods = installation.pods()
    assert pods
    return pods


def check_status(namespace: Namespace, kind: str, status: str) -> None:
    assert namespace.conditions("orders")[kind]["status"] == status


def check_known(installation: Installation, expected: str) -> None:
    assert installation.known().partition("=")[0] == expected.partition("=")[0]


def check_template_changed(installation: Installation, before: Manifest) -> None:
    assert installation.template()["metadata"] != before["metadata"]


def check_less(count: int, than: int) -> None:
    assert count < than


def test_revoking_at_zero_pods_starts_one_pod(installation: Installation, redis: RedisServer) -> None:
    tenant = installation.tenant
    create_secrets(tenant)
    installation.apply_rbac("--set", f"rbac.secretNamespaces={{{tenant.name}}}")
    installation.start()
    tenant.create(consumer_with_credentials(redis, autoscaling={"minReplicas": 0, "cooldown": "0s"}))
    wait_for_condition(tenant, "orders", "RedisReachable", "Connected")
    eventually(lambda: check_replicas(tenant, 0))
    installation.revoke()
    eventually(lambda: check_replicas(tenant, 1))
    wait_for_condition(tenant, "orders", "ScalingActive", "SecretsNotReadable")


def test_without_credentials_the_permission_is_not_needed(installation: Installation, start_redis: StartRedis) -> None:
    installation.start()
    installation.tenant.create(manifest_for(start_redis({}), autoscaling={"minReplicas": 1}))
    wait_for_condition(installation.tenant, "orders", "RedisReachable", "Connected")
    eventually(lambda: check_status(installation.tenant, "ScalingActive", "True"))
    reviews = [line for line in installation.requests() if "reviews" in line["requestURI"]]
    assert reviews == []


def test_an_operator_of_some_namespaces_prints_a_command_for_the_role_in_the_namespace(
    installation: Installation, redis: RedisServer
) -> None:
    tenant = installation.tenant
    create_secrets(tenant)
    installation.apply_rbac("--set", f"watchNamespaces={{{tenant.name}}}")
    installation.start(watch_namespaces=tenant.name)
    tenant.create(consumer_with_credentials(redis))
    message = wait_for_condition(tenant, "orders", "RedisReachable", "SecretsNotReadable")["message"]
    assert f"--role={SECRET_READER} " in message
    installation.cluster.kubectl(*command_in(message))
    wait_for_condition(tenant, "orders", "RedisReachable", "Connected")


def test_many_stream_consumers_cause_one_review_per_interval_and_no_refused_request(
    installation: Installation, redis: RedisServer
) -> None:
    tenant, count = installation.tenant, 40
    create_secrets(tenant)
    installation.start()
    for number in range(count):
        ref = {"name": f"redis-{number}", "key": "password"}
        tenant.create(manifest_for(redis, f"orders-{number}", password=ref, replicas=0, env=[TOKEN_OF_BANK]))
    for number in range(count):
        wait_for_condition(tenant, f"orders-{number}", "RedisReachable", "SecretsNotReadable")
    wait_until_settled(tenant, 0.5)
    requests = installation.requests()
    reviews = [line["requestReceivedTimestamp"] for line in requests if "selfsubjectaccess" in line["requestURI"]]
    gaps = [later - earlier for earlier, later in pairwise(map(datetime.fromisoformat, sorted(reviews)))]
    assert min(gaps) >= timedelta(seconds=CHECK_SECONDS) * 0.9
    assert [line for line in requests if line["responseStatus"]["code"] == 403] == []
    assert [line for line in requests if line.get("objectRef", {}).get("resource") == "secrets"] == []
