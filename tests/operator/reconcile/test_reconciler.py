"""What happens between two requests, which the real API server of test_operator.py cannot be made to time."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import Status
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.event_recorder import EventRecorder
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.reconcile.reconciler import Reconciler
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


class Scripted(KubeClient):
    """Keeps what is applied, writes down what is asked, and lets a test act in the middle of a request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.before_status: Callable[[], None] = lambda: None
        self.there = True
        self.latest = 1
        self.consumer: Manifest = {}

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        return self.objects.get((kind, name))

    async def apply(self, manifest: Manifest) -> Manifest:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        self.asked.append(f"apply {kind}")
        self.latest += 1
        metadata = {**manifest["metadata"], "uid": f"{kind}-1", "resourceVersion": str(self.latest)}
        self.objects[kind, name] = {**manifest, "metadata": metadata}
        return self.objects[kind, name]

    async def apply_status(self, namespace: str, name: str, status: Status) -> Manifest | None:
        self.asked.append("apply status")
        self.before_status()
        self.latest += 1
        metadata = {**self.consumer["metadata"], "resourceVersion": str(self.latest)}
        told = status.model_dump(by_alias=True, exclude_none=True)
        return {**self.consumer, "metadata": metadata, "status": told} if self.there else None

    async def delete(self, manifest: Manifest) -> None:
        self.asked.append(f"delete {manifest['kind']}")

    async def create_event(
        self, regarding: Manifest, *, reason: str, message: str, warning: bool, at: datetime
    ) -> None:
        self.asked.append(f"event {reason}")


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


class Setting:
    """A reconciler, what it knows, and what it speaks to."""

    def __init__(self, given: Manifest | None = None) -> None:
        self.store, self.cluster, self.streams = ObjectCache(), Scripted(), FakeRedisMonitor()
        self.reconciler = Reconciler(
            self.cluster,
            self.store,
            SETTINGS,
            self.streams,
            EventRecorder(self.cluster),
            status_debounce=StatusDebounce(quiet_period=timedelta(0)),
        )
        self.manifest = self.cluster.consumer = stored(given or manifest())
        self.store.upsert(self.manifest)

    async def reconcile(self) -> timedelta | None:
        self.cluster.asked = []
        again = await self.reconciler.reconcile(KEY)
        writing = asyncio.create_task(self.reconciler.events.run())
        await asyncio.sleep(0)  # nothing in it waits before all are written
        writing.cancel()
        return again

    def put(self, changed: Manifest) -> None:
        """What a watch brings: always of a later version."""
        self.cluster.latest += 1
        metadata = {**changed["metadata"], "resourceVersion": str(self.cluster.latest)}
        changed = {**changed, "metadata": metadata}
        if changed["kind"] == names.KIND:
            self.manifest = self.cluster.consumer = changed
        self.store.upsert(changed)


def ready(told: Manifest) -> dict[str, Any]:
    (found,) = [each for each in told["status"]["conditions"] if each["type"] == "Ready"]
    return dict(found)


async def test_the_first_reconcile_creates_the_children_and_records_one_event() -> None:
    setting = Setting()
    await setting.reconcile()
    assert setting.cluster.asked == ["apply ServiceAccount", "apply Deployment", "apply status", "event Created"]


async def test_the_second_reconcile_sends_no_request() -> None:
    setting = Setting()
    await setting.reconcile()
    await setting.reconcile()
    assert setting.cluster.asked == []


async def test_conditions_and_fields_of_other_tools_cause_no_status_write() -> None:
    """Another tool's condition, or a field of a newer operator's, is none of our business."""
    setting = Setting()
    await setting.reconcile()
    await setting.reconcile()
    told = setting.store.consumers[KEY]
    foreign = {**ready(told), "type": "Synced", "reason": "ArgoCD"}
    status = {**told["status"], "lag": 3, "conditions": [*told["status"]["conditions"], foreign]}
    setting.put({**told, "status": status})
    await setting.reconcile()
    assert setting.cluster.asked == []


async def test_a_streamconsumer_that_is_deleted_during_its_status_write_is_not_cached_again() -> None:
    """Otherwise its children would be made again, for Kubernetes to delete again, for ever."""
    setting = Setting()
    setting.cluster.before_status = lambda: setting.store.remove(setting.manifest) and None
    await setting.reconcile()
    assert setting.store.consumers == {}
    await setting.reconcile()
    assert setting.cluster.asked == []


async def test_a_streamconsumer_that_no_longer_exists_leaves_the_cache() -> None:
    """Its deletion was missed: the watch was broken."""
    setting = Setting()
    setting.cluster.there = False
    await setting.reconcile()
    assert setting.store.consumers == {}


