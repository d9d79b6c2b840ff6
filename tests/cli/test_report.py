"""`kubectl streamconsumer report`: nothing that is planted anywhere may be found in the bundle."""

import base64
import json
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from streamconsumer.cli.report.collect import Collected
from streamconsumer.cli.report.scrub import Scrubber, guesses, secret_names
from streamconsumer.cli.report.work import scrubbed
from tests.cli.plugin import plugin
from tests.cli.test_cluster_status import container, only, pod
from tests.cluster.redis_servers import StartRedis
from tests.model.examples import manifest
from tests.operator.looking import secret
from tests.operator.operators import running
from tests.operator.places import Place, eventually

PASSWORD, URL_PASSWORD, TOKEN = "planted-1-Redis/pass word", "planted-2-in-a-url", "planted-3-in-an-annotation"
VARIABLE, FROM_SECRET, SOURCE = "planted-4-in-a-variable", "planted-5-from-a-secret", "planted-6-in-source"
ALL = (PASSWORD, URL_PASSWORD, TOKEN, VARIABLE, FROM_SECRET, SOURCE)


def shapes(planted: str) -> set[str]:
    return {planted, quote(planted, safe=""), base64.b64encode(planted.encode()).decode(), planted[:9]}


def contents(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as opened:
        return {each.name: (opened.extractfile(each) or pytest.fail(each.name)).read().decode() for each in opened}


def on_a_node_that_is_gone(name: str) -> dict[str, Any]:
    """Its log can be had from nobody."""
    spec = {"nodeName": "nowhere", "containers": [{"name": "processor", "image": "shop:1.4"}]}
    metadata = {"name": name, "labels": {"streamconsumer.dev/name": "orders"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_secrets_of_all_kinds_are_nowhere_in_a_bundle(on_api: Place, start_redis: StartRedis, tmp_path: Path) -> None:
    server = start_redis({"requirepass": f'"{PASSWORD}"'})
    secret(on_api, "redis", password=PASSWORD)
    secret(on_api, "shop", token=FROM_SECRET)
    given = manifest(
        redis={
            "url": f"redis://{server.host}:{server.port}/0",
            "passwordSecretRef": {"name": "redis", "key": "password"},
        },
        handler={"source": f"KEY = '{SOURCE}'\ndef handle(data):\n    pass\n"},
        replicas=0,
        env=[
            {"name": "API", "value": VARIABLE},
            {"name": "DATABASE", "value": f"postgres://shop:{URL_PASSWORD}@db:5432/shop"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "token"}}},
        ],
        podAnnotations={"example.com/token": TOKEN},
    )
    given["metadata"]["annotations"] = {"example.com/token": TOKEN, "example.com/spec": json.dumps(given["spec"])}
    archive = tmp_path / "bundle.tar.gz"
    with running(on_api.cluster.kubeconfig, tmp_path, watch_namespaces=on_api.namespace):
        on_api.create(given)
        eventually(lambda: on_api.conditions("orders")["Ready"])
        words = f"{PASSWORD} {VARIABLE} {FROM_SECRET} {TOKEN} postgres://x:{URL_PASSWORD}@db"
        ended = {"terminated": {"exitCode": 1, "message": words}}
        pod(on_api, "orders-consumer-a", phase="Running", containerStatuses=[container(lastState=ended)])
        on_api.create(on_a_node_that_is_gone("orders-consumer-b"))
        ran = plugin(on_api, "report", "-o", str(archive))
    assert ran.returncode == 0, ran.stderr
    assert archive.stat().st_mode & 0o777 == 0o600
    found = contents(archive)
    for planted in ALL:
        for shape in shapes(planted):
            assert [file for file, text in found.items() if shape in text] == []
    folder = f"streamconsumer-report/{on_api.namespace}/orders"
    assert json.loads(found[f"{folder}/streamconsumer.json"])["spec"]["stream"] == "orders"
    assert "example.com/token" in found[f"{folder}/streamconsumer.json"]
    assert json.loads(found[f"{folder}/deployments.json"])[0]["metadata"]["name"] == "orders-consumer"
    assert json.loads(found[f"{folder}/configmaps.json"])
    assert f"redis_version:{server.version}" in found[f"{folder}/redis.txt"]
    assert f"{folder}/logs/orders-consumer-a-processor.log" in found
    assert "nowhere" in found[f"{folder}/logs/orders-consumer-b-processor.log.refused"]
    assert "gitVersion" in found["streamconsumer-report/kubernetes-version.json"]


def test_what_one_may_not_read_stands_in_a_bundle_as_refused(on_api: Place, tmp_path: Path) -> None:
    on_api.create(manifest())
    kubeconfig, archive = only(on_api, tmp_path, "streamconsumers.streamconsumer.dev"), tmp_path / "bundle.tar.gz"
    ran = plugin(on_api, "report", "orders", "-o", str(archive), KUBECONFIG=kubeconfig)
    assert ran.returncode == 0, ran.stderr
    found = contents(archive)
    folder = f"streamconsumer-report/{on_api.namespace}/orders"
    assert f"{folder}/streamconsumer.json" in found
    for file in ("status", "pods", "events", "deployments"):
        assert "visitor" in found[f"{folder}/{file}.json.refused"]


def test_logs_lose_what_is_known_to_be_secret_and_what_is_called_so() -> None:
    found = Collected(secrets={PASSWORD, FROM_SECRET})
    lines = [
        f"connecting with {PASSWORD}",
        json.dumps({"message": f"got {FROM_SECRET}", "password": "planted-unknown"}),
        "GET http://user:planted-unknown@host/path?key=planted-unknown failed",
        "Authorization: Bearer planted-unknown.xyz",
        "api_key=planted-unknown, next",
        "message 17-0 failed: ValueError",
    ]
    found.texts["a.log"] = "\n".join(lines)
    ((_, text),) = scrubbed(found)
    assert "planted" not in text
    assert "message 17-0 failed: ValueError" in text
    assert "GET http://(removed)@host/path?(removed) failed" in text


def test_our_own_variables_stay_readable() -> None:
    env: list[dict[str, Any]] = [
        {"name": "STREAMCONSUMER_STREAM", "value": "orders"},
        {"name": "STREAMCONSUMER_REDIS_URL", "value": "redis://:planted@redis:6379/0"},
        {"name": "LEVEL", "value": "planted"},
    ]
    known = set(guesses({"env": env}))
    assert known == {"planted"}
    told = Scrubber(known).value({"env": env})["env"]
    assert [each["value"] for each in told] == ["orders", "redis://(removed)@redis:6379/0", "(removed)"]


def test_secrets_are_found_in_whichever_field_names_them() -> None:
    spec = {
        "redis": {"passwordSecretRef": {"name": "a"}},
        "env": [{"valueFrom": {"secretKeyRef": {"name": "b"}}}],
        "envFrom": [{"secretRef": {"name": "c"}}],
        "volumes": [{"secret": {"secretName": "d"}}],
    }
    assert sorted(secret_names(spec)) == ["a", "b", "c", "d"]
