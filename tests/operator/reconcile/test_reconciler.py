"""Reconciles with events between two requests. The real API server of `test_operator.py` does not allow such timing."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.api import ApiError
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.event_recorder import EventRecorder
from streamconsumer.operator.kube.status_writer import StatusWriter
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.reconcile.reconciler import REPORTED_FAILURES, Reconciler
from streamconsumer.operator.reconcile.status_debounce import StatusDebounce
from streamconsumer.operator.redis_monitor.monitor import RedisMonitor
from streamconsumer.operator.redis_monitor.monitored_stream import (
    EndpointId,
    MonitoredStream,
    Observation,
    ObservationEffect,
    PollTarget,
)
from streamconsumer.operator.settings import OperatorSettings
from tests.model.examples import consumer, manifest, stored

KEY = ("shop", "orders")
SETTINGS = OperatorSettings()


class FakeKubeClient(KubeClient):
    """A client that stores applied objects, records its requests, and runs code of a test during a request."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.reads: list[str] = []
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.before_status: Callable[[], None] = lambda: None
        self.exists = True
        self.latest = 1
        self.consumer: Manifest = {}

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        self.reads.append(kind)
        return self.consumer if kind == names.KIND else self.objects.get((kind, name))

    async def apply(self, manifest: Manifest) -> Manifest:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        self.requests.append(f"apply {kind}")
        self.latest += 1
        metadata = {**manifest["metadata"], "uid": f"{kind}-1", "resourceVersion": str(self.latest)}
        self.objects[kind, name] = {**manifest, "metadata": metadata}
        return self.objects[kind, name]

    async def apply_status(self, namespace: str, name: str, status: Manifest) -> Manifest | None:
        self.requests.append("apply status")
        self.before_status()
        self.latest += 1
        metadata = {**self.consumer["metadata"], "resourceVersion": str(self.latest)}
        return {**self.consumer, "metadata": metadata, "status": status} if self.exists else None

    async def delete(self, manifest: Manifest) -> None:
        self.requests.append(f"delete {manifest['kind']}")

    async def create_event(
        self, regarding: Manifest, *, reason: str, message: str, warning: bool, at: datetime
    ) -> None:
        self.requests.append(f"event {reason}")


class FakeRedisMonitor(RedisMonitor):
    """A monitor that polls no stream."""

    def __init__(self) -> None:
        self.unwatched: list[Key] = []

    def watch(
        self,
        stream: MonitoredStream | None,
        consumer: StreamConsumer,
        target: PollTarget,
        on_observation: Callable[[Observation], ObservationEffect],
    ) -> MonitoredStream:
        return stream or MonitoredStream(
            (consumer.namespace, consumer.name), EndpointId("", "", 0), on_observation, target
        )

    def unwatch(self, stream: MonitoredStream) -> None:
        self.unwatched.append(stream.key)


class Fixture:
    """A reconciler with its cache and fake clients."""

    def __init__(self, resource: Manifest | None = None) -> None:
        self.cache, self.kube, self.monitor = ObjectCache(lambda _: None), FakeKubeClient(), FakeRedisMonitor()
        self.reconciler = Reconciler(
            self.kube,
            self.kube,
            self.cache,
            SETTINGS,
            self.monitor,
            EventRecorder(self.kube),
            StatusWriter(self.kube),
            status_debounce=StatusDebounce(quiet_period=timedelta(0)),
        )
        self.manifest = self.kube.consumer = stored(resource or manifest())
        self.cache.upsert(self.manifest)

    async def reconcile(self) -> timedelta | None:
        self.kube.requests = []
        delay = await self.reconciler.reconcile(KEY)
        writing = asyncio.create_task(self.reconciler.events.run())
        await asyncio.sleep(0)  # the fake client never waits, so one iteration writes all Events
        writing.cancel()
        return delay

    def put(self, changed: Manifest) -> None:
        """Update the cache as a watch does. The object gets a later version."""
        self.kube.latest += 1
        metadata = {**changed["metadata"], "resourceVersion": str(self.kube.latest)}
        changed = {**changed, "metadata": metadata}
        if changed["kind"] == names.KIND:
            self.manifest = self.kube.consumer = changed
        self.cache.upsert(changed)


def ready(resource: Manifest) -> dict[str, Any]:
    (condition,) = [each for each in resource["status"]["conditions"] if each["type"] == "Ready"]
    return dict(condition)


