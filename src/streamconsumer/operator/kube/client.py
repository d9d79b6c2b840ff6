"""What the operator does at the Kubernetes API: reads, server-side apply, delete, status, events. Manifests in,
manifests out. Every path is known here, so nothing is discovered, and no model classes are built.
"""

import uuid
from base64 import b64decode
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from streamconsumer.errors import ChildRejected, PermissionDenied
from streamconsumer.model import names
from streamconsumer.model.status import Status
from streamconsumer.operator.kube.api import (
    APPLY_PATCH,
    MERGE_PATCH,
    ApiError,
    KubeApi,
    NotFound,
    api_error_message,
    as_yaml,
)
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile_trace import current

PAGE_SIZE = 20
"""How many objects a list is asked for at a time: a thousand Deployments are 20 MB of text, and five times that once
they are read."""

TERMINAL_STATUSES = (400, 403, 422)
"""Of a child: to try again is pointless without an edit."""

MAX_NOTE_BYTES = 1024
"""Bytes of an Event's sentence that the API server takes."""

_PLURALS = {
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Pod": "pods",
    "Event": "events",
    "Secret": "secrets",
    "Lease": "leases",
    "CustomResourceDefinition": "customresourcedefinitions",
    names.KIND: names.PLURAL,
}


class KubeClient:
    """A connection to one API server."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """The object, or None where there is none."""
        with suppress(NotFound):
            return await self._request("get", _path(api_version, kind, namespace, name))
        return None

    async def get_config_object(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """A Secret or ConfigMap that pods refer to, or None where there is none. Raises PermissionDenied where we may not."""
        try:
            return await self.get("v1", kind, namespace, name)
        except ApiError as error:
            if error.status != 403:
                raise
            raise PermissionDenied(api_error_message(error)) from None

    async def list(
        self, api_version: str, kind: str, namespace: str | None, selector: str = ""
    ) -> AsyncIterator[Manifest]:
        """Every object of the kind, in one namespace or in all. Items carry their apiVersion and kind."""
        path, query = _path(api_version, kind, namespace), {"limit": str(PAGE_SIZE)}
        if selector:
            query["labelSelector"] = selector
        more = ""
        while True:
            found = await self._request("get", path, query=query | ({"continue": more} if more else {}))
            for item in found.pop("items"):
                yield {"apiVersion": api_version, "kind": kind, **item}
            if not (more := found["metadata"].get("continue", "")):
                return

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply as our field manager. What we state is ours; a field somebody else changed comes back.
        Raises ChildRejected where trying again without an edit is pointless: invalid, forbidden, against a policy."""
        try:
            return await self._apply(manifest, _path_of(manifest))
        except ApiError as error:
            if error.status not in TERMINAL_STATUSES:
                raise
            raise ChildRejected(
                f"{manifest['kind']} {manifest['metadata']['name']}: {api_error_message(error)}"
            ) from None

    async def apply_status(self, namespace: str, name: str, status: Status) -> Manifest | None:
        """One write of the whole status. Returns the object, or None where it is not there any more."""
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"namespace": namespace, "name": name},
            "status": status.model_dump(by_alias=True, exclude_none=True),
        }
        with suppress(NotFound):
            return await self._apply(manifest, f"{_path_of(manifest)}/status")
        return None

    async def get_secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        """What stands in a Secret; None where there is none. Raises PermissionDenied where it may not be read."""
        found = await self.get_config_object("Secret", namespace, name)
        return None if found is None else {key: b64decode(value) for key, value in found.get("data", {}).items()}

    async def annotate_pod(self, namespace: str, name: str, annotations: dict[str, str]) -> None:
        """Write annotations at a pod; one that is gone needs none."""
        change = {"metadata": {"annotations": annotations}}
        with suppress(NotFound):
            path = _path("v1", "Pod", namespace, name)
            await self._request("patch", path, body=change, content_type=MERGE_PATCH)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Write the object as a whole if it is still in the version that the manifest names; one without a version is
        created. Raises FASTER where somebody was faster."""
        if "resourceVersion" in manifest["metadata"]:
            return await self._request("put", _path_of(manifest), body=manifest)
        metadata = manifest["metadata"]
        path = _path(manifest["apiVersion"], manifest["kind"], metadata["namespace"])
        return await self._request("post", path, body=manifest)

    async def set_suspended(self, namespace: str, name: str, *, suspended: bool) -> None:
        """What `suspend` and `resume` of the command line write; the operator itself never does."""
        path = _path(names.API_VERSION, names.KIND, namespace, name)
        change = {"spec": {"suspend": suspended}}
        await self._request("patch", path, body=change, content_type=MERGE_PATCH)

    async def can_i(self, verb: str, resource: str, namespace: str | None) -> bool:
        """Whether whoever asks has a right, for the command line. A resource is `pods/exec`, or `deployments.apps`."""
        whole, _, subresource = resource.partition("/")
        plural, _, group = whole.partition(".")
        about = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**about, **({"namespace": namespace} if namespace else {})}},
        }
        answer = await self._api.request_json(
            "post", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review
        )
        return bool(answer["status"]["allowed"])

    async def version(self) -> Manifest:
        """What the API server says of itself, for the command line."""
        return await self._api.request_json("get", "/version")

    async def pod_log(self, namespace: str, pod: str, container: str, *, lines: int, previous: bool) -> str:
        """The end of what a container wrote, or the one before it; for the command line."""
        query = {"container": container, "tailLines": str(lines), "previous": str(previous).lower()}
        return await self._api.request_text("get", f"{_path('v1', 'Pod', namespace, pod)}/log", query=query)

    async def delete(self, manifest: Manifest) -> None:
        """Delete in the background what this manifest names, and only that very object; gone already is fine."""
        only = {"preconditions": {"uid": manifest["metadata"]["uid"]}, "propagationPolicy": "Background"}
        with suppress(NotFound):
            await self._request("delete", _path_of(manifest), body=only)

    async def create_event(
        self, regarding: Manifest, *, reason: str, message: str, warning: bool, at: datetime
    ) -> None:
        """An Event on the StreamConsumer, for kubectl describe. Its namespace may be going away: then none."""
        metadata = regarding["metadata"]
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
            },
            "eventTime": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "action": "Reconcile",
            "note": message.encode()[:MAX_NOTE_BYTES].decode(errors="ignore"),
            "reportingController": names.FIELD_MANAGER,
            "reportingInstance": names.FIELD_MANAGER,
            "regarding": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata.get("uid", ""),
            },
        }
        await self._request("post", _path("events.k8s.io/v1", "Event", metadata["namespace"]), body=event)

    async def _apply(self, manifest: Manifest, path: str) -> Manifest:
        return await self._request(
            "patch",
            path,
            body=as_yaml(manifest),
            content_type=APPLY_PATCH,
            query={"fieldManager": names.FIELD_MANAGER, "force": "true"},
        )

    async def _request(self, method: str, path: str, **arguments: Any) -> Manifest:
        if method == "get":
            return await self._api.request_json(method, path, **arguments)
        with current.get().request_span(method, path):
            return await self._api.request_json(method, path, **arguments)


async def list_all(
    kube: KubeClient, kinds: Iterable[tuple[str, str]], namespaces: Iterable[str], selector: str = ""
) -> AsyncIterator[Manifest]:
    """Every object of these kinds, in these namespaces or, without any, in all."""
    places: list[str | None] = [*namespaces] or [None]
    for api_version, kind in kinds:
        for place in places:
            async for manifest in kube.list(api_version, kind, place, selector):
                yield manifest


def _path(api_version: str, kind: str, namespace: str | None, name: str = "") -> str:
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{place}/{_PLURALS[kind]}" + (f"/{name}" if name else "")


def _path_of(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return _path(manifest["apiVersion"], manifest["kind"], metadata["namespace"], metadata["name"])
