"""Whose doing pods are, and that no pod is replaced for the sake of saying so."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.operator import origin
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.settings import OperatorSettings
from tests.cluster.collector import Collector
from tests.cluster.redis_servers import RedisServer
from tests.model.examples import consumer, manifest
from tests.operator.operators import running
from tests.operator.places import Place, eventually, settled
from tests.processor.group import Group
from tests.processor.pod import Pod
from tests.processor.tracing import arrived, linked, only_link

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CARRIER = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
LATER = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=1"}
ENDPOINT = {"endpoint": "http://collector:4318"}
VARIABLES = ("TRACEPARENT", "TRACESTATE")


def wanted(**spec: Any) -> Manifest:
    made = desired(consumer("orders", **{"telemetry": ENDPOINT, **spec}), OperatorSettings())
    return next(each for each in made if each["kind"] == "Deployment")


def told(
    live: Manifest | None, deployment: Manifest, carrier: dict[str, str], after: Manifest | None = None
) -> Manifest:
    """`after`: what the API server would make of it, where it must be asked."""

    async def tried(_: Manifest) -> Manifest | None:
        assert after is not None, "the API server need not be asked"
        return after

    return asyncio.run(origin.told(live, deployment, carrier, tried))


def given(deployment: Manifest) -> dict[str, Any]:
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", each) for each in container["env"] if each["name"] in VARIABLES}


def test_new_pods_are_told_who_made_them() -> None:
    made = told(None, wanted(), CARRIER)
    assert given(made) == {"TRACEPARENT": CARRIER["traceparent"]}
    assert made["metadata"]["annotations"][origin.TRACEPARENT] == CARRIER["traceparent"]
    assert (
        made["metadata"]["annotations"][names.ANNOTATION_APPLIED]
        == (wanted()["metadata"]["annotations"][names.ANNOTATION_APPLIED])
    )


@pytest.mark.parametrize("carrier", [LATER, {}], ids=["traced", "no longer traced"])
@pytest.mark.parametrize("change", [{"replicas": 3}, {"rollout": {"maxSurge": 2}}, {}], ids=str)
def test_a_template_that_stays_the_same_keeps_what_it_says(carrier: dict[str, str], change: dict[str, Any]) -> None:
    live = told(None, wanted(), CARRIER)
    assert told(live, wanted(**change), carrier)["spec"]["template"] == live["spec"]["template"]


def test_a_template_that_differs_says_who_changed_it() -> None:
    live = told(None, wanted(), CARRIER)
    after = told(live, wanted(concurrency=7), LATER)
    assert given(after) == {"TRACEPARENT": LATER["traceparent"], "TRACESTATE": "a=1"}
    assert given(told(after, wanted(concurrency=8), {})) == {}  # nobody traces any more


def test_without_tracing_a_deployment_is_applied_as_it_always_was() -> None:
    assert told(None, wanted(), {}) == wanted()
    assert told(wanted(), wanted(concurrency=7), {}) == wanted(concurrency=7)


def test_pods_that_have_no_endpoint_are_told_nothing() -> None:
    assert given(told(None, wanted(telemetry={}), CARRIER)) == {}
    own = [{"name": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "value": "http://collector:4318/v1/traces"}]
    assert given(told(None, wanted(telemetry={}, env=own), CARRIER)) != {}


def test_pods_that_were_made_before_there_was_tracing_stay_until_they_are_changed() -> None:
    live = wanted()
    noted = told(live, wanted(replicas=2), CARRIER, after=live)
    assert noted["spec"]["template"] == live["spec"]["template"]
    assert told(noted, wanted(replicas=3), CARRIER)["spec"]["template"] == live["spec"]["template"]
    assert given(told(noted, wanted(concurrency=2), CARRIER)) != {}


def test_what_the_api_server_cannot_tell_replaces_no_pods() -> None:
    live = told(None, wanted(), CARRIER)
    unsaid = {**wanted(), "metadata": {**wanted()["metadata"]}}
    live["metadata"]["annotations"][names.ANNOTATION_TEMPLATE] = "edited by hand"

    async def unknown(_: Manifest) -> None:
        return None

    assert given(asyncio.run(origin.told(live, unsaid, LATER, unknown))) == given(live)


def test_a_users_own_variable_wins_and_leaves_with_him() -> None:
    own = [{"name": "TRACEPARENT", "value": "mine"}]
    live = told(told(None, wanted(), CARRIER), wanted(env=own), LATER)
    assert given(live) == {"TRACEPARENT": "mine"}
    assert given(told(live, wanted(), {}, after=wanted())) == {}
    assert given(told(live, wanted(), LATER, after=wanted()))["TRACEPARENT"] == LATER["traceparent"]


def test_an_edit_by_hand_is_neither_taken_back_nor_repeated() -> None:
    live = told(None, wanted(), CARRIER)
    [container] = live["spec"]["template"]["spec"]["containers"]
    container["env"][-1] = {"name": "TRACEPARENT", "value": "edited"}
    assert told(live, wanted(), LATER)["spec"]["template"] == live["spec"]["template"]


def test_a_value_is_not_expanded_by_the_kubelet() -> None:
    hostile = {**CARRIER, "tracestate": "a=$(HOME)"}
    assert given(told(None, wanted(), hostile))["TRACESTATE"] == "a=$$(HOME)"


# -- on a real control plane ------------------------------------------------------------------------------------------


class Deployed:
    """The Deployment of `orders`, which Kubernetes' own controllers look after."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @property
    def live(self) -> Manifest:
        return self.place.get("Deployment", "orders-consumer")

    @property
    def variables(self) -> dict[str, Any]:
        return given(self.live)

    def rollouts(self) -> list[str]:
        """A template that was ever rolled out has a ReplicaSet."""
        path = f"/apis/apps/v1/namespaces/{self.place.namespace}/replicasets"
        items = self.place.cluster.request("GET", path)["items"]
        return sorted(each["metadata"]["name"] for each in items)

    def has_replicas(self, count: int) -> None:
        def scaled() -> None:
            assert self.live["spec"]["replicas"] == count

        eventually(scaled)
        settled(self.place)