async def test_the_first_reconcile_creates_the_children_and_records_one_event() -> None:
    fixture = Fixture()
    await fixture.reconcile()
    assert fixture.kube.requests == ["apply ServiceAccount", "apply Deployment", "apply status", "event Created"]


async def test_the_second_reconcile_sends_no_request() -> None:
    fixture = Fixture()
    await fixture.reconcile()
    await fixture.reconcile()
    assert fixture.kube.requests == []


async def reconcile_failing(fixture: Fixture, message: str) -> None:
    """Reconcile while the API server rejects each Deployment with an internal error."""

    async def fail(manifest: Manifest) -> Manifest:
        if manifest["kind"] != "Deployment":
            return await FakeKubeClient.apply(fixture.kube, manifest)
        fixture.kube.requests.append("apply Deployment")
        raise api_error(500, message)

    with patch.object(fixture.kube, "apply", fail), pytest.raises(ApiError):
        await fixture.reconcile()


def api_error(status: int, message: str) -> ApiError:
    error = ApiError(status=status)
    error.body = json.dumps({"message": message})
    return error


WEBHOOK_ERROR = "Internal error occurred: failed calling webhook check.example: context deadline exceeded"


async def test_a_single_failed_request_is_not_in_the_status() -> None:
    fixture = Fixture()
    for _ in range(REPORTED_FAILURES - 1):
        await reconcile_failing(fixture, WEBHOOK_ERROR)
        assert "apply status" not in fixture.kube.requests


async def test_repeated_failures_are_in_the_status_once_with_the_message_of_the_api_server() -> None:
    fixture = Fixture()
    for _ in range(REPORTED_FAILURES):
        await reconcile_failing(fixture, WEBHOOK_ERROR)
    await asyncio.sleep(0)
    condition = ready(fixture.cache.consumers[KEY])
    assert (condition["status"], condition["reason"]) == ("False", "ReconcileFailed")
    assert WEBHOOK_ERROR in condition["message"]
    types = {each["type"]: each["status"] for each in fixture.cache.consumers[KEY]["status"]["conditions"]}
    assert (types["Reconciling"], types["Stalled"]) == ("True", "False")
    await reconcile_failing(fixture, WEBHOOK_ERROR)
    assert fixture.kube.requests == ["apply Deployment"]


async def test_the_status_is_normal_again_after_a_successful_reconcile() -> None:
    fixture = Fixture()
    for _ in range(REPORTED_FAILURES):
        await reconcile_failing(fixture, WEBHOOK_ERROR)
    await fixture.reconcile()
    assert ready(fixture.cache.consumers[KEY])["reason"] == "PodsStarting"
    await reconcile_failing_edit(fixture)
    assert ready(fixture.cache.consumers[KEY])["reason"] == "PodsStarting"


async def reconcile_failing_edit(fixture: Fixture) -> None:
    """Edit the StreamConsumer, so that the next reconcile applies the Deployment."""
    status = fixture.cache.consumers[KEY]["status"]
    fixture.put({**fixture.manifest, "spec": {**fixture.manifest["spec"], "replicas": 3}, "status": status})
    await reconcile_failing(fixture, WEBHOOK_ERROR)


