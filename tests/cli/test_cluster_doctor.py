"""`kubectl streamconsumer doctor NAME`: real API server and Redis. There is no kubelet: a script in kubectl's place
runs what is to be run in a pod."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.cli.plugin import SCRIPTS, CompletedCommand, run_plugin
from tests.cli.test_cluster_status import container, only, pod
from tests.cluster.redis_servers import RedisServer
from tests.model.examples import manifest
from tests.operator.namespace import Namespace
from tests.operator.redis_operator import manifest_for
from tests.processor.pod import Pod

KUBECTL = """#!{python}
import os, sys
open({log!r}, "w").write(" ".join(sys.argv[1:]))
os.environ.update({environment!r})
os.chdir({folder!r})
command = sys.argv[sys.argv.index("--") + 1 :]
os.execvp(command[0], command)
"""


def in_pods(folder: Path, environment: dict[str, str]) -> str:
    """A PATH on which `kubectl exec` finds itself in a pod with this environment."""
    place, program = folder / "bin", folder / "bin" / "kubectl"
    place.mkdir()
    program.write_text(
        KUBECTL.format(python=sys.executable, log=str(folder / "asked"), environment=environment, folder=str(folder))
    )
    program.chmod(0o755)
    return os.pathsep.join([str(place), str(SCRIPTS), os.environ["PATH"]])


def document(ran: CompletedCommand) -> Any:
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)


def running_pod(place: Namespace, name: str, *, ready: bool) -> None:
    pod(place, name, phase="Running", containerStatuses=[container(ready=ready)])


def test_a_pod_that_is_ready_looks_at_what_it_needs(
    on_api: Namespace, redis_server: RedisServer, tmp_path: Path
) -> None:
    on_api.create(manifest_for(redis_server))
    running_pod(on_api, "orders-consumer-a", ready=False)
    running_pod(on_api, "orders-consumer-b", ready=True)
    inside = Pod(tmp_path, redis_server.url, "pod_handlers:log_handled", consumer_name="orders-consumer-b").environment
    inside.pop("PATH")
    ran = run_plugin(on_api, "doctor", "orders", "-o", "json", PATH=in_pods(tmp_path, inside))
    found = document(ran)
    assert found["pod"]["name"] == "orders-consumer-b"
    assert "handler pod_handlers:log_handled" in {each["object"] for each in found["pod"]["passed"]}
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(f"exec -n {on_api.name} orders-consumer-b -c processor -- ")
    told = {each["object"]: each["found"] for each in found["cluster"]["passed"]}
    assert told["CustomResourceDefinition"] == "contains every field of this version"
    assert told["your permissions"] == "you have every permission that the commands use"
    wrong = {each["object"]: each["found"] for each in found["cluster"]["findings"]}
    assert wrong == {
        "operator": "no Deployment in any namespace",
        "StreamConsumer orders": "no valid status",
    }
    assert ran.returncode == 1


def test_an_operator_that_runs_and_a_healthy_resource_without_pods_is_not_all_that_could_be_looked_at(
    on_api: Namespace,
) -> None:
    labels = {"app.kubernetes.io/component": "operator", "app.kubernetes.io/part-of": "streamconsumer"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "operator", "image": "operator:1"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "the-operator", "labels": labels}
    on_api.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    on_api.patch("Deployment", "the-operator", {"status": {"replicas": 2, "readyReplicas": 2}}, "/status")
    created = on_api.create(manifest(replicas=0))
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "ScaledToZero",
        "message": "",
        "lastTransitionTime": "2026-11-25T12:00:00Z",
    }
    status = {"observedGeneration": created["metadata"]["generation"], "conditions": [ready]}
    on_api.patch("StreamConsumer", "orders", {"status": status}, "/status")
    ran = run_plugin(on_api, "doctor", "orders", "-o", "json")
    found = document(ran)
    assert ran.returncode == 3, ran.stdout
    assert found["pod"] is None
    assert [each["found"] for each in found["cluster"]["findings"]] == ["no pod is running"]
    told = {each["object"]: each["found"] for each in found["cluster"]["passed"]}
    assert told[f"operator {on_api.name}/the-operator"] == "2 of 2 pods ready, operator:1"


def test_whoever_lacks_rights_is_told_which(on_api: Namespace, tmp_path: Path) -> None:
    on_api.create(manifest())
    kubeconfig = only(on_api, tmp_path, "streamconsumers.streamconsumer.dev")
    ran = run_plugin(on_api, "doctor", "orders", "-o", "json", KUBECONFIG=kubeconfig)
    wrong = {each["found"] for each in document(ran)["cluster"]["findings"]}
    assert wrong >= {
        "you are not allowed to list pods",
        "you are not allowed to list events.events.k8s.io",
        "you are not allowed to list its pods",
    }
    assert ran.returncode == 1, ran.stderr


def test_a_pod_that_cannot_be_asked_says_why(on_api: Namespace) -> None:
    on_api.create(manifest())
    running_pod(on_api, "orders-consumer-a", ready=True)
    ran = run_plugin(on_api, "doctor", "orders", "-o", "json")
    (why,) = [each for each in document(ran)["cluster"]["findings"] if each["object"] == "checks in a pod"]
    assert why["found"].startswith("pod orders-consumer-a could not run the checks: ")
