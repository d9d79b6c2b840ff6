"""Errors of `render`: they name the field, the expected form with an example, and the field that was meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from streamconsumer.cli import main
from tests.cli.manifests import consumer, write_documents


def render(folder: Path, *documents: Any) -> Result:
    return CliRunner().invoke(main, ["render", str(write_documents(folder, *documents))])


def render_text(text: str) -> Result:
    return CliRunner().invoke(main, ["render", "-"], input=text)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"concurency": 1}, "spec.concurency is not a known field; did you mean spec.concurrency?"),
        ({"maxDeliveries": 1}, "spec.maxDeliveries is not a known field; did you mean spec.delivery.maxDeliveries?"),
        ({"delivery": {"maxDelivries": 1}}, "spec.delivery.maxDelivries is not a known field; did you mean spec.deli"),
        ({"delivery": {"concurrency": 1}}, "did you mean spec.concurrency?"),
        ({"batch_count": 1}, "did you mean spec.batchCount?"),
        ({"batchcount": None}, "spec.batchcount is not a known field; did you mean spec.batchCount?"),
        ({"group": "a"}, "did you mean spec.consumerGroup?"),
        ({"labels": {}}, "did you mean spec.podLabels?"),
        ({"maxUnavailable": 1}, "did you mean spec.podDisruptionBudget.maxUnavailable or spec.rollout.maxUnavailable?"),
        (
            {"env": [{"name": "A", "valuefrom": {}}]},
            "spec.env[0].valuefrom is not a known field; did you mean spec.env[0]",
        ),
        ({"affinity": {}}, "spec.affinity is not a known field; check its spelling"),
        ({"env": [{"name": "A", "value": 1}]}, 'spec.env[0].value is 1: must be text in quotes, such as "1"'),
        ({"env": {"A": "b"}}, 'spec.env: must be a list, such as [{"name": "DEBUG", "value": "1"}]'),
        (
            {"env": [{"name": "1A"}]},
            "spec.env[0].name is '1A': must contain only letters, digits and _, and must not b",
        ),
        ({"startFrom": 0}, 'spec.startFrom is 0: must be text in quotes, such as "0"'),
        ({"image": True}, 'spec.image is True: must be text in quotes, such as "true"'),
        ({"batchCount": "10"}, "spec.batchCount is '10': must be an integer, without quotes, such as 10"),
        ({"suspend": "yes"}, "spec.suspend is 'yes': must be true or false, without quotes, such as true"),
        ({"drainTimeout": 30}, "spec.drainTimeout is 30: must be a duration such as 500ms, 30s or 1m30s"),
        ({"handler": "a:b"}, 'spec.handler must be an object, such as {"python": "shop.orders:handle"}'),
        ({"handler": {"python": "a"}}, "must name a function as package.module:function, such as shop.orders:handle"),
        ({"imagePullSecrets": ["a"]}, 'spec.imagePullSecrets[0] must be an object, such as {"name": "redis-login"}'),
        ({"podLabels": ["a"]}, 'spec.podLabels: must be an object, such as {"team": "shop"}'),
        (
            {"resources": {"limits": {"cpu": 0.5}}},
            'spec.resources.limits.cpu is 0.5: must be text in quotes, such as "0.5"',
        ),
        ({"resources": {"limits": {"memory": "1 Gi"}}}, "is '1 Gi': must be a quantity, such as 256Mi"),
        (
            {"redis": "redis://user:hunter2@redis"},
            'spec.redis must be an object, such as {"url": "redis://redis:6379/0"}',
        ),
    ],
    ids=str,
)
def test_error_names_the_field_and_the_remedy(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    result = render(tmp_path, consumer(**spec))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "hunter2" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"name": 123}}, 'metadata.name is 123: must be text in quotes, such as "123"'),
        ({"metadata": {"name": "Orders"}}, "metadata.name is 'Orders': must be the name of a Kubernetes object"),
        (
            {"metadata": {"name": "orders", "labels": {"a": 1}}},
            'metadata.labels.a is 1: must be text in quotes, such as "1"',
        ),
        (
            {"metadata": {"name": "orders", "lables": {}}},
            "metadata.lables is not a known field; did you mean metadata.labels?",
        ),
        ({"metadata": "orders"}, 'metadata must be an object, such as {"name": "orders"}'),
        ({"metadata": {"generateName": "orders-"}}, "it is required, also if metadata.generateName is set"),
        ({"stream": "orders"}, "stream is not a known field; did you mean spec.stream?"),
        ({"status": {"foo": 1}}, "status.foo is not a known field"),
        (
            {"kind": "Streamconsumer"},
            "found streamconsumer.dev/v1alpha1 Streamconsumer, expected streamconsumer.dev/v1a",
        ),
        ({"kind": "StreamConsumers"}, "write `kind: StreamConsumer`"),
        ({"kind": None}, "write `kind: StreamConsumer`"),
        ({"apiVersion": "streamconsumer.dev/v1"}, "write `apiVersion: streamconsumer.dev/v1alpha1`"),
        (
            {"apiVersion": None, "kind": "StreamConsumr"},
            "write `apiVersion: streamconsumer.dev/v1alpha1` and `kind: Str",
        ),
        ({"apiVersion": "example.com/v1"}, "write `apiVersion: streamconsumer.dev/v1alpha1`"),
        ({"apiVersion": "streamconsumers.dev/v1alpha1", "kind": "Stream"}, "expected streamconsumer.dev/v1alpha1"),
    ],
    ids=str,
)
def test_document_around_the_spec_is_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    result = render(tmp_path, {**consumer(), **changes})
    assert result.exit_code == 2
    assert message in result.stderr


def test_document_of_another_kind_is_ignored(tmp_path: Path) -> None:
    others = [
        {
            "apiVersion": "example.com/v1",
            "kind": "RedisStreamConsumer",
            "metadata": {"name": "a"},
            "spec": {"stream": 1},
        },
        {"replicaCount": 1, "image": {"tag": "1"}},
    ]
    result = render(tmp_path, *others, consumer())
    assert (result.exit_code, result.stderr) == (0, "")


def test_list_stands_for_its_items(tmp_path: Path) -> None:
    """`kubectl get -o yaml` prints a list."""
    for api_version, kind in (("v1", "List"), ("streamconsumer.dev/v1alpha1", "StreamConsumerList")):
        wrapped = {"apiVersion": api_version, "kind": kind, "items": [consumer("a"), consumer("b")]}
        result = render(tmp_path, wrapped)
        assert result.exit_code == 0, result.stderr
        assert "name: a-consumer" in result.stdout
        assert "name: b-consumer" in result.stdout
    assert "items of kind List must be a list" in render(tmp_path, {"kind": "List", "items": "a"}).stderr


def test_stored_resource_is_rendered(tmp_path: Path) -> None:
    stored = {"uid": "u", "resourceVersion": "7", "generation": 1, "creationTimestamp": "2026-01-31T12:00:00Z"}
    managed = [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}, "time": "2026-01-31T12:00:00Z"}]
    document = consumer()
    document["metadata"] |= {**stored, "managedFields": managed}
    assert render(tmp_path, {**document, "status": {"observedGeneration": 1}}).exit_code == 0


def test_numbers_are_the_numbers_of_kubectl() -> None:
    text = yaml.safe_dump(consumer(resources={"limits": {"memory": "LIMIT"}}))
    result = render_text(text.replace("LIMIT", "1e3"))
    assert result.exit_code == 0, result.stderr
    assert "memory: '1000'" in result.stdout


@pytest.mark.parametrize("quantity", ["1e3", "+1", ".5", "5.", "1Pi", "100n", "1E", 1])
def test_every_quantity_of_kubernetes_is_accepted(tmp_path: Path, quantity: Any) -> None:
    assert render(tmp_path, consumer(resources={"limits": {"memory": quantity}})).exit_code == 0


@pytest.mark.parametrize("quantity", ["-1", "1K", "1e", "1e999", "e3", ".", "1 Mi", ""])
def test_text_that_is_no_quantity_is_refused(tmp_path: Path, quantity: Any) -> None:
    assert "must be a quantity" in render(tmp_path, consumer(resources={"limits": {"memory": quantity}})).stderr


def test_service_whose_name_begins_with_a_digit_is_accepted(tmp_path: Path) -> None:
    assert render(tmp_path, consumer(handler={"http": {"service": "1svc"}})).exit_code == 0


def test_duplicate_key_is_refused_with_its_lines() -> None:
    text = yaml.safe_dump(consumer())
    result = render_text(f"{text}  batchCount: 1\n  batchCount: 2\n")
    assert result.exit_code == 2
    assert "found the key 'batchCount', which line" in result.stderr
