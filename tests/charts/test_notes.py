"""Notes that `helm install` prints."""

import pytest

from streamconsumer.model.spec import StreamConsumer
from tests.charts.rendering import CHART, NAMESPACE, Helm, parse_documents

pytestmark = pytest.mark.cluster

NEEDS_NO_CLUSTER = ("--dry-run=client", "--namespace", NAMESPACE)
HELM = Helm("helm")
"""Helm 4 only: `install` has no option for the Kubernetes version, see rendering.KUBERNETES."""


def notes(*arguments: str) -> str:
    completed = HELM.run("install", "streamconsumer", str(CHART), *NEEDS_NO_CLUSTER, *arguments)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.split("NOTES:\n")[1]


def consumer_in(text: str) -> StreamConsumer:
    _, _, applied = text.partition("<<'EOF'\n")
    manifest_text, _, _ = applied.partition("\nEOF\n")
    (manifest,) = parse_documents(manifest_text)
    return StreamConsumer.parse(manifest)


def test_notes_contain_a_valid_stream_consumer() -> None:
    consumer = consumer_in(notes())
    assert consumer.spec.image is None
    compile(consumer.spec.handler.source or "", "handler", "exec")


def test_notes_publish_to_the_stream_of_the_consumer() -> None:
    text = notes()
    assert f"XADD {consumer_in(text).spec.stream} '*'" in text
    assert f"get stc {consumer_in(text).name}" in text


def test_notes_use_a_watched_namespace() -> None:
    text = notes("--set", "watchNamespaces={shop,billing}")
    assert "of shop, billing" in text
    assert consumer_in(text).namespace == "shop"
    assert "-n default" not in text


def test_null_means_an_empty_list() -> None:
    values = "watchNamespaces=null,test.redisUrl=redis://redis:6379/0"
    assert "of all namespaces" in notes("--set", values)


def test_notes_show_the_telemetry_endpoint() -> None:
    assert "http://collector:4318" in notes("--set", "telemetry.endpoint=http://collector:4318")


def test_notes_warn_in_one_line_without_a_telemetry_endpoint() -> None:
    warnings = [line for line in notes().splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "telemetry.endpoint" in warnings[0]


@pytest.mark.parametrize(
    ("network", "is_dangerous"),
    [
        ("127.0.0.1", True),
        ("169.254.169.254/32", True),
        ("0.0.0.0/1", True),
        ("::1", True),
        ("fd00:ec2::254/128", True),
        ("10.0.0.0/8", False),
        ("fe80::/10", False),
    ],
)
def test_notes_warn_of_an_exception_for_the_own_host_or_a_metadata_service(network: str, is_dangerous: bool) -> None:
    text = notes("--set", f"allowedDestinations={{{network}}},telemetry.endpoint=http://collector:4318")
    assert (f"WARNING: allowedDestinations contains {network}." in text) is is_dangerous


def test_notes_mention_helm_test_when_it_is_configured() -> None:
    assert "helm test" not in notes()
    text = notes("--set", "test.redisUrl=redis://redis.shop:6379/0")
    assert f"helm test streamconsumer --namespace {NAMESPACE} --logs" in text
