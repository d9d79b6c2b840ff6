"""A namespace on a real API server, with the requests that the tests of the operator need."""

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
"""A time limit that is long enough on two busy cores. Benchmarks measure the speed, not these tests."""

QUIET_FACTOR = 20
"""The quiet period, as a multiple of the time for a list of all objects. A list takes at most 0.05 s on an idle
machine. On a busy machine the list takes longer, and so does the operator."""

CHILDREN = ("ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget")
LABELLED = f"?labelSelector={names.LABEL_CONSUMER}"


@dataclass(frozen=True)
class Namespace:
    """A namespace, with direct requests instead of one kubectl process per request."""

    cluster: ApiServer
    name: str

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl(*arguments, "--namespace", self.name)

    def path(self, kind: str, name: str = "") -> str:
        return PREFIXES[kind].format(self.name) + (f"/{name}" if name else "")

    def create(self, manifest: Manifest) -> Manifest:
        """Create the object in this namespace, whatever namespace the manifest names."""
        metadata = {**manifest["metadata"], "namespace": self.name}
        created: Manifest = self.cluster.request(
            "POST", self.path(manifest["kind"]), {**manifest, "metadata": metadata}
        )
        return created

    def patch(self, kind: str, name: str, change: Manifest, subresource: str = "") -> Manifest:
        """Send a merge patch. null removes a field."""
        patched: Manifest = self.cluster.request("PATCH", self.path(kind, name) + subresource, change)
        return patched

    def edit(self, name: str, **spec: Any) -> Manifest:
        """Change fields of a StreamConsumer's spec."""
        return self.patch("StreamConsumer", name, {"spec": spec})

    def find(self, kind: str, name: str) -> Manifest | None:
        try:
            item: Manifest = self.cluster.request("GET", self.path(kind, name))
        except ProgramFailed as failure:
            if "answered 404" in str(failure):
                return None
            raise
        return item

    def get(self, kind: str, name: str) -> Manifest:
        item = self.find(kind, name)
        assert item, f"{kind} {name} not found"
        return item

    def list_all(self, kind: str, query: str = "") -> list[Manifest]:
        items: list[Manifest] = self.cluster.request("GET", self.path(kind) + query)["items"]
        return items

    def delete(self, kind: str, name: str) -> None:
        self.cluster.request("DELETE", self.path(kind, name))

    def children(self, name: str) -> dict[str, Manifest]:
        """Return the children of a StreamConsumer by kind."""
        query = f"{LABELLED}={name}"
        return {kind: item for kind in CHILDREN for item in self.list_all(kind, query)}

    def conditions(self, name: str) -> dict[str, Manifest]:
        """Return the conditions by type. Empty without a status."""
        status = self.get("StreamConsumer", name).get("status", {})
        return {each["type"]: each for each in status.get("conditions", [])}

    def reason(self, name: str) -> str:
        return str(self.conditions(name).get("Ready", {}).get("reason", ""))

    def events(self, name: str) -> list[tuple[str, str]]:
        """Return the reasons and notes of the Events on a StreamConsumer, oldest first."""
        events = [each for each in self.list_all("Event") if each.get("regarding", {}).get("kind") == names.KIND]
        matching = [each for each in events if each["regarding"]["name"] == name]
        return [(each["reason"], each["note"]) for each in sorted(matching, key=lambda each: each["eventTime"])]

    def versions(self) -> dict[str, str]:
        """Return the resource version of every object that the operator may write. Each write changes the version."""
        items = [
            *self.list_all("StreamConsumer"),
            *(item for kind in CHILDREN for item in self.list_all(kind, LABELLED)),
        ]
        return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in items}


def eventually(check: Callable[[], T], timeout: float = TIMEOUT_SECONDS, pause: float = 0.1) -> T:
    """Call the check until it raises neither AssertionError nor KeyError. Returns the result of the check."""
    end = time.monotonic() + timeout
    while True:
        try:
            return check()
        except (AssertionError, KeyError):
            if time.monotonic() > end:
                raise
        time.sleep(pause)


def wait_until_reconciled(
    namespace: Namespace, name: str = "orders", within: float = TIMEOUT_SECONDS, **expected: Any
) -> Manifest:
    """Wait until the status has the current generation. Returns the Deployment."""

    def is_current() -> Manifest:
        resource = namespace.get("StreamConsumer", name)
        assert resource.get("status", {}).get("observedGeneration") == resource["metadata"]["generation"]
        live = namespace.get("Deployment", f"{name}-consumer")
        assert {key: live["spec"][key] for key in expected} == expected
        return live

    return eventually(is_current, within)


def wait_until_settled(namespace: Namespace, seconds: float = 1.5) -> dict[str, str]:
    """Wait until every status has the current generation and no object has changed for a quiet period.

    The operator writes the status one second after the last change. The quiet period grows on a busy machine. Returns
    the versions of all objects."""
    with suppress(AssertionError):  # no operator may serve some StreamConsumers
        eventually(lambda: _check_observed(namespace))
    previous, since, quiet = namespace.versions(), time.monotonic(), seconds
    while time.monotonic() - since < quiet:
        time.sleep(0.2)
        requested = time.monotonic()
        now = namespace.versions()
        quiet = max(quiet, QUIET_FACTOR * (time.monotonic() - requested))
        if now != previous:
            previous, since = now, time.monotonic()
    return previous


def _check_observed(namespace: Namespace) -> None:
    for each in namespace.list_all("StreamConsumer"):
        assert each.get("status", {}).get("observedGeneration") == each["metadata"]["generation"]
