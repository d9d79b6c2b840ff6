"""Fresh namespaces for tests, and the emptying of one where no controller does it."""

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
    """A namespace of a new name; it is deleted afterwards without waiting for its end."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        cluster.delete_namespace(name)


def empty_namespace(server: ApiServer, name: str) -> None:
    """Delete all that is in a namespace, as the namespace controller would.

    Finalizers are taken off: whoever would have answered them is not running any more, and what
    stays would be seen by the operator of the next test.
    """
    for collection in _collections(server, name):
        found = server.request("GET", collection)["items"]
        if found:
            server.request("DELETE", collection)
        for item in found:
            if item["metadata"].get("finalizers"):
                _remove_finalizers(server, f"{collection}/{item['metadata']['name']}")


def _remove_finalizers(server: ApiServer, path: str) -> None:
    server.request("PATCH", path, {"metadata": {"finalizers": None}})


def _collections(server: ApiServer, namespace: str) -> Iterator[str]:
    """The paths of all kinds of object that the namespace may hold, in one version each."""
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
