"""What kopf is used for: watching. Every event goes into the store and wakes the StreamConsumer it concerns.

`on.event` only: it stores nothing on the objects, needs no finalizers and no timers, and is level-triggered.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import kopf
from kopf._cogs.clients import watching as kopf_watching

from streamconsumer.model import names
from streamconsumer.operator.manifests import KINDS
from streamconsumer.operator.queue import KeyedQueue
from streamconsumer.operator.store import Store

OWNED = [*KINDS, ("v1", "Pod")]
SELECTOR = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER},{names.LABEL_CONSUMER}"
"""The children and pods that the operator watches: the API server sends no others."""


def watch(store: Store, queue: KeyedQueue, listed: Callable[[], None]) -> kopf.OperatorRegistry:
    """A registry whose handlers feed the store and the queue, and say when kopf had to list."""
    registry = kopf.OperatorRegistry()

    async def seen(event: kopf.RawEvent, resource: kopf.Resource, **_: Any) -> None:
        api_version = f"{resource.group}/{resource.version}" if resource.group else resource.version
        manifest = {"apiVersion": api_version, "kind": resource.kind, **event["object"]}
        key = store.drop(manifest) if event["type"] == "DELETED" else store.put(manifest)
        if key:
            queue.add(key)
        if event["type"] is None:
            listed()

    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, id="seen", registry=registry)(seen)
    for api_version, kind in OWNED:
        group, _, version = api_version.rpartition("/")
        kopf.on.event(group, version, kind, id="seen", registry=registry)(seen)

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
        return Connection(**{each.name: getattr(found, each.name) for each in fields(found)}) if found else None

    return registry


@contextmanager
def listening(heard: Callable[[str], None]) -> Iterator[None]:
    """Tell of whatever a watch brings, lists and bookmarks included, with the watch's name. kopf keeps bookmarks from
    handlers: without them, a watch that is broken looks like one of a cluster where nothing happens."""
    original = kopf_watching.continuous_watch

    async def continuous_watch(*, resource: Any, namespace: Any, **rest: Any) -> AsyncIterator[Any]:
        watch = f"{resource.plural} in {namespace or 'all namespaces'}"
        async for brought in original(resource=resource, namespace=namespace, **rest):
            heard(watch)
            yield brought

    kopf_watching.continuous_watch = continuous_watch
    try:
        yield
    finally:
        kopf_watching.continuous_watch = original


class Connection(kopf.ConnectionInfo):
    """Verifies chain and name, not the form of certificates: see `cluster.connected`."""

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def watching() -> kopf.OperatorSettings:
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
    settings.queueing.idle_timeout = 1  # a worker task per object that changed: let it go soon
    for api_version, kind in OWNED:
        group, _, version = api_version.rpartition("/")
        settings.watching.label_selectors[group, version, kind] = SELECTOR
    return settings
