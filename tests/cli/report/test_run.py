"""`kubectl streamconsumer report` with a real API server and a real Redis.

A kubelet stub serves logs, and a fake kubectl runs the commands of pods on this machine.
"""

import base64
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import ANY
from urllib.parse import quote

from streamconsumer.cli.report.bundle import Bundle
from streamconsumer.cli.report.run import _read_secrets
from streamconsumer.model.field_hints import quote_name
from streamconsumer.operator.kube.api import KubeApi
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.processor.health import Health, ProbeServer
from streamconsumer.processor.metrics import Metrics, build_registry
from tests.cli.plugin import CompletedCommand, restricted_kubeconfig, run_plugin
from tests.cli.pods import container_status, path_with_fake_kubectl
from tests.cli.report.kubelet import kubelet
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator
from tests.operator.redis_operator import create_secret
from tests.processor.pod import Pod

PASSWORD, TOKEN, API_KEY = "planted-1-Redis/pass word", "planted-2-in-a-pod", "planted-3-of-all-keys"
PLANTED = "planted"


def contents(archive: Path) -> dict[str, str]:
    """Return the texts of the archive by file name."""
    with tarfile.open(archive) as opened:
        files = {each.name.partition("/")[2]: opened.extractfile(each) for each in opened}
        return {name: file.read().decode() for name, file in files.items() if file}


def left_out(files: dict[str, str]) -> dict[str, str]:
    """Return the reasons of omitted files and values."""
    reasons: dict[str, str] = json.loads(files["contents.json"])["leftOut"]
    return reasons


def create_consumer_pod(place: Namespace, name: str, *, port: int = 8080, node: str = "", **status: Any) -> None:
    """Create a pod like those of the Deployment, with a Secret that only the pod references."""
    processor = {
        "name": "processor",
        "image": "shop:1.4",
        "ports": [{"name": "http", "containerPort": port}],
        "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "token"}}}],
    }
    spec = {"containers": [processor], **({"nodeName": node} if node else {})}
    metadata = {"name": name, "labels": {"streamconsumer.dev/name": "orders"}}
    place.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    place.patch("Pod", name, {"status": {"phase": "Running", **status}}, "/status")


def manifest_with_secrets(place: Namespace, server: RedisServer, **spec: Any) -> Manifest:
    """Create Secrets and return a StreamConsumer with user texts in every field that accepts them."""
    create_secret(place, "redis", password=PASSWORD)
    create_secret(place, "shop", token=TOKEN)
    create_secret(place, "all", key=API_KEY, debug="true", pin="123")
    return manifest(
        redis={
            "url": f"redis://{server.host}:{server.port}/0",
            "passwordSecretRef": {"name": "redis", "key": "password"},
        },
        env=[{"name": "DATABASE", "value": "postgres://shop:planted-4@db:5432/shop"}],
        envFrom=[{"secretRef": {"name": "all"}}],
        podAnnotations={"example.com/note": "planted-5"},
        podLabels={"example.com/team": "planted-6"},
        **spec,
    )


@contextmanager
def metrics() -> Iterator[int]:
    """Serve the metrics of a processor and yield the port."""
    processor_metrics = Metrics(delivered=7)
    endpoint = ProbeServer(
        Health(), build_registry(processor_metrics, {"stream": "orders", "consumer_group": "billing"}), "127.0.0.1", 0
    )
    endpoint.start()
    try:
        yield endpoint.port
    finally:
        endpoint.stop()


def create_report(place: Namespace, archive: Path, *options: str, **environment: str) -> dict[str, str]:
    ran: CompletedCommand = run_plugin(place, "report", "orders", "-o", str(archive), *options, **environment)
    assert ran.returncode == 0, ran.stderr
    return contents(archive)


