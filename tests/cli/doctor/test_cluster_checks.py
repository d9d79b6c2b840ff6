"""Checks of a cluster: `kubectl streamconsumer doctor NAME` with a real API server and a real Redis.

No kubelet runs: a fake kubectl runs the commands of a pod on this machine.
"""

import json
from pathlib import Path
from typing import Any

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
    labels = {"app.kubernetes.io/component": "operator", "app.kubernetes.io/part-of": "streamconsumer"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "operator", "image": "operator:1"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "the-operator", "labels": labels}
    api_namespace.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
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
