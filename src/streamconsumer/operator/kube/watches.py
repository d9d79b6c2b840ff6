"""What kopf is used for: watching, with lists, bookmarks, time-outs and new attempts. What a watch brings goes to a
callback and not to handlers: kopf stores nothing on the objects, and needs no finalizers and no timers.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import kopf
from kopf._cogs.clients import watching as kopf_watching

from streamconsumer.model import names
from streamconsumer.operator.kube.api import api_error_message
from streamconsumer.operator.kube.client import PAGE_SIZE
from streamconsumer.operator.manifests import CHILD_KINDS, Manifest

OWNED_KINDS = [*CHILD_KINDS, ("v1", "Pod")]
LISTED = "LISTED"
WATCH_RETRY_SECONDS = 1.0
"""How long a watch rests that has failed: the API server says that its place is too old, for example."""

SELECTOR = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER},{names.LABEL_CONSUMER}"
"""The children and pods that the operator watches: the API server sends no others."""

log = logging.getLogger(__name__)


def build_registry() -> kopf.OperatorRegistry:
    """A registry that has kopf watch what we need to know of."""
    registry = kopf.OperatorRegistry()

    async def never(**_: Any) -> None:
        """`listening` takes every event before kopf does."""

    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, id="never", registry=registry)(never)
    for api_version, kind in OWNED_KINDS:
        group, _, version = api_version.rpartition("/")
        kopf.on.event(group, version, kind, id="never", registry=registry)(never)

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
        return (
            LenientTlsConnection(**{each.name: getattr(found, each.name) for each in fields(found)}) if found else None
        )

    return registry


@contextmanager
def intercept_watches(on_object: Callable[[str, Manifest], None]) -> Iterator[None]:
    """Take what kopf's watches bring before it does. For each object that changes it would start a task, and compare it
    with what it was: two thirds of what the operator computed, and nothing that we use. `seen` is called with ADDED,
    MODIFIED, DELETED or LISTED and the object."""
    original = kopf_watching.continuous_watch

    async def continuous_watch(*, resource: Any, namespace: Any, **rest: Any) -> AsyncIterator[Any]:
        watch = f"{resource.plural} in {namespace or 'all namespaces'}"
        typed = {"apiVersion": f"{resource.group}/{resource.version}".lstrip("/"), "kind": resource.kind}
        try:
            async for brought in original(resource=resource, namespace=namespace, **rest):
                if isinstance(brought, kopf_watching.Bookmark) or brought["type"] == "BOOKMARK":
                    yield brought
                else:
                    on_object(brought["type"] or LISTED, {**typed, **brought["object"]})
        except Exception as error:  # noqa: BLE001 - kopf would end all watches, whatever ended this one
            log.warning("a watch has failed; it begins anew", extra={"watch": watch, "error": api_error_message(error)})
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    kopf_watching.continuous_watch = continuous_watch
    try:
        yield
    finally:
        kopf_watching.continuous_watch = original


class LenientTlsConnection(kopf.ConnectionInfo):
    """Verifies chain and name, not the form of certificates: see `api.connected`."""

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def kopf_settings() -> kopf.OperatorSettings:
    """kopf's settings. Each timeout is there because a watch without it was seen to die silently (kopf#955, #957)."""
    settings = kopf.OperatorSettings()
    settings.watching.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.inactivity_timeout = 70
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    settings.posting.enabled = False  # events are ours, with fixed reasons
    settings.peering.standalone = True  # a foreign peering object must not freeze us (kopf#734)
    settings.scanning.disabled = True  # no right to list CRDs or namespaces is needed
    settings.watching.chunk_size = PAGE_SIZE
    for api_version, kind in OWNED_KINDS:
        group, _, version = api_version.rpartition("/")
        settings.watching.label_selectors[group, version, kind] = SELECTOR
    return settings
