"""Workloads from files: pods, their environments, and the Secrets and ConfigMaps of the files."""

import base64
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streamconsumer.cli import main
from streamconsumer.cli.dev.workload import collect_config_objects, load_workloads
from streamconsumer.errors import InvalidSettings
from tests.cli.manifests import consumer, secret, write_documents


def test_environment_of_a_pod_is_that_of_the_deployment(tmp_path: Path) -> None:
    (workload,) = load_workloads([write_documents(tmp_path, consumer(concurrency=4))])
    variables = workload.environment("orders-consumer-1")
    assert variables["STREAMCONSUMER_CONCURRENCY"] == "4"
    assert variables["STREAMCONSUMER_CONSUMER_NAME"] == "orders-consumer-1"
    assert "k8s.pod.name=orders-consumer-1,k8s.pod.uid=" in variables["OTEL_RESOURCE_ATTRIBUTES"]
    assert variables["OTEL_RESOURCE_ATTRIBUTES"].endswith("k8s.node.name=localhost")


def test_each_replica_is_a_pod(tmp_path: Path) -> None:
    (workload,) = load_workloads([write_documents(tmp_path, consumer(replicas=2))])
    assert workload.pod_names == ["orders-consumer-1", "orders-consumer-2"]


def test_secret_of_the_redis_url_is_not_required(tmp_path: Path) -> None:
    assert load_workloads(
        [write_documents(tmp_path, consumer(redis={"urlSecretRef": {"name": "orders-redis", "key": "url"}}))]
    )


def test_variables_of_secrets_and_config_maps_come_from_the_files(tmp_path: Path) -> None:
    manifest = consumer(
        env=[
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "bank", "key": "token"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "x", "optional": True}}},
            {"name": "SHOP_B", "value": "$(SHOP_A)!"},
        ],
        envFrom=[
            {"configMapRef": {"name": "shop"}, "prefix": "SHOP_"},
            {"secretRef": {"name": "gone", "optional": True}},
        ],
    )
    config = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "shop"}, "data": {"A": "1", "B": "2"}}
    (workload,) = load_workloads([write_documents(tmp_path, manifest, secret("bank", token="t"), config)])
    variables = workload.environment("pod")
    assert (variables["TOKEN"], variables["SHOP_A"], variables["SHOP_B"]) == ("t", "1", "1!")
    assert "NONE" not in variables


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "shop", "key": "a"}}}]},
            "ConfigMap default/shop: not found in FILES",
        ),
        ({"envFrom": [{"secretRef": {"name": "bank"}}]}, "Secret default/bank: not found in FILES"),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "other", "key": "a"}}}]},
            "Secret default/other: key 'a' not found; the keys are b",
        ),
    ],
)
def test_reference_to_a_missing_object_or_key_is_rejected(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    file = write_documents(tmp_path, consumer(**fields), secret("other", b="1"))
    result = CliRunner().invoke(main, ["dev", str(file)])
    assert result.exit_code == 2
    assert message in result.stderr


def test_http_handler_url_is_the_port_of_the_service_on_this_machine(tmp_path: Path) -> None:
    http = {"service": "billing", "port": 8080, "path": "/orders"}
    (workload,) = load_workloads([write_documents(tmp_path, consumer(handler={"http": http}))])
    assert workload.handler_name == "http://127.0.0.1:8080/orders"
    assert workload.environment("pod")["STREAMCONSUMER_HANDLER_HTTP_URL"] == workload.handler_name


def test_string_data_overrides_base64_data() -> None:
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in {"a": "1", "b": "2"}.items()}
    objects = collect_config_objects([secret("s", b="3") | {"data": encoded}])
    assert objects.get_data("Secret", "default", {"name": "s"}) == {"a": "1", "b": "3"}


def test_invalid_base64_is_named_in_the_error() -> None:
    with pytest.raises(InvalidSettings, match=r"default/s, data\.url"):
        collect_config_objects([{"kind": "Secret", "metadata": {"name": "s"}, "data": {"url": "plain!"}}])


def test_dev_rejects_an_invalid_resource(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dev", str(write_documents(tmp_path, consumer(batchCount=0)))])
    assert result.exit_code == 2
    assert "default/orders: spec.batchCount is 0" in result.stderr


def test_dev_rejects_files_without_a_streamconsumer(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dev", str(write_documents(tmp_path, secret("bank", token="t")))])
    assert result.exit_code == 2
    assert "no streamconsumer.dev/v1alpha1 StreamConsumer in " in result.stderr