@pytest.fixture
def told_operator(on_plane: Place, collector: Collector) -> dict[str, Any]:
    return {"watch_namespaces": on_plane.namespace, "telemetry_endpoint": collector.http_endpoint}


def test_nothing_rolls_out_for_a_trace(on_plane: Place, told_operator: dict[str, Any], tmp_path: Path) -> None:
    """Touched, scaled, repaired, and served by operators with and without tracing, all over again."""
    kubeconfig = on_plane.cluster.kubeconfig
    deployed = Deployed(on_plane)
    silent = {"watch_namespaces": on_plane.namespace}
    with running(kubeconfig, tmp_path, **told_operator):
        on_plane.create(manifest("orders", telemetry=ENDPOINT))
        settled(on_plane)
        first, rollouts = deployed.variables, deployed.rollouts()
        assert first["TRACEPARENT"].startswith("00-")
        assert len(rollouts) == 1
    for number, operator in enumerate([silent, told_operator, silent, told_operator]):
        with running(kubeconfig, tmp_path, **operator):
            on_plane.patch("StreamConsumer", "orders", {"metadata": {"labels": {"touched": str(number)}}})
            on_plane.edit("orders", replicas=number + 2)
            deployed.has_replicas(number + 2)
            on_plane.patch("Deployment", "orders-consumer", {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}})
            settled(on_plane)
            assert deployed.live["metadata"]["labels"]["app.kubernetes.io/name"] == "streamconsumer-processor"
        assert (deployed.variables, deployed.rollouts()) == (first, rollouts)


def test_what_is_changed_or_taken_out_of_the_template_is_told_to_the_new_pods(
    on_plane: Place, told_operator: dict[str, Any], tmp_path: Path
) -> None:
    deployed = Deployed(on_plane)
    with running(on_plane.cluster.kubeconfig, tmp_path, **told_operator):
        on_plane.create(manifest("orders", telemetry=ENDPOINT, env=[{"name": "A", "value": "1"}]))
        settled(on_plane)
        seen = [deployed.variables["TRACEPARENT"]]
        on_plane.edit("orders", env=[{"name": "A", "value": "2"}])
        settled(on_plane)
        seen.append(deployed.variables["TRACEPARENT"])
        on_plane.edit("orders", env=[])
        settled(on_plane)
        seen.append(deployed.variables["TRACEPARENT"])
        on_plane.edit("orders", imagePullPolicy="IfNotPresent")  # the default, said aloud
        settled(on_plane)
        assert len(set(seen)) == len(deployed.rollouts()) == 3
        assert deployed.variables["TRACEPARENT"] == seen[-1]


def test_an_edit_of_the_variable_is_followed_by_no_other(
    on_plane: Place, told_operator: dict[str, Any], tmp_path: Path
) -> None:
    deployed = Deployed(on_plane)
    with running(on_plane.cluster.kubeconfig, tmp_path, **told_operator):
        on_plane.create(manifest("orders", telemetry=ENDPOINT))
        settled(on_plane)
        on_plane.kubectl("set", "env", "deployment/orders-consumer", "TRACEPARENT=edited")
        settled(on_plane)  # or this would never come to an end
        assert len(deployed.rollouts()) == 2
        on_plane.edit("orders", replicas=2)
        deployed.has_replicas(2)
        assert (deployed.variables, len(deployed.rollouts())) == ({"TRACEPARENT": "edited"}, 2)


async def test_links_lead_from_whoever_applied_it_to_the_first_message(
    on_plane: Place, told_operator: dict[str, Any], collector: Collector, redis_server: RedisServer, tmp_path: Path
) -> None:
    """The pod is a process with the variables of the Deployment."""
    group, deployed = Group(redis_server), Deployed(on_plane)
    with running(on_plane.cluster.kubeconfig, tmp_path, **told_operator) as operator:
        made = manifest("orders", telemetry={"endpoint": collector.http_endpoint})
        made["metadata"]["annotations"] = {origin.TRACEPARENT: CARRIER["traceparent"]}
        on_plane.create(made)
        await asyncio.to_thread(settled, on_plane)
        await asyncio.to_thread(operator.stop)  # and so send what it has told
    pod = Pod(tmp_path, group.url, "pod_handlers:silent")
    try:
        pod.start(environment={**collector.environment, **deployed.variables, "OTEL_SERVICE_NAME": "orders"})
        await group.add(1)
        [process] = await arrived(collector, "process orders")
    finally:
        pod.remove()
        await group.close()
    [start] = await arrived(collector, "start orders")
    reconciles = {each.span_id: each for each in await arrived(collector, "reconcile StreamConsumer")}
    assert linked(process, "pod_start") == [start.span_id]
    reconcile = reconciles[only_link(start, "reconcile").span_id]
    assert only_link(start, "reconcile").trace_id == reconcile.trace_id
    assert [(link.trace_id, link.span_id) for link in reconcile.links] == [(TRACE, SPAN)]
    assert len({TRACE, reconcile.trace_id, start.trace_id, process.trace_id}) == 4
    assert reconcile.start_ns < start.start_ns < process.start_ns
