"""`kubectl streamconsumer report`: real API server and Redis. A server in the kubelet's place has logs; a script in
kubectl's place runs the commands of pods."""

import base64
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamconsumer.processor.health import Health, ProbeServer
from streamconsumer.processor.metrics import Metrics, build_registry
from tests.cli.kubelet import kubelet
from tests.cli.plugin import CompletedCommand, run_plugin
from tests.cli.test_cluster_doctor import in_pods
from tests.cli.test_cluster_status import container, only
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator
from tests.operator.redis_operator import create_secret
from tests.processor.pod import Pod

PASSWORD, TOKEN, API_KEY = "planted-1-Redis/pass word", "planted-2-in-a-pod", "planted-3-of-all-keys"
PLANTED = "planted"


def contents(archive: Path) -> dict[str, str]:
    """Texts by file name below the folder of the archive."""
    with tarfile.open(archive) as opened:
        files = {each.name.partition("/")[2]: opened.extractfile(each) for each in opened}
        return {name: file.read().decode() for name, file in files.items() if file}


def left_out(found: dict[str, str]) -> dict[str, str]:
    reasons: dict[str, str] = json.loads(found["contents.json"])["leftOut"]
    return reasons


def consumer_pod(place: Namespace, name: str, *, port: int = 8080, node: str = "", **status: Any) -> None:
    """A pod as the Deployment would create it, with a Secret that only the pod names."""
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


def with_secrets(place: Namespace, server: RedisServer, **spec: Any) -> Manifest:
    """A StreamConsumer with Secrets in its namespace, and texts in each field that takes a text of the user."""
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
    """The port of a processor's metrics."""
    counted = Metrics(delivered=7)
    endpoint = ProbeServer(
        Health(), build_registry(counted, {"stream": "orders", "consumer_group": "billing"}), "127.0.0.1", 0
    )
    endpoint.start()
    try:
        yield endpoint.port
    finally:
        endpoint.stop()


def reported(place: Namespace, archive: Path, *options: str, **environment: str) -> dict[str, str]:
    ran: CompletedCommand = run_plugin(place, "report", "orders", "-o", str(archive), *options, **environment)
    assert ran.returncode == 0, ran.stderr
    return contents(archive)


def test_a_bundle_without_logs_has_the_allowed_fields_and_no_text_of_the_user(
    on_api: Namespace, start_redis: StartRedis, tmp_path: Path
) -> None:
    server = start_redis({"requirepass": f'"{PASSWORD}"'})
    given = with_secrets(on_api, server, handler={"source": "KEY = 'planted-7'\ndef handle(data):\n    pass\n"})
    given["metadata"] |= {"annotations": {"example.com/note": "planted-8"}, "labels": {"team": "planted-9"}}
    archive = tmp_path / "bundle.tar.gz"
    archive.touch(0o644)
    inside = Pod(
        tmp_path,
        f"redis://{server.host}:{server.port}/0",
        "pod_handlers:log_handled",
        consumer_name="orders-consumer-a",
    ).environment
    inside.pop("PATH")
    with metrics() as port, running_operator(on_api.cluster.kubeconfig, tmp_path, watch_namespaces=on_api.name):
        on_api.create(given)
        eventually(lambda: on_api.conditions("orders")["Ready"])
        words = f"failed with {PASSWORD} and {TOKEN} and http://u:planted-10@h"
        ended = {"terminated": {"exitCode": 1, "message": words}}
        consumer_pod(on_api, "orders-consumer-a", port=port, containerStatuses=[container(lastState=ended)])
        found = reported(on_api, archive, PATH=in_pods(tmp_path, inside))
    assert archive.stat().st_mode & 0o777 == 0o600
    for text in (PLANTED, quote(PASSWORD, safe=""), base64.b64encode(PASSWORD.encode()).decode()):
        assert [file for file, whole in found.items() if text in whole] == []
    folder = f"{on_api.name}/orders"
    spec = json.loads(found[f"{folder}/streamconsumer.json"])["spec"]
    assert spec["stream"] == "orders"
    assert spec["env"] == [{"name": "DATABASE"}]
    assert spec["podAnnotations"] == ["example.com/note"]
    (deployment,) = json.loads(found[f"{folder}/deployments.json"])
    assert deployment["metadata"]["name"] == "orders-consumer"
    assert deployment["containers"][0].keys() <= {"name", "image", "resources"}
    status = json.loads(found[f"{folder}/status.json"])
    assert status["pods"][0]["exitMessage"].startswith(f"failed with (removed: Secret {on_api.name}/redis, key pass")
    doctor = json.loads(found[f"{folder}/doctor.json"])
    assert doctor["pod"], doctor
    assert doctor["pod"]["name"] == "orders-consumer-a"
    events = json.loads(found[f"{folder}/events.json"])
    assert {"kind": "StreamConsumer", "name": "orders"} in [each["regarding"] for each in events]
    samples = json.loads(found[f"{folder}/metrics/orders-consumer-a.json"])
    assert {each["name"]: each["value"] for each in samples}["streamconsumer_delivered_total"] == 7
    assert json.loads(found["versions.json"])["kubernetes"]["gitVersion"].startswith("v1.")
    listed = json.loads(found["contents.json"])
    assert listed["files"] == sorted(found)
    assert listed["notRemoved"][f"Secret {on_api.name}/all, key debug"] == "a common word"
    assert not any("/logs/" in file for file in found)


