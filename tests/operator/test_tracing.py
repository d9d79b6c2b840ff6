"""Traces of reconciles, with a real API server and a real collector."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.model.examples import manifest
from tests.operator.namespace import Namespace, wait_until_settled
from tests.operator.operator_process import OperatorProcess, running_operator

TRACEPARENT = "tracing.k8s.io/traceparent"
APPLIED_BY = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DELAY_MS = 100
RECONCILE = "reconcile StreamConsumer"


@pytest.fixture
def operator(
    api_namespace: Namespace, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OperatorProcess]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", str(DELAY_MS))
    variables = {"watch_namespaces": api_namespace.name, "telemetry_endpoint": collector.http_endpoint}
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, **variables) as operator:
        yield operator


def apply(namespace: Namespace, name: str, **annotations: str) -> None:
    resource = manifest(name)
    namespace.create({**resource, "metadata": {**resource["metadata"], "annotations": annotations}})


def reconcile_spans(spans: list[Span], name: str) -> list[Span]:
    return [each for each in spans if each.name == RECONCILE and each.attributes["streamconsumer.name"] == name]


def test_a_reconcile_that_writes_is_a_trace_linked_to_the_applier(
    api_namespace: Namespace, operator: OperatorProcess, collector: Collector
) -> None:
    apply(api_namespace, "orders", **{TRACEPARENT: APPLIED_BY})
    wait_until_settled(api_namespace)
    events = {reason for reason, _ in api_namespace.events("orders")}
    spans = collector.wait_for_spans(
        lambda spans: events <= {event.name for each in reconcile_spans(spans, "orders") for event in each.events}
    )
    [creating] = [
        each for each in reconcile_spans(spans, "orders") if "Created" in {event.name for event in each.events}
    ]
    first = min(reconcile_spans(spans, "orders"), key=lambda each: each.start_ns)
    assert [(link.trace_id, link.span_id) for link in first.links] == [tuple(APPLIED_BY.split("-")[1:3])]
    assert first.parent_span_id == ""
    assert first.attributes["k8s.namespace.name"] == api_namespace.name
    assert 0 <= first.attributes["streamconsumer.reconcile.queue_time"] < 5
    assert first.resource["service.name"] == "streamconsumer-operator"
    children = {each.name for each in spans if each.parent_span_id == first.span_id}
    assert {"PATCH serviceaccounts", "PATCH deployments"} <= children
    assert "PATCH streamconsumers/status" in {each.name for each in spans if each.trace_id == creating.trace_id}


def test_a_reconcile_that_writes_nothing_has_no_span(
    api_namespace: Namespace, operator: OperatorProcess, collector: Collector
) -> None:
    apply(api_namespace, "orders")
    wait_until_settled(api_namespace)
    collector.wait_for_spans(lambda spans: bool(reconcile_spans(spans, "orders")))
    time.sleep(1)  # ten times the export delay of the SDK
    collector.clear()
    before = api_namespace.get("Deployment", "orders-consumer")["metadata"]["resourceVersion"]
    api_namespace.patch("StreamConsumer", "orders", {"metadata": {"labels": {"edited": "yes"}}})
    wait_until_settled(api_namespace)
    time.sleep(1)
    assert reconcile_spans(collector.spans(), "orders") == []
    assert api_namespace.get("Deployment", "orders-consumer")["metadata"]["resourceVersion"] == before


def test_a_malformed_trace_annotation_is_ignored(
    api_namespace: Namespace, operator: OperatorProcess, collector: Collector
) -> None:
    garbled = ["no", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-" + "f" * 9000, "é\n"]
    names = [f"garbled-{number}" for number in range(len(garbled))]
    for name, garbage in zip(names, garbled, strict=True):
        apply(api_namespace, name, **{TRACEPARENT: garbage})
    spans = collector.wait_for_spans(lambda spans: all(reconcile_spans(spans, name) for name in names))
    assert all(each.links == () for name in names for each in reconcile_spans(spans, name))


def test_a_name_conflict_is_an_event_of_the_span(
    api_namespace: Namespace, operator: OperatorProcess, collector: Collector
) -> None:
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "orders-consumer"},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {
                "metadata": {"labels": {"app": "x"}},
                "spec": {"containers": [{"name": "x", "image": "x"}]},
            },
        },
    }
    api_namespace.create(foreign)
    apply(api_namespace, "orders")
    collector.wait_for_spans(
        lambda spans: any(
            event.name == "NameConflict" for each in reconcile_spans(spans, "orders") for event in each.events
        )
    )