async def test_a_terminating_streamconsumer_is_not_reconciled() -> None:
    setting = Setting()
    setting.manifest["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    setting.put(setting.manifest)
    await setting.reconcile()
    assert setting.cluster.asked == []


async def test_a_deleted_child_is_created_again() -> None:
    setting = Setting()
    await setting.reconcile()
    (deployment,) = [each for each in setting.store.children(KEY) if each["kind"] == "Deployment"]
    setting.store.remove(deployment)
    setting.cluster.objects.clear()
    await setting.reconcile()
    assert [each for each in setting.cluster.asked if each != "apply status"] == [
        "apply Deployment",
        "event Created",
    ]


async def test_children_of_a_deleted_streamconsumer_of_the_same_name_are_waited_for() -> None:
    """kubectl delete and apply in one breath: Kubernetes has not collected the old Deployment yet."""
    setting = Setting()
    for child in desired(consumer(), SETTINGS):
        metadata = {**child["metadata"], "uid": "old", "resourceVersion": "1"}
        owner = {**metadata["ownerReferences"][0], "uid": "an-earlier-life"}
        setting.put({**child, "metadata": {**metadata, "ownerReferences": [owner]}})
    await setting.reconcile()
    assert setting.cluster.asked == ["apply status"]
    told = ready(setting.store.consumers[KEY])
    assert told["status"], told["reason"] == ("False", "PodsStarting")
    assert "Deployment orders-consumer" in told["message"]


async def test_a_name_conflict_is_checked_again_after_a_delay() -> None:
    setting = Setting()
    foreign = {"kind": "Deployment", "metadata": {"name": "orders-consumer", "uid": "x", "namespace": "shop"}}
    setting.cluster.objects["Deployment", "orders-consumer"] = foreign
    again = await setting.reconcile()
    assert again is not None
    assert timedelta() < again <= timedelta(seconds=30)
    assert ready(setting.store.consumers[KEY])["reason"] == "NameConflict"
    assert setting.cluster.objects["Deployment", "orders-consumer"] is foreign


async def test_a_lasting_problem_records_one_event() -> None:
    setting = Setting({**manifest(), "spec": {"stream": "orders"}})
    await setting.reconcile()
    assert setting.cluster.asked == ["apply status", "event InvalidSpec"]
    await setting.reconcile()
    assert setting.cluster.asked == []


async def test_a_failed_event_write_does_not_fail_the_reconcile() -> None:
    setting = Setting()

    async def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("events is forbidden")

    setting.cluster.create_event = refuse  # type: ignore[method-assign]
    await setting.reconcile()
    assert names.LABEL_CONSUMER in setting.store.consumers[KEY]["status"]["selector"]


async def test_a_source_config_map_is_kept_while_a_running_pod_mounts_it() -> None:
    """A container of that pod that is restarted reads it again."""
    setting = Setting(manifest(handler={"source": "x = 1"}))
    await setting.reconcile()
    (old,) = [name for kind, name in setting.cluster.objects if kind == "ConfigMap"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "namespace": "shop", "labels": {names.LABEL_CONSUMER: "orders"}, "uid": "p"},
        "spec": {"volumes": [{"name": "source", "configMap": {"name": old}}]},
        "status": {"phase": "Running"},
    }
    setting.put(pod)
    setting.put(stored(manifest(handler={"source": "x = 2"})))
    await setting.reconcile()
    assert "delete ConfigMap" not in setting.cluster.asked
    setting.store.remove(pod)
    await setting.reconcile()
    assert setting.cluster.asked.count("delete ConfigMap") == 1


async def test_a_recreated_streamconsumer_is_monitored_from_the_start() -> None:
    """Both waited for a worker, who sees the second one only: it may read another stream."""
    setting = Setting()
    await setting.reconcile()
    setting.cluster.objects.clear()
    for child in setting.store.children(KEY):
        setting.store.remove(child)
    setting.put(stored(manifest(stream="returns"), uid="another"))
    await setting.reconcile()
    assert setting.streams.unwatched == [KEY]
    await setting.reconcile()
    assert setting.streams.unwatched == [KEY]


def copied(name: str) -> Manifest:
    """Our Deployment, as somebody copied it: with all labels, and without an owner."""
    (found,) = [each for each in desired(consumer(image="another:1"), SETTINGS) if each["kind"] == "Deployment"]
    metadata = {**found["metadata"], "name": name, "uid": name, "resourceVersion": "1"}
    del metadata["ownerReferences"]
    return {**found, "metadata": metadata, "status": {"replicas": 7}}


async def test_a_copied_deployment_is_not_reported_in_the_status() -> None:
    setting = Setting()
    setting.put(copied("a-copy"))
    await setting.reconcile()
    told = setting.store.consumers[KEY]["status"]
    assert (told["effective"]["image"], told["replicas"]) == ("shop:1.4", 0)