def test_report_without_logs_contains_only_allowed_fields(
    api_namespace: Namespace, start_redis: StartRedis, tmp_path: Path
) -> None:
    server = start_redis({"requirepass": f'"{PASSWORD}"'})
    resource = manifest_with_secrets(
        api_namespace, server, handler={"source": "KEY = 'planted-7'\ndef handle(data):\n    pass\n"}
    )
    resource["metadata"] |= {"annotations": {"example.com/note": "planted-8"}, "labels": {"team": "planted-9"}}
    archive = tmp_path / "bundle.tar.gz"
    archive.touch(0o644)
    variables = Pod(
        tmp_path,
        f"redis://{server.host}:{server.port}/0",
        "pod_handlers:log_handled",
        consumer_name="orders-consumer-a",
    ).environment
    variables.pop("PATH")
    with (
        metrics() as port,
        running_operator(api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=api_namespace.name),
    ):
        api_namespace.create(resource)
        eventually(lambda: api_namespace.conditions("orders")["Ready"])
        message = f"failed with {PASSWORD} and {TOKEN} and http://u:planted-10@h"
        ended = {"terminated": {"exitCode": 1, "message": message}}
        create_consumer_pod(
            api_namespace, "orders-consumer-a", port=port, containerStatuses=[container_status(lastState=ended)]
        )
        files = create_report(api_namespace, archive, PATH=path_with_fake_kubectl(tmp_path, variables))
    assert archive.stat().st_mode & 0o777 == 0o600
    for text in (PLANTED, quote(PASSWORD, safe=""), base64.b64encode(PASSWORD.encode()).decode()):
        assert [file for file, content in files.items() if text in content] == []
    folder = f"{api_namespace.name}/orders"
    spec = json.loads(files[f"{folder}/streamconsumer.json"])["spec"]
    assert spec["stream"] == "orders"
    assert spec["env"] == [{"name": "DATABASE"}]
    assert spec["podAnnotations"] == ["example.com/note"]
    (deployment,) = json.loads(files[f"{folder}/deployments.json"])
    assert deployment["metadata"]["name"] == "orders-consumer"
    assert deployment["containers"][0].keys() <= {"name", "image", "resources"}
    status = json.loads(files[f"{folder}/status.json"])
    assert status["pods"][0]["exitMessage"].startswith(
        f"failed with (removed: Secret {api_namespace.name}/redis, key pass"
    )
    doctor = json.loads(files[f"{folder}/doctor.json"])
    assert doctor["pod"], doctor
    assert doctor["pod"]["name"] == "orders-consumer-a"
    events = json.loads(files[f"{folder}/events.json"])
    assert {"kind": "StreamConsumer", "name": "orders"} in [each["regarding"] for each in events]
    samples = json.loads(files[f"{folder}/metrics/orders-consumer-a.json"])
    assert {each["name"]: each["value"] for each in samples}["streamconsumer_delivered_total"] == 7
    assert json.loads(files["versions.json"])["kubernetes"]["gitVersion"].startswith("v1.")
    listed = json.loads(files["contents.json"])
    assert listed["files"] == sorted(files)
    assert listed["notRemoved"][f"Secret {api_namespace.name}/all, key debug"] == "a common word"
    assert not any("/logs/" in file for file in files)


def test_logs_are_added_without_the_values_of_referenced_secrets(
    api_namespace: Namespace, redis_server: RedisServer, tmp_path: Path
) -> None:
    api_namespace.create(manifest_with_secrets(api_namespace, redis_server))
    lines = [
        f"connecting with {PASSWORD}",
        json.dumps({"message": f"token {TOKEN}", "url": f"redis://:{quote(PASSWORD)}@redis"}),
        f"Authorization: Basic {base64.b64encode(f'shop:{API_KEY}'.encode()).decode()}",
        "-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----",
        "message 17-0 failed: ValueError; debug is true",
    ]
    logs = {"orders-consumer-a/processor": "\n".join(lines), "orders-consumer-a/processor/previous": f"it was {TOKEN}"}
    with kubelet(api_namespace, tmp_path, logs) as node:
        create_consumer_pod(
            api_namespace,
            "orders-consumer-a",
            node=node.node,
            containerStatuses=[container_status(ready=True, restartCount=1)],
        )
        create_consumer_pod(api_namespace, "orders-consumer-b", node=node.node)
        files = create_report(api_namespace, tmp_path / "bundle.tar.gz", "--logs")
    folder = f"{api_namespace.name}/orders/logs"
    log = files[f"{folder}/orders-consumer-a-processor.log"]
    password, token = (
        f"(removed: Secret {api_namespace.name}/{name})" for name in ("redis, key password", "shop, key token")
    )
    assert log.splitlines()[0] == f"connecting with {password}"
    assert log.splitlines()[-1] == "message 17-0 failed: ValueError; debug is true"
    assert files[f"{folder}/orders-consumer-a-processor-previous.log"] == f"it was {token}"
    for text in (PLANTED, quote(PASSWORD), base64.b64encode(b"hop:planted-3").decode()[4:]):
        assert [file for file, content in files.items() if text in content] == []
    removed = json.loads(files["contents.json"])["removed"]
    assert removed[f"Secret {api_namespace.name}/shop, key token"] == 2
    assert removed["PEM block"] == 1
    assert node.requested_lines == dict.fromkeys([*logs, "orders-consumer-b/processor"], 2000)
    assert f"{folder}/orders-consumer-b-processor.log" in left_out(files)


