"""An admission webhook that does not answer: the API server refuses every write of a Deployment."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator

WEBHOOK = "check.webhook.example"


@contextmanager
def unreachable_webhook(namespace: Namespace) -> Iterator[None]:
    """Let the API server ask a webhook on a closed port about each Deployment of the namespace."""
    api_version, name = "admissionregistration.k8s.io/v1", f"unreachable-{namespace.name}"
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["deployments"],
    }
    webhook = {
        "name": WEBHOOK,
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    kind, path = "ValidatingWebhookConfiguration", f"/apis/{api_version}/validatingwebhookconfigurations"
    body = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "webhooks": [webhook]}
    namespace.cluster.request("POST", path, body)
    try:
        yield
    finally:
        namespace.cluster.request("DELETE", f"{path}/{name}")


def test_an_unreachable_webhook_is_named_in_the_status_and_in_one_event_until_it_answers(
    api_namespace: Namespace, tmp_path: Path
) -> None:
    kubeconfig = api_namespace.cluster.kubeconfig
    with running_operator(kubeconfig, tmp_path, watch_namespaces=api_namespace.name):
        with unreachable_webhook(api_namespace):
            api_namespace.create(manifest())

            def reported() -> None:
                resource = api_namespace.get("StreamConsumer", "orders")
                assert resource["status"]["observedGeneration"] == resource["metadata"]["generation"]
                conditions = api_namespace.conditions("orders")
                assert conditions["Ready"]["reason"] == "ReconcileFailed"
                assert WEBHOOK in conditions["Ready"]["message"]
                assert conditions["Reconciling"]["status"] == "True"
                assert conditions["Stalled"]["status"] == "False"
                [(reason, note)] = api_namespace.events("orders")
                assert reason == "ReconcileFailed"
                assert WEBHOOK in note

            eventually(reported, 60)

        def recovered() -> None:
            assert api_namespace.reason("orders") == "PodsStarting"
            assert api_namespace.get("Deployment", "orders-consumer")

        eventually(recovered, 60)
