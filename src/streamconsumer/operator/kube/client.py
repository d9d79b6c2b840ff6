"""The client for the Kubernetes API: reads, server-side apply, delete, status and Events.

Arguments and results are manifests, not model classes. `paths.py` contains the paths of all used kinds, so the client
needs no API discovery.
"""

import uuid
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from streamconsumer.errors import ChildRejected, PermissionDenied
from streamconsumer.model import names
from streamconsumer.operator.kube.api import (
    APPLY_PATCH,
    MERGE_PATCH,
    ApiError,
    KubeApi,
    NotFound,
    api_error_message,
    as_yaml,
)
from streamconsumer.operator.kube.list_pages import ListPage, PageQuery
from streamconsumer.operator.kube.paths import collection_path, group_version_path, object_path
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.rbac import SERVICE_ACCOUNT_PREFIX
from streamconsumer.operator.reconcile_trace import current
from streamconsumer.text import printable

TERMINAL_STATUSES = (400, 403, 422)
"""The HTTP status codes that count as a rejection of a child, because an immediate retry would fail again."""

MAX_LOG_BYTES = 33_554_432
"""Maximum number of bytes that are read from a container's log."""

MAX_NOTE_BYTES = 1024
"""The maximum length, in bytes, that the API server accepts for an Event message."""


