"""The notes that `helm install` prints."""

import pytest

from streamconsumer.model.spec import StreamConsumer
from tests.charts.rendering import CHART, NAMESPACE, Helm, parsed

pytestmark = pytest.mark.cluster

NEEDS_NO_CLUSTER = ("--dry-run=client", "--namespace", NAMESPACE)
HELM = Helm("helm")
"""Only Helm 4: see rendering.KUBERNETES, which `install` cannot be told."""


def notes(*arguments: str) -> str:
    done = HELM.run("install", "streamconsumer", str(CHART), *NEEDS_NO_CLUSTER, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("NOTES:\n")[1]


def consumer_in(text: str) -> StreamConsumer:
    _, _, applied = text.partition("<<'EOF'\n")
    manifest_text, _, _ = applied.partition("\nEOF\n")
    (manifest,) = parsed(manifest_text)
    return StreamConsumer.parse(manifest)


def test_the_notes_hold_a_stream_consumer_that_runs_as_it_stands() -> None:
    consumer = consumer_in(notes())
    assert consumer.spec.image is None
    compile(consumer.spec.handler.source or "", "handler", "exec")


def test_the_notes_publish_to_the_stream_that_is_read() -> None:
    text = notes()
    assert f"XADD {consumer_in(text).spec.stream} '*'" in text
    assert f"get stc {consumer_in(text).name}" in text


def test_the_notes_stay_in_a_namespace_that_is_watched() -> None:
    text = notes("--set", "watchNamespaces={shop,billing}")
    assert "of shop, billing" in text
    assert consumer_in(text).namespace == "shop"
    assert "-n default" not in text


def test_a_list_that_is_emptied_by_null_is_an_empty_list() -> None:
    nothing = "watchNamespaces=null,test.redisUrl=redis://redis:6379/0"
    assert "of all namespaces" in notes("--set", nothing)


def test_the_notes_say_where_traces_go() -> None:
    assert "http://collector:4318" in notes("--set", "telemetry.endpoint=http://collector:4318")


def test_the_notes_warn_in_one_line_when_traces_go_nowhere() -> None:
    warnings = [line for line in notes().splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "telemetry.endpoint" in warnings[0]


def test_the_notes_name_the_test_where_there_is_one() -> None:
    assert "helm test" not in notes()
    told = notes("--set", "test.redisUrl=redis://redis.shop:6379/0")
    assert f"helm test streamconsumer --namespace {NAMESPACE} --logs" in told