def test_logs_are_omitted_if_a_referenced_secret_is_not_readable(api_namespace: Namespace, tmp_path: Path) -> None:
    resources = ("streamconsumers.streamconsumer.dev", "pods", "pods/log", "events.events.k8s.io")
    ref = {"name": "redis", "key": "password"}
    api_namespace.create(manifest(redis={"url": "redis://redis:6379/0", "passwordSecretRef": ref}))
    with kubelet(api_namespace, tmp_path, {"orders-consumer-a/processor": PASSWORD}) as node:
        create_consumer_pod(api_namespace, "orders-consumer-a", node=node.node)
        visitor = restricted_kubeconfig(api_namespace, tmp_path, *resources)
        files = create_report(api_namespace, tmp_path / "bundle.tar.gz", "--logs", KUBECONFIG=visitor)
    reasons = left_out(files)
    for name in ("redis", "shop"):
        assert "visitor" in reasons[f"Secret {api_namespace.name}/{name}"]
        assert f"Secret {api_namespace.name}/{name}" in reasons["logs"]
    assert node.requested_lines == {}
    assert f"{api_namespace.name}/orders/status.json" in files


def test_logs_are_omitted_if_a_required_secret_does_not_exist(api_namespace: Namespace, tmp_path: Path) -> None:
    optional = {"name": "absent", "optional": True}
    api_namespace.create(manifest(envFrom=[{"secretRef": optional}], imagePullSecrets=[{"name": "absent-too"}]))
    api_namespace.create(manifest("returns", envFrom=[{"secretRef": {"name": "absent"}}]))
    for name in ("orders", "returns"):
        ran = run_plugin(api_namespace, "report", name, "--logs", "-o", str(tmp_path / name))
        assert ran.returncode == 0, ran.stderr
    assert "logs" not in left_out(contents(tmp_path / "orders"))
    reasons = left_out(contents(tmp_path / "returns"))
    assert reasons[f"Secret {api_namespace.name}/absent"] == "not found or empty"
    assert f"Secret {api_namespace.name}/absent" in reasons["logs"]


def test_refused_requests_are_listed_with_the_reason(api_namespace: Namespace, tmp_path: Path) -> None:
    api_namespace.create(manifest())
    kubeconfig = restricted_kubeconfig(api_namespace, tmp_path, "streamconsumers.streamconsumer.dev")
    files = create_report(api_namespace, tmp_path / "bundle.tar.gz", "--logs", KUBECONFIG=kubeconfig)
    folder = f"{api_namespace.name}/orders"
    assert f"{folder}/streamconsumer.json" in files
    for name in ("pods", "status.json", "deployments.json"):
        assert "visitor" in left_out(files)[f"{folder}/{name}"]
    assert "you are not allowed to list its pods" in files[f"{folder}/doctor.json"]


async def test_secret_name_that_is_a_path_is_not_requested() -> None:
    """An older CRD accepted such a name."""
    name = "../configmaps/kube-root-ca.crt"
    ref = {"name": name, "key": "ca.crt"}
    stored = manifest(redis={"url": "redis://redis:6379/0", "passwordSecretRef": ref})
    without_server = KubeClient(cast("KubeApi", None))  # a request would raise AttributeError
    unknown = await _read_secrets(Bundle(), without_server, [{**stored, "metadata": {"namespace": "shop"}}])
    assert unknown == {f"Secret shop/{quote_name(name)}": ANY}


def test_archive_in_a_missing_folder_is_wrong_use(api_namespace: Namespace, tmp_path: Path) -> None:
    api_namespace.create(manifest())
    ran = run_plugin(api_namespace, "report", "orders", "-o", os.fspath(tmp_path / "absent" / "bundle.tar.gz"))
    assert ran.returncode == 2
    assert "cannot be written" in ran.stderr
