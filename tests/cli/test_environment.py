"""A container's environment as the kubelet makes it, and where Secrets come from."""

import base64
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streamconsumer.cli import main
from streamconsumer.cli.dev.kubelet_env import ConfigObjects, expand, host_env, resolve
from streamconsumer.cli.dev.workload import collect_config_objects, load_workloads
from streamconsumer.errors import InvalidSettings
from tests.cli.manifests import consumer, secret, write_documents

FIELDS = {"metadata.name": "orders-x", "metadata.namespace": "default"}
NO_OBJECTS = ConfigObjects({})


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("a $(POD) b", "a orders-x b"),
        ("$(POD)$(POD)", "orders-xorders-x"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(POD)", "$(POD)"),
        ("$$$(POD)", "$orders-x"),
        ("$POD ${POD} $", "$POD ${POD} $"),
        ("$(POD", "$(POD"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expanded: str) -> None:
    assert expand(text, {"POD": "orders-x"}) == expanded


def test_a_variable_sees_only_those_above_it() -> None:
    entries = [
        {"name": "EARLY", "value": "$(LATE)"},
        {"name": "LATE", "value": "late"},
        {"name": "LAST", "value": "$(LATE)"},
    ]
    found = resolve({"env": entries}, FIELDS, NO_OBJECTS)
    assert found == {"EARLY": "$(LATE)", "LATE": "late", "LAST": "late"}


def test_a_field_reference_gives_the_pods_own_facts() -> None:
    entry = {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert resolve({"env": [entry]}, FIELDS, NO_OBJECTS) == {"POD": "orders-x"}


def test_what_dev_cannot_resolve_is_an_error_and_not_an_empty_variable() -> None:
    entry = {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}
    with pytest.raises(InvalidSettings, match="CPU"):
        resolve({"env": [entry]}, FIELDS, NO_OBJECTS)


def test_a_pod_sees_nothing_of_the_shell_but_what_a_process_needs() -> None:
    shell = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "OTEL_SDK_DISABLED": "true", "PYTHONPATH": "lib"}
    found = host_env(shell, [Path("/orders")])
    assert found["PATH"] == "/bin"
    assert not {"AWS_SECRET_ACCESS_KEY", "OTEL_SDK_DISABLED"} & found.keys()
    assert found["PYTHONPATH"] == f"/orders:{Path('lib').absolute()}"


def test_the_pods_environment_is_the_deployments(tmp_path: Path) -> None:
    (workload,) = load_workloads([write_documents(tmp_path, consumer(concurrency=4))])
    found = workload.environment("orders-consumer-1")
    assert found["STREAMCONSUMER_CONCURRENCY"] == "4"
    assert found["STREAMCONSUMER_CONSUMER_NAME"] == "orders-consumer-1"
    assert "k8s.pod.name=orders-consumer-1,k8s.pod.uid=" in found["OTEL_RESOURCE_ATTRIBUTES"]
    assert found["OTEL_RESOURCE_ATTRIBUTES"].endswith("k8s.node.name=localhost")


def test_each_replica_has_a_pod(tmp_path: Path) -> None:
    (workload,) = load_workloads([write_documents(tmp_path, consumer(replicas=2))])
    assert workload.pod_names == ["orders-consumer-1", "orders-consumer-2"]


def test_the_secret_of_the_redis_url_is_not_needed(tmp_path: Path) -> None:
    assert load_workloads(
        [write_documents(tmp_path, consumer(redis={"urlSecretRef": {"name": "orders-redis", "key": "url"}}))]
    )


def test_variables_of_secrets_and_config_maps_come_from_the_same_files(tmp_path: Path) -> None:
    given = consumer(
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
    (workload,) = load_workloads([write_documents(tmp_path, given, secret("bank", token="t"), config)])
    found = workload.environment("pod")
    assert (found["TOKEN"], found["SHOP_A"], found["SHOP_B"]) == ("t", "1", "1!")
    assert "NONE" not in found


@pytest.mark.parametrize(
    ("fields", "sentence"),
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
def test_variables_from_what_is_not_in_the_files_are_refused(
    tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    file = write_documents(tmp_path, consumer(**fields), secret("other", b="1"))
    result = CliRunner().invoke(main, ["dev", str(file)])
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_a_service_is_looked_for_on_its_port_of_this_machine(tmp_path: Path) -> None:
    http = {"service": "billing", "port": 8080, "path": "/orders"}
    (workload,) = load_workloads([write_documents(tmp_path, consumer(handler={"http": http}))])
    assert workload.handler_name == "http://127.0.0.1:8080/orders"
    assert workload.environment("pod")["STREAMCONSUMER_HANDLER_HTTP_URL"] == workload.handler_name


def test_string_data_wins_over_data_and_data_is_base64() -> None:
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in {"a": "1", "b": "2"}.items()}
    found = collect_config_objects([secret("s", b="3") | {"data": encoded}])
    assert found.get_data("Secret", "default", {"name": "s"}) == {"a": "1", "b": "3"}


def test_data_that_is_not_base64_is_named() -> None:
    with pytest.raises(InvalidSettings, match=r"default/s, data\.url"):
        collect_config_objects([{"kind": "Secret", "metadata": {"name": "s"}, "data": {"url": "plain!"}}])


def test_dev_refuses_what_the_operator_would_refuse(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dev", str(write_documents(tmp_path, consumer(batchCount=0)))])
    assert result.exit_code == 2
    assert "default/orders: spec.batchCount is 0" in result.stderr


def test_files_without_a_streamconsumer_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dev", str(write_documents(tmp_path, secret("bank", token="t")))])
    assert result.exit_code == 2
    assert "no streamconsumer.dev/v1alpha1 StreamConsumer in " in result.stderr