async def test_pods_that_run_stay_ready_while_requests_fail() -> None:
    fixture = Fixture()
    await fixture.reconcile()
    live = fixture.kube.objects["Deployment", "orders-consumer"]
    fixture.put({**live, "status": {"replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}})
    for _ in range(REPORTED_FAILURES):
        await reconcile_failing_edit(fixture)
    condition = ready(fixture.cache.consumers[KEY])
    assert (condition["status"], condition["reason"]) == ("True", "ReconcileFailed")


async def test_an_error_of_the_status_request_does_not_hide_the_first_error() -> None:
    fixture = Fixture()

    async def fail(namespace: str, name: str, status: Manifest) -> Manifest | None:
        raise api_error(500, "the status cannot be written either")

    with patch.object(fixture.kube, "apply_status", fail):
        for _ in range(REPORTED_FAILURES):
            await reconcile_failing(fixture, WEBHOOK_ERROR)


LARGE: Manifest = {"env": [{"name": f"V{number}", "value": "x" * 9000} for number in range(100)]}


async def test_a_large_streamconsumer_is_served_and_not_kept_in_memory() -> None:
    fixture = Fixture(manifest(**LARGE, telemetry={"endpoint": "http://collector:4318"}))
    await fixture.reconcile()
    assert fixture.kube.requests == ["apply ServiceAccount", "apply Deployment", "apply status", "event Created"]
    [container] = fixture.kube.objects["Deployment", "orders-consumer"]["spec"]["template"]["spec"]["containers"]
    assert LARGE["env"][0] in container["env"]
    assert len(json.dumps(fixture.cache.all_objects())) < 10_000
    status = fixture.cache.consumers[KEY]["status"]
    assert status["effective"] == {"image": "shop:1.4", "telemetryEndpoint": "http://collector:4318"}


async def test_the_second_reconcile_of_a_large_streamconsumer_only_reads() -> None:
    fixture = Fixture(manifest(**LARGE))
    await fixture.reconcile()
    fixture.put(fixture.manifest | {"status": fixture.cache.consumers[KEY]["status"]})
    fixture.kube.reads = []
    await fixture.reconcile()
    assert (fixture.kube.requests, fixture.kube.reads) == ([], ["StreamConsumer", "Deployment"])


async def test_a_large_streamconsumer_that_was_deleted_and_created_again_is_not_reconciled_with_the_old_uid() -> None:
    fixture = Fixture(manifest(**LARGE))
    fixture.kube.consumer = stored(manifest(**LARGE), uid="new")
    await fixture.reconcile()
    assert fixture.kube.requests == []


async def test_changes_to_a_large_child_are_reverted() -> None:
    """A user has changed the Deployment, and the StreamConsumer is small."""
    fixture = Fixture()
    await fixture.reconcile()
    live = fixture.kube.objects["Deployment", "orders-consumer"]
    large = {**live, "metadata": {**live["metadata"], "annotations": {"note": "x" * 400_000}}}
    large["spec"] = {**live["spec"], "replicas": 7}
    fixture.put(large)
    fixture.kube.objects["Deployment", "orders-consumer"] = large
    assert len(json.dumps(fixture.cache.all_objects())) < 10_000
    await fixture.reconcile()
    assert "apply Deployment" in fixture.kube.requests


async def test_conditions_and_fields_of_other_tools_cause_no_status_write() -> None:
    """The operator ignores conditions of other tools and fields of newer operators."""
    fixture = Fixture()
    await fixture.reconcile()
    await fixture.reconcile()
    resource = fixture.cache.consumers[KEY]
    foreign = {**ready(resource), "type": "Synced", "reason": "ArgoCD"}
    status = {**resource["status"], "lag": 3, "conditions": [*resource["status"]["conditions"], foreign]}
    fixture.put({**resource, "status": status})
    await fixture.reconcile()
    assert fixture.kube.requests == []


async def test_a_streamconsumer_that_is_deleted_during_its_status_write_is_not_cached_again() -> None:
    """Otherwise the operator would create the children again, and Kubernetes would delete them again, without end."""
    fixture = Fixture()
    fixture.kube.before_status = lambda: fixture.cache.remove(fixture.manifest) and None
    await fixture.reconcile()
    assert fixture.cache.consumers == {}
    await fixture.reconcile()
    assert fixture.kube.requests == []


async def test_a_streamconsumer_that_no_longer_exists_leaves_the_cache() -> None:
    """The watch was broken and missed the deletion."""
    fixture = Fixture()
    fixture.kube.exists = False
    await fixture.reconcile()
    assert fixture.cache.consumers == {}


async def test_a_terminating_streamconsumer_is_not_reconciled() -> None:
    fixture = Fixture()
    fixture.manifest["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    fixture.put(fixture.manifest)
    await fixture.reconcile()
    assert fixture.kube.requests == []


async def test_a_deleted_child_is_created_again() -> None:
    fixture = Fixture()
    await fixture.reconcile()
    (deployment,) = [each for each in fixture.cache.children(KEY) if each["kind"] == "Deployment"]
    fixture.cache.remove(deployment)
    fixture.kube.objects.clear()
    await fixture.reconcile()
    assert [each for each in fixture.kube.requests if each != "apply status"] == [
        "apply Deployment",
        "event Created",
    ]


async def test_children_of_a_deleted_streamconsumer_of_the_same_name_are_waited_for() -> None:
    """After kubectl delete and apply, Kubernetes may not have deleted the old Deployment yet."""
    fixture = Fixture()
    for child in desired(consumer(), SETTINGS):
        metadata = {**child["metadata"], "uid": "old", "resourceVersion": "1"}
        owner = {**metadata["ownerReferences"][0], "uid": "an-earlier-uid"}
        fixture.put({**child, "metadata": {**metadata, "ownerReferences": [owner]}})
    await fixture.reconcile()
    assert fixture.kube.requests == ["apply status"]
    condition = ready(fixture.cache.consumers[KEY])
    assert (condition["status"], condition["reason"]) == ("False", "PodsStarting")
    assert "Deployment orders-consumer" in condition["message"]


async def test_a_name_conflict_is_checked_again_after_a_delay() -> None:
    fixture = Fixture()
    foreign = {"kind": "Deployment", "metadata": {"name": "orders-consumer", "uid": "x", "namespace": "shop"}}
    fixture.kube.objects["Deployment", "orders-consumer"] = foreign
    delay = await fixture.reconcile()
    assert delay is not None
    assert timedelta() < delay <= timedelta(seconds=30)
    assert ready(fixture.cache.consumers[KEY])["reason"] == "NameConflict"
    assert fixture.kube.objects["Deployment", "orders-consumer"] is foreign


async def test_a_lasting_problem_records_one_event() -> None:
    fixture = Fixture({**manifest(), "spec": {"stream": "orders"}})
    await fixture.reconcile()
    assert fixture.kube.requests == ["apply status", "event InvalidSpec"]
    await fixture.reconcile()
    assert fixture.kube.requests == []


async def test_a_failed_event_write_does_not_fail_the_reconcile() -> None:
    fixture = Fixture()

    async def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("events is forbidden")

    fixture.kube.create_event = refuse  # type: ignore[method-assign]
    await fixture.reconcile()
    assert names.LABEL_CONSUMER in fixture.cache.consumers[KEY]["status"]["selector"]


async def test_a_source_config_map_is_kept_while_a_running_pod_mounts_it() -> None:
    """A container that restarts reads its source again."""
    fixture = Fixture(manifest(handler={"source": "x = 1"}))
    await fixture.reconcile()
    (old,) = [name for kind, name in fixture.kube.objects if kind == "ConfigMap"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "namespace": "shop", "labels": {names.LABEL_CONSUMER: "orders"}, "uid": "p"},
        "spec": {"volumes": [{"name": "source", "configMap": {"name": old}}]},
        "status": {"phase": "Running"},
    }
    fixture.put(pod)
    fixture.put(stored(manifest(handler={"source": "x = 2"})))
    await fixture.reconcile()
    assert "delete ConfigMap" not in fixture.kube.requests
    fixture.cache.remove(pod)
    await fixture.reconcile()
    assert fixture.kube.requests.count("delete ConfigMap") == 1


async def test_a_recreated_streamconsumer_is_monitored_from_the_start() -> None:
    """The reconcile sees only the new resource, which may read another stream."""
    fixture = Fixture()
    await fixture.reconcile()
    fixture.kube.objects.clear()
    for child in fixture.cache.children(KEY):
        fixture.cache.remove(child)
    fixture.put(stored(manifest(stream="returns"), uid="another"))
    await fixture.reconcile()
    assert fixture.monitor.unwatched == [KEY]
    await fixture.reconcile()
    assert fixture.monitor.unwatched == [KEY]


def copy_of_deployment(name: str) -> Manifest:
    """Return a copy of the Deployment with all its labels and without an owner."""
    (deployment,) = [each for each in desired(consumer(image="another:1"), SETTINGS) if each["kind"] == "Deployment"]
    metadata = {**deployment["metadata"], "name": name, "uid": name, "resourceVersion": "1"}
    del metadata["ownerReferences"]
    return {**deployment, "metadata": metadata, "status": {"replicas": 7}}


async def test_a_copied_deployment_is_not_reported_in_the_status() -> None:
    fixture = Fixture()
    fixture.put(copy_of_deployment("a-copy"))
    await fixture.reconcile()
    status = fixture.cache.consumers[KEY]["status"]
    assert (status["effective"]["image"], status["replicas"]) == ("shop:1.4", 0)
