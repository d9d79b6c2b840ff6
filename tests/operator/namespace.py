"""A namespace on a real API server, as tests of the operator speak to it: objects in, objects out."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from streamconsumer.model import names
from tests.cluster.api_server import ApiServer
from tests.cluster.errors import ProgramFailed
from tests.model.examples import Manifest

PREFIXES = {
    "StreamConsumer": f"/apis/{names.API_VERSION}/namespaces/{{}}/{names.PLURAL}",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Pod": "/api/v1/namespaces/{}/pods",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "Event": "/apis/events.k8s.io/v1/namespaces/{}/events",
}
T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
"""Longer than anything takes on two cores that others keep busy. How fast something is, is measured in benchmarks."""

QUIET_FACTOR = 20
"""A look at all objects takes a twentieth of a second or less; where it takes longer, the operator does too."""

CHILDREN = ("ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget")
LABELLED = f"?labelSelector={names.LABEL_CONSUMER}"


@dataclass(frozen=True)
class Namespace:
    """One namespace, and requests without the cost of a kubectl each."""

    cluster: ApiServer
    name: str

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl(*arguments, "--namespace", self.name)

    def path(self, kind: str, name: str = "") -> str:
        return PREFIXES[kind].format(self.name) + (f"/{name}" if name else "")

    def create(self, manifest: Manifest) -> Manifest:
        """The manifest, in this namespace whatever it says."""
        metadata = {**manifest["metadata"], "namespace": self.name}
        created: Manifest = self.cluster.request(
            "POST", self.path(manifest["kind"]), {**manifest, "metadata": metadata}
        )
        return created

    def patch(self, kind: str, name: str, change: Manifest, subresource: str = "") -> Manifest:
        """A merge patch: null takes a field out."""
        patched: Manifest = self.cluster.request("PATCH", self.path(kind, name) + subresource, change)
        return patched

    def edit(self, name: str, **spec: Any) -> Manifest:
        """Change fields of a StreamConsumer's spec."""
        return self.patch("StreamConsumer", name, {"spec": spec})

    def find(self, kind: str, name: str) -> Manifest | None:
        try:
            found: Manifest = self.cluster.request("GET", self.path(kind, name))
        except ProgramFailed as failure:
            if "answered 404" in str(failure):
                return None
            raise
        return found

    def get(self, kind: str, name: str) -> Manifest:
        found = self.find(kind, name)
        assert found, f"there is no {kind} {name}"
        return found

    def list_all(self, kind: str, query: str = "") -> list[Manifest]:
        items: list[Manifest] = self.cluster.request("GET", self.path(kind) + query)["items"]
        return items

    def delete(self, kind: str, name: str) -> None:
        self.cluster.request("DELETE", self.path(kind, name))

    def children(self, name: str) -> dict[str, Manifest]:
        """By kind."""
        query = f"{LABELLED}={name}"
        return {kind: item for kind in CHILDREN for item in self.list_all(kind, query)}

    def conditions(self, name: str) -> dict[str, Manifest]:
        """By type; none where there is no status yet."""
        status = self.get("StreamConsumer", name).get("status", {})
        return {each["type"]: each for each in status.get("conditions", [])}

    def reason(self, name: str) -> str:
        return str(self.conditions(name).get("Ready", {}).get("reason", ""))

    def events(self, name: str) -> list[tuple[str, str]]:
        """Reasons and notes of the events about a StreamConsumer, oldest first."""
        mine = [each for each in self.list_all("Event") if each.get("regarding", {}).get("kind") == names.KIND]
        about = [each for each in mine if each["regarding"]["name"] == name]
        return [(each["reason"], each["note"]) for each in sorted(about, key=lambda each: each["eventTime"])]

    def versions(self) -> dict[str, str]:
        """The resource version of every object that the operator might write: it changes with each write."""
        found = [
            *self.list_all("StreamConsumer"),
            *(item for kind in CHILDREN for item in self.list_all(kind, LABELLED)),
        ]
        return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in found}


def eventually(check: Callable[[], T], timeout: float = TIMEOUT_SECONDS, pause: float = 0.1) -> T:
    """Call until it neither fails an assertion nor misses a field; then what it returned."""
    end = time.monotonic() + timeout
    while True:
        try:
            return check()
        except (AssertionError, KeyError):
            if time.monotonic() > end:
                raise
        time.sleep(pause)


def wait_until_settled(namespace: Namespace, seconds: float = 1.5) -> dict[str, str]:
    """The versions of all objects, once each StreamConsumer's status speaks of what it is now, and nothing has changed
    for so long: a change is told in the status after a second of quiet. The busier the machine, the longer it must be
    quiet."""
    with suppress(AssertionError):  # there may be some that no operator looks after
        eventually(lambda: _check_observed(namespace))
    before, since, quiet = namespace.versions(), time.monotonic(), seconds
    while time.monotonic() - since < quiet:
        time.sleep(0.2)
        asked = time.monotonic()
        now = namespace.versions()
        quiet = max(quiet, QUIET_FACTOR * (time.monotonic() - asked))
        if now != before:
            before, since = now, time.monotonic()
    return before


def _check_observed(namespace: Namespace) -> None:
    for each in namespace.list_all("StreamConsumer"):
        assert each.get("status", {}).get("observedGeneration") == each["metadata"]["generation"]
