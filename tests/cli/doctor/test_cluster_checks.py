"""Checks of a cluster: `kubectl streamconsumer doctor NAME` with a real API server and a real Redis.

No kubelet runs: a fake kubectl runs the commands of a pod on this machine.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from tests.charts.rendering import ROOT
from tests.cli.plugin import CompletedCommand, restricted_kubeconfig, run_plugin
from tests.cli.pods import container_status, create_pod, path_with_fake_kubectl
from tests.cluster.redis_servers import RedisServer
from tests.model.examples import manifest
from tests.operator.namespace import Namespace
from tests.operator.redis_operator import manifest_for
from tests.processor.pod import Pod


def document(ran: CompletedCommand) -> Any:
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)


def create_running_pod(place: Namespace, name: str, *, ready: bool) -> None:
    create_pod(place, name, phase="Running", containerStatuses=[container_status(ready=ready)])


def create_operator(place: Namespace, **pod: Any) -> None:
    """Create the Deployment of an operator, without pods."""
    labels = {"app.kubernetes.io/component": "operator", "app.kubernetes.io/part-of": "streamconsumer"}
    containers = [{"name": "operator", "image": "operator:1", **pod.pop("container", {})}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers, **pod}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "the-operator", "labels": labels}
    place.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def test_checks_run_in_a_ready_pod(api_namespace: Namespace, redis_server: RedisServer, tmp_path: Path) -> None:
    api_namespace.create(manifest_for(redis_server))
    create_running_pod(api_namespace, "orders-consumer-a", ready=False)
    create_running_pod(api_namespace, "orders-consumer-b", ready=True)
    variables = Pod(
        tmp_path, redis_server.url, "pod_handlers:log_handled", consumer_name="orders-consumer-b"
    ).environment
    variables.pop("PATH")
    ran = run_plugin(api_namespace, "doctor", "orders", "-o", "json", PATH=path_with_fake_kubectl(tmp_path, variables))
    diagnosis = document(ran)
    assert diagnosis["pod"]["name"] == "orders-consumer-b"
    assert "handler pod_handlers:log_handled" in {each["object"] for each in diagnosis["pod"]["passed"]}
    arguments = (tmp_path / "kubectl-arguments").read_text()
    assert arguments.startswith(f"exec -n {api_namespace.name} orders-consumer-b -c processor -- ")
    passed = {each["object"]: each["found"] for each in diagnosis["cluster"]["passed"]}
    assert passed["CustomResourceDefinition"] == "contains every field of this version"
    assert passed["your permissions"] == "you have every permission that the commands use"
    findings = {each["object"]: each["found"] for each in diagnosis["cluster"]["findings"]}
    assert findings == {
        "operator": "no Deployment in any namespace",
        "StreamConsumer orders": "no valid status",
    }
    assert ran.returncode == 1


def test_exit_code_is_3_for_a_healthy_resource_without_pods(
    api_namespace: Namespace,
) -> None:
    create_operator(api_namespace)
    api_namespace.patch("Deployment", "the-operator", {"status": {"replicas": 2, "readyReplicas": 2}}, "/status")
    created = api_namespace.create(manifest(replicas=0))
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "ScaledToZero",
        "message": "",
        "lastTransitionTime": "2026-11-25T12:00:00Z",
    }
    status = {"observedGeneration": created["metadata"]["generation"], "conditions": [ready]}
    api_namespace.patch("StreamConsumer", "orders", {"status": status}, "/status")
    ran = run_plugin(api_namespace, "doctor", "orders", "-o", "json")
    diagnosis = document(ran)
    assert ran.returncode == 3, ran.stdout
    assert diagnosis["pod"] is None
    assert [each["found"] for each in diagnosis["cluster"]["findings"]] == ["no pod is running"]
    passed = {each["object"]: each["found"] for each in diagnosis["cluster"]["passed"]}
    assert passed[f"operator {api_namespace.name}/the-operator"] == "2 of 2 pods ready, operator:1"


def test_missing_permissions_are_listed(api_namespace: Namespace, tmp_path: Path) -> None:
    api_namespace.create(manifest())
    kubeconfig = restricted_kubeconfig(api_namespace, tmp_path, "streamconsumers.streamconsumer.dev")
    ran = run_plugin(api_namespace, "doctor", "orders", "-o", "json", KUBECONFIG=kubeconfig)
    findings = {each["found"] for each in document(ran)["cluster"]["findings"]}
    assert findings >= {
        "you are not allowed to list pods",
        "you are not allowed to list events.events.k8s.io",
        "you are not allowed to list its pods",
    }
    assert ran.returncode == 1, ran.stderr


def test_failed_exec_is_reported_with_the_reason(api_namespace: Namespace) -> None:
    api_namespace.create(manifest())
    create_running_pod(api_namespace, "orders-consumer-a", ready=True)
    ran = run_plugin(api_namespace, "doctor", "orders", "-o", "json")
    (finding,) = [each for each in document(ran)["cluster"]["findings"] if each["object"] == "checks in a pod"]
    assert finding["found"].startswith("pod orders-consumer-a could not run the checks: ")


FROM_SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "bank", "key": "token"}}}


def secret_checks(place: Namespace, **more: str) -> tuple[list[Any], list[Any]]:
    """Return the findings and the passed checks about Secrets."""
    cluster = document(run_plugin(place, "doctor", "orders", "-o", "json", **more))["cluster"]
    subject = f"Secrets in namespace {place.name}"
    findings, passed = (
        [each for each in cluster[kind] if each["object"] == subject] for kind in ("findings", "passed")
    )
    return findings, passed


def test_the_printed_command_allows_the_operator_to_read_secrets(api_namespace: Namespace) -> None:
    role = ROOT / "k8s/base/secret-reader-clusterrole.yaml"
    api_namespace.cluster.kubectl("apply", "-f", str(role))
    create_operator(api_namespace, serviceAccountName="runner")
    api_namespace.create(manifest(env=[FROM_SECRET]))
    (finding,), passed = secret_checks(api_namespace)
    assert finding["command"] == (
        f"kubectl create rolebinding streamconsumer-secret-reader -n {api_namespace.name} "
        f"--clusterrole=streamconsumer-secret-reader --serviceaccount={api_namespace.name}:runner"
    )
    assert (finding["severity"], passed) == ("warning", [])
    assert f"command: {finding['command']}\n" in run_plugin(api_namespace, "doctor", "orders").stdout
    api_namespace.cluster.kubectl(*shlex.split(finding["command"])[1:])
    findings, (check,) = secret_checks(api_namespace)
    assert findings == []
    assert check["found"] == f"operator {api_namespace.name}/the-operator is allowed to get them"


def test_an_operator_of_other_namespaces_needs_no_permission(api_namespace: Namespace) -> None:
    variable = {"name": "STREAMCONSUMER_OPERATOR_WATCH_NAMESPACES", "value": "other"}
    create_operator(api_namespace, container={"env": [variable]})
    api_namespace.create(manifest(env=[FROM_SECRET]))
    assert secret_checks(api_namespace) == ([], [])


def test_an_operator_of_some_namespaces_needs_a_binding_to_the_role(api_namespace: Namespace) -> None:
    variable = {"name": "STREAMCONSUMER_OPERATOR_WATCH_NAMESPACES", "value": f"other,{api_namespace.name}"}
    create_operator(api_namespace, container={"env": [variable]})
    api_namespace.create(manifest(env=[FROM_SECRET]))
    (finding,), _ = secret_checks(api_namespace)
    assert " --role=streamconsumer-secret-reader --serviceaccount=" in finding["command"]


def test_a_stream_consumer_without_secrets_needs_no_permission(api_namespace: Namespace) -> None:
    create_operator(api_namespace)
    api_namespace.create(manifest())
    assert secret_checks(api_namespace) == ([], [])


def test_the_status_decides_if_the_user_may_not_see_the_operator(api_namespace: Namespace, tmp_path: Path) -> None:
    redis = {"url": "redis://redis:6379", "passwordSecretRef": {"name": "redis", "key": "password"}}
    api_namespace.create(manifest(redis=redis))
    kubeconfig = restricted_kubeconfig(api_namespace, tmp_path, "streamconsumers.streamconsumer.dev")
    assert secret_checks(api_namespace, KUBECONFIG=kubeconfig) == ([], [])
    condition = {
        "type": "RedisReachable",
        "status": "Unknown",
        "reason": "SecretsNotReadable",
        "message": "run: rm -rf",
        "lastTransitionTime": "2026-11-25T12:00:00Z",
    }
    status = {"observedGeneration": 1, "conditions": [condition]}
    api_namespace.patch("StreamConsumer", "orders", {"status": status}, "/status")
    (finding,), _ = secret_checks(api_namespace, KUBECONFIG=kubeconfig)
    assert finding["command"].endswith("--serviceaccount=OPERATOR_NAMESPACE:OPERATOR_SERVICE_ACCOUNT")
    assert "rm -rf" not in json.dumps(finding), "a tenant may have written the status"