class KubeClient:
    """Typed client for one API server."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return the object, or None if the object does not exist."""
        with suppress(NotFound):
            return await self._request("get", object_path(api_version, kind, namespace, name))
        return None

    async def get_with_field_owners(self, manifest: Manifest) -> Manifest | None:
        """Return the live object with `metadata.managedFields`, or None if the object does not exist."""
        with suppress(NotFound):
            return await self._request("get", _path_of(manifest), with_field_owners=True)
        return None

    async def get_config_object(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return a Secret or ConfigMap that pods refer to, or None if the object does not exist. Raises
        PermissionDenied if the operator is not allowed to read the object."""
        try:
            return await self.get("v1", kind, namespace, name)
        except ApiError as error:
            if error.status != 403:
                raise
            raise PermissionDenied(api_error_message(error)) from None

    async def list(
        self, api_version: str, kind: str, namespace: str | None, selector: str = ""
    ) -> AsyncIterator[Manifest]:
        """Yield every object of the kind, each with apiVersion and kind. If `namespace` is None, list all namespaces.

        If the list expires, the list starts again, and some objects are yielded a second time, see `PageQuery`."""
        path, query, has_next = collection_path(api_version, kind, namespace), PageQuery(selector), True
        while has_next:
            page = ListPage(self._api.get_chunks(path, query=query.parameters))
            try:
                async for item in page.items():
                    yield {"apiVersion": api_version, "kind": kind, **item}
            except ApiError as error:
                if not query.restart(error.status):
                    raise
            else:
                has_next = query.advance(page)

    async def latest_version(self, api_version: str, kind: str, namespace: str | None) -> int:
        """Return the resourceVersion of the latest change, as a list of the kind reports it. The number decreases only
        if etcd is restored from a backup. Raises ApiError, for example if the list is forbidden."""
        path = collection_path(api_version, kind, namespace)
        response = await self._api.request_json("get", path, query={"limit": "1"})
        return int(response["metadata"]["resourceVersion"])

    async def apply(self, manifest: Manifest) -> Manifest:
        """Apply the manifest server-side and return the object. The operator becomes the owner of all fields in the
        manifest, and reverts changes that other clients made to these fields.

        Raises ChildRejected if the manifest is invalid, is forbidden or violates a policy. An immediate retry would
        fail again."""
        try:
            return await self._apply(manifest, _path_of(manifest))
        except ApiError as error:
            if error.status not in TERMINAL_STATUSES:
                raise
            raise ChildRejected(
                f"{manifest['kind']} {manifest['metadata']['name']}: {api_error_message(error)}"
            ) from None

    async def apply_status(self, namespace: str, name: str, status: Manifest) -> Manifest | None:
        """Write the whole status. Returns the object, or None if the object no longer exists."""
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"namespace": namespace, "name": name},
            "status": status,
        }
        with suppress(NotFound):
            return await self._apply(manifest, _path_of(manifest, "status"))
        return None

    async def get_secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        """Return the decoded data of a Secret, or None if the Secret does not exist. Raises PermissionDenied."""
        return secret_data(await self.get_config_object("Secret", namespace, name))

    async def annotate_pod(self, namespace: str, name: str, annotations: dict[str, str]) -> None:
        """Add annotations to a pod. If the pod no longer exists, nothing happens."""
        patch = {"metadata": {"annotations": annotations}}
        with suppress(NotFound):
            path = object_path("v1", "Pod", namespace, name)
            await self._request("patch", path, body=patch, content_type=MERGE_PATCH)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace the object if its resourceVersion equals the resourceVersion in the manifest. If the manifest has no
        resourceVersion, create the object. Raises Conflict if another client has written the object."""
        if "resourceVersion" in manifest["metadata"]:
            return await self._request("put", _path_of(manifest), body=manifest)
        metadata = manifest["metadata"]
        path = collection_path(manifest["apiVersion"], manifest["kind"], metadata["namespace"])
        return await self._request("post", path, body=manifest)

    async def set_suspended(self, namespace: str, name: str, *, suspended: bool) -> None:
        """Set spec.suspend, for the commands `suspend` and `resume`. The operator itself never writes the spec."""
        path = object_path(names.API_VERSION, names.KIND, namespace, name)
        patch = {"spec": {"suspend": suspended}}
        await self._request("patch", path, body=patch, content_type=MERGE_PATCH)

    async def can_i(self, verb: str, resource: str, namespace: str | None, name: str = "") -> bool:
        """Return True if the caller is allowed to use the verb on the resource. Examples of a resource are `pods/exec`
        and `deployments.apps`. If `name` is empty, the verb must be allowed for all names."""
        api_version, kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
        spec = {"resourceAttributes": {**_attributes(verb, resource, namespace), "name": name}}
        review = {"apiVersion": api_version, "kind": kind, "spec": spec}
        response = await self._api.request_json("post", collection_path(api_version, kind, None), body=review)
        return bool(response["status"]["allowed"])

    async def can_service_account(self, account: tuple[str, str], verb: str, resource: str, namespace: str) -> bool:
        """Return True if a ServiceAccount is allowed to use the verb on the resource. Only the CLI calls this method.
        `account` is the namespace and the name of the ServiceAccount."""
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{account[0]}", "system:authenticated"]
        spec = {
            "user": f"{SERVICE_ACCOUNT_PREFIX}{account[0]}:{account[1]}",
            "groups": groups,
            "resourceAttributes": _attributes(verb, resource, namespace),
        }
        api_version, kind = "authorization.k8s.io/v1", "LocalSubjectAccessReview"
        review = {"apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace}, "spec": spec}
        response = await self._api.request_json("post", collection_path(api_version, kind, namespace), body=review)
        return bool(response["status"]["allowed"])

    async def own_user(self) -> str:
        """Return the user name under which the API server authenticates the caller."""
        api_version, kind = "authentication.k8s.io/v1", "SelfSubjectReview"
        review = {"apiVersion": api_version, "kind": kind}
        response = await self._api.request_json("post", collection_path(api_version, kind, None), body=review)
        return str(response["status"]["userInfo"]["username"])

    async def server_endpoints(self) -> set[tuple[str, int]]:
        """Return the known hosts and ports of the API server. See `KubeApi.server_endpoints`."""
        return await self._api.server_endpoints()

    async def serves_consumers(self) -> bool:
        """Return True if the API server serves StreamConsumers in the version of this program. Only the CLI calls this
        method."""
        try:
            await self._api.request_json("get", group_version_path(names.API_VERSION))
        except NotFound:
            return False
        except ApiError:  # the cluster restricts the discovery of APIs
            pass
        return True

    async def version(self) -> Manifest:
        """Return the version of the API server. Only the CLI calls this method."""
        return await self._api.request_json("get", "/version")

    async def pod_log(self, namespace: str, pod: str, container: str, *, lines: int, previous: bool) -> str:
        """Return the last lines of a container's log. Only the CLI calls this method. If `previous` is True, the log is
        from before the last restart of the container. At most MAX_LOG_BYTES are read, because a line can have any
        length."""
        query = {
            "container": container,
            "tailLines": str(lines),
            "limitBytes": str(MAX_LOG_BYTES),
            "previous": str(previous).lower(),
        }
        return await self._api.request_text("get", object_path("v1", "Pod", namespace, pod, "log"), query=query)

    async def delete(self, manifest: Manifest) -> None:
        """Delete an object with background propagation. The object is deleted only if its uid equals the uid in the
        manifest. If the object does not exist, nothing happens."""
        options = {"preconditions": {"uid": manifest["metadata"]["uid"]}, "propagationPolicy": "Background"}
        with suppress(NotFound):
            await self._request("delete", _path_of(manifest), body=options)

    async def create_event(
        self, regarding: Manifest, *, reason: str, message: str, warning: bool, at: datetime
    ) -> None:
        """Create an Event on the StreamConsumer, for `kubectl describe`. Raises ApiError, for example if the namespace
        is terminating."""
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
            "note": printable(message, MAX_NOTE_BYTES).encode()[:MAX_NOTE_BYTES].decode(errors="ignore"),
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
        await self._request("post", collection_path("events.k8s.io/v1", "Event", metadata["namespace"]), body=event)

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


def secret_data(secret: Manifest | None) -> dict[str, bytes] | None:
    """Return the decoded data of a Secret, or None if there is no Secret."""
    return None if secret is None else {key: b64decode(value) for key, value in secret.get("data", {}).items()}


def _attributes(verb: str, resource: str, namespace: str | None) -> dict[str, str]:
    """Return the attributes of a request, for an access review."""
    plural_and_group, _, subresource = resource.partition("/")
    plural, _, group = plural_and_group.partition(".")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    return {**attributes, **({"namespace": namespace} if namespace else {})}


def _path_of(manifest: Manifest, subresource: str = "") -> str:
    metadata = manifest["metadata"]
    return object_path(manifest["apiVersion"], manifest["kind"], metadata["namespace"], metadata["name"], subresource)
