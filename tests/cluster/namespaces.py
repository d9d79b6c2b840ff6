"""Fresh namespaces for tests, and their deletion on a cluster without a namespace controller."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.cluster.clusters import Cluster

if TYPE_CHECKING:
    from tests.cluster.api_server import ApiServer

DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@contextlib.contextmanager
def fresh_namespace(cluster: Cluster) -> Iterator[str]:
    """Create a namespace with a new name. Delete it afterwards without waiting until it is gone."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        cluster.delete_namespace(name)


def empty_namespace(server: ApiServer, name: str) -> None:
    """Delete all objects in a namespace, as the namespace controller would.

    Removes finalizers, because their controllers are no longer running, and the operator of the next test would see
    the remaining objects.
    """
    for collection in _collections(server, name):
        items = server.request("GET", collection)["items"]
        if items:
            server.request("DELETE", collection)
        for item in items:
            if item["metadata"].get("finalizers"):
                _remove_finalizers(server, f"{collection}/{item['metadata']['name']}")


def _remove_finalizers(server: ApiServer, path: str) -> None:
    server.request("PATCH", path, {"metadata": {"finalizers": None}})


def _collections(server: ApiServer, namespace: str) -> Iterator[str]:
    """Return the paths of all resources that the namespace can contain, each in one version."""
    for root in ("api", "apis"):
        for group in server.request("GET", f"/{root}", accept=DISCOVERY)["items"]:
            prefix = f"/{root}/{group['metadata'].get('name', '')}".rstrip("/")
            for version in group["versions"][:1]:
                for resource in _deletable(version):
                    yield f"{prefix}/{version['version']}/namespaces/{namespace}/{resource}"


def _deletable(version: dict[str, Any]) -> list[str]:
    return [
        resource["resource"]
        for resource in version["resources"]
        if resource["scope"] == "Namespaced" and "deletecollection" in resource["verbs"]
    ]