def test_logs_of_a_real_api_server_are_in_the_bundle_without_the_values_of_the_named_secrets(
    on_api: Namespace, redis_server: RedisServer, tmp_path: Path
) -> None:
    on_api.create(with_secrets(on_api, redis_server))
    lines = [
        f"connecting with {PASSWORD}",
        json.dumps({"message": f"token {TOKEN}", "url": f"redis://:{quote(PASSWORD)}@redis"}),
        f"Authorization: Basic {base64.b64encode(f'shop:{API_KEY}'.encode()).decode()}",
        "-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----",
        "message 17-0 failed: ValueError; debug is true",
    ]
    logs = {"orders-consumer-a/processor": "\n".join(lines), "orders-consumer-a/processor/previous": f"it was {TOKEN}"}
    with kubelet(on_api, tmp_path, logs) as node:
        consumer_pod(
            on_api, "orders-consumer-a", node=node.node, containerStatuses=[container(ready=True, restartCount=1)]
        )
        consumer_pod(on_api, "orders-consumer-b", node=node.node)
        found = reported(on_api, tmp_path / "bundle.tar.gz", "--logs")
    folder = f"{on_api.name}/orders/logs"
    log = found[f"{folder}/orders-consumer-a-processor.log"]
    password, token = (f"(removed: Secret {on_api.name}/{name})" for name in ("redis, key password", "shop, key token"))
    assert log.splitlines()[0] == f"connecting with {password}"
    assert log.splitlines()[-1] == "message 17-0 failed: ValueError; debug is true"
    assert found[f"{folder}/orders-consumer-a-processor-previous.log"] == f"it was {token}"
    for text in (PLANTED, quote(PASSWORD), base64.b64encode(b"hop:planted-3").decode()[4:]):
        assert [file for file, whole in found.items() if text in whole] == []
    removed = json.loads(found["contents.json"])["removed"]
    assert removed[f"Secret {on_api.name}/shop, key token"] == 2
    assert removed["PEM block"] == 1
    assert node.requested_lines == dict.fromkeys([*logs, "orders-consumer-b/processor"], 2000)
    assert f"{folder}/orders-consumer-b-processor.log" in left_out(found)


def test_logs_are_left_out_if_a_named_secret_is_not_readable(on_api: Namespace, tmp_path: Path) -> None:
    resources = ("streamconsumers.streamconsumer.dev", "pods", "pods/log", "events.events.k8s.io")
    ref = {"name": "redis", "key": "password"}
    on_api.create(manifest(redis={"url": "redis://redis:6379/0", "passwordSecretRef": ref}))
    with kubelet(on_api, tmp_path, {"orders-consumer-a/processor": PASSWORD}) as node:
        consumer_pod(on_api, "orders-consumer-a", node=node.node)
        visitor = only(on_api, tmp_path, *resources)
        found = reported(on_api, tmp_path / "bundle.tar.gz", "--logs", KUBECONFIG=visitor)
    reasons = left_out(found)
    for name in ("redis", "shop"):
        assert "visitor" in reasons[f"Secret {on_api.name}/{name}"]
        assert f"Secret {on_api.name}/{name}" in reasons["logs"]
    assert node.requested_lines == {}
    assert f"{on_api.name}/orders/status.json" in found


def test_logs_are_left_out_if_a_named_secret_does_not_exist_unless_it_is_optional(
    on_api: Namespace, tmp_path: Path
) -> None:
    optional = {"name": "absent", "optional": True}
    on_api.create(manifest(envFrom=[{"secretRef": optional}], imagePullSecrets=[{"name": "absent-too"}]))
    on_api.create(manifest("returns", envFrom=[{"secretRef": {"name": "absent"}}]))
    for name in ("orders", "returns"):
        ran = run_plugin(on_api, "report", name, "--logs", "-o", str(tmp_path / name))
        assert ran.returncode == 0, ran.stderr
    assert "logs" not in left_out(contents(tmp_path / "orders"))
    reasons = left_out(contents(tmp_path / "returns"))
    assert reasons[f"Secret {on_api.name}/absent"] == "not found or empty"
    assert f"Secret {on_api.name}/absent" in reasons["logs"]


def test_what_the_api_server_refuses_is_listed_with_the_reason(on_api: Namespace, tmp_path: Path) -> None:
    on_api.create(manifest())
    kubeconfig = only(on_api, tmp_path, "streamconsumers.streamconsumer.dev")
    found = reported(on_api, tmp_path / "bundle.tar.gz", "--logs", KUBECONFIG=kubeconfig)
    folder = f"{on_api.name}/orders"
    assert f"{folder}/streamconsumer.json" in found
    for what in ("pods", "status.json", "deployments.json"):
        assert "visitor" in left_out(found)[f"{folder}/{what}"]
    assert "you are not allowed to list its pods" in found[f"{folder}/doctor.json"]


def test_a_secret_name_that_is_a_path_is_not_asked_for(on_api: Namespace, tmp_path: Path) -> None:
    ref = {"name": "../configmaps/kube-root-ca.crt", "key": "ca.crt"}
    on_api.create(manifest(redis={"url": "redis://redis:6379/0", "passwordSecretRef": ref}))
    found = reported(on_api, tmp_path / "bundle.tar.gz")
    assert left_out(found)[f"Secret {on_api.name}/{ref['name']}"] == "not a valid name of a Secret"


def test_an_archive_in_a_folder_that_does_not_exist_is_wrong_use(on_api: Namespace, tmp_path: Path) -> None:
    on_api.create(manifest())
    ran = run_plugin(on_api, "report", "orders", "-o", os.fspath(tmp_path / "absent" / "bundle.tar.gz"))
    assert ran.returncode == 2
    assert "cannot be written" in ran.stderr
