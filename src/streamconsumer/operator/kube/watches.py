"""Watches of Kubernetes objects. kopf provides the watches, including lists, bookmarks, timeouts and retries.

The watched objects are passed to a callback instead of kopf's handlers, so that kopf stores nothing on the objects and
needs no finalizers or timers.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import kopf
from aiohttp import ClientError
from kopf._cogs.clients import api as kopf_api
from kopf._cogs.clients import errors as kopf_errors
from kopf._cogs.clients import fetching as kopf_fetching
from kopf._cogs.clients import watching as kopf_watching
from multidict import CIMultiDict

from streamconsumer.errors import ApiThrottled
from streamconsumer.operator.kube.api import (
    CHUNK_BYTES,
    UNCOMPRESSED,
    Connection,
    Headers,
    api_error_message,
    load_connection,
)
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.list_pages import EXPIRED, ListPage, PageQuery
from streamconsumer.operator.kube.resync import WATCHED_KINDS, Resync
from streamconsumer.operator.manifests import Manifest

LISTED = "LISTED"
WATCH_RETRY_SECONDS, MAX_WATCH_RETRY_SECONDS = 1.0, 15.0
"""The delay before a failed watch is restarted, and the maximum delay. The delay doubles with every failure."""

LOGIN_INTERVAL_SECONDS = 5.0
"""The minimum interval between two logins. While the API server rejects the credentials, each login causes a request
per watch."""

log = logging.getLogger(__name__)


def build_registry() -> kopf.OperatorRegistry:
    """Return a registry that makes kopf watch StreamConsumers, their children and their pods."""
    registry = kopf.OperatorRegistry()

    async def never(**_: Any) -> None:
        """Handler that kopf requires but never calls, because `intercept_watches` takes every event before kopf
        does."""

    for api_version, kind in WATCHED_KINDS:
        group, _, version = api_version.rpartition("/")
        kopf.on.event(group, version, kind, id="never", registry=registry)(never)

    next_login_seconds = 0.0

    async def login_with_pause(**arguments: Any) -> kopf.ConnectionInfo:
        """Log in, at most once per LOGIN_INTERVAL_SECONDS. kopf retries a rejected request immediately after the
        login."""
        nonlocal next_login_seconds
        await asyncio.sleep(next_login_seconds - time.monotonic())
        next_login_seconds = time.monotonic() + LOGIN_INTERVAL_SECONDS
        return await login(**arguments)

    kopf.on.login(registry=registry)(login_with_pause)
    return registry


async def login(**_: Any) -> kopf.ConnectionInfo:
    """Return the connection of kopf's watches, with the address, the proxy and the credentials of all other requests.
    kopf calls this function at the start, and again if the API server rejects the credentials."""
    connection = to_watch_connection(await load_connection())
    await asyncio.to_thread(connection.as_ssl_context)
    return connection


@contextmanager
def intercept_watches(kube: KubeClient, resync: Resync, on_object: Callable[[str, Manifest], None]) -> Iterator[None]:
    """Pass the objects of kopf's watches to `on_object` instead of to kopf's own processing.

    For each changed object, kopf would start a task and compare the object with its previous state. These tasks took
    two thirds of the operator's CPU time, and the operator does not use the results. The first argument of `on_object`
    is ADDED, MODIFIED, DELETED or LISTED, and the second argument is the object."""
    watches = _Watches(kube, resync, on_object)
    original_fetch = kopf_fetching.fetch_objs
    kopf_watching.continuous_watch, kopf_watching.watch_objs = watches.continuous_watch, watches.watch_objects
    kopf_fetching.fetch_objs = _fetch_objects
    try:
        yield
    finally:
        kopf_watching.continuous_watch, kopf_watching.watch_objs = watches.original_watch, watches.original_stream
        kopf_fetching.fetch_objs = original_fetch


class _Watches:
    """Replacements for the functions of kopf that watch one kind in one namespace."""

    def __init__(self, kube: KubeClient, resync: Resync, on_object: Callable[[str, Manifest], None]) -> None:
        self._kube, self._resync, self._on_object = kube, resync, on_object
        self.original_watch, self.original_stream = kopf_watching.continuous_watch, kopf_watching.watch_objs
        self._retry_seconds: dict[tuple[Any, Any], float] = {}

    async def continuous_watch(self, *, resource: Any, namespace: Any, **rest: Any) -> AsyncIterator[Any]:
        """List the objects, and watch their changes until an error occurs. kopf then calls this function again. An
        error of one watch affects no other watch."""
        await self._resync.wait_until_served(namespace)
        typed = dict(zip(("apiVersion", "kind"), _kind(resource), strict=True))
        try:
            async for event in self.original_watch(resource=resource, namespace=namespace, **rest):
                if isinstance(event, kopf_watching.Bookmark):
                    self._resync.request(namespace)
                    yield event
                    continue
                if event["type"]:  # the watch works
                    self._retry_seconds.pop((resource, namespace), None)
                if event["type"] == "BOOKMARK":
                    yield event
                else:
                    self._on_object(event["type"] or LISTED, {**typed, **event["object"]})
                    # kopf keeps the last event of each watch, which may have megabytes.
                    cast("Manifest", event["object"]).clear()
        except Exception as error:  # noqa: BLE001 - any error in one watch would end all watches
            watch = f"{resource.plural} in {namespace or 'all namespaces'}"
            log.warning("watch failed; restarting it", extra={"watch": watch, "error": api_error_message(error)})
            self._resync.request(namespace)
            await asyncio.sleep(self._next_retry_seconds((resource, namespace)))

    async def watch_objects(
        self, *, resource: Any, namespace: Any, since: str | None = None, **rest: Any
    ) -> AsyncIterator[Any]:
        """Watch the changes after the resourceVersion `since`.

        If the latest resourceVersion is lower than `since`, etcd was restored from a backup. The API server would
        accept a watch, and silently skip all changes up to `since`. The error EXPIRED makes kopf list the objects
        again."""
        if since is not None and await self._latest_version(resource, namespace) < int(since):
            log.warning("resource versions have decreased; listing the objects again", extra={"watch": resource.plural})
            yield {"type": "ERROR", "object": {"code": EXPIRED}}
            return
        async for event in self.original_stream(resource=resource, namespace=namespace, since=since, **rest):
            yield event

    async def _latest_version(self, resource: Any, namespace: Any) -> int:
        """Return the latest resourceVersion as soon as the API server responds. If a request has failed, also request a
        list, because etcd may have been restored during the interruption."""
        retry_seconds = 0.0
        while True:
            try:
                version = await self._kube.latest_version(*_kind(resource), namespace)
            except ApiThrottled as throttled:
                await asyncio.sleep(throttled.retry_after.total_seconds())
            except (OSError, TimeoutError, ClientError):
                retry_seconds = min(retry_seconds * 2 or WATCH_RETRY_SECONDS, MAX_WATCH_RETRY_SECONDS)
                await asyncio.sleep(retry_seconds)
            else:
                if retry_seconds:
                    self._resync.request(namespace)
                return version

    def _next_retry_seconds(self, watch: tuple[Any, Any]) -> float:
        previous = self._retry_seconds.get(watch, 0.0)
        self._retry_seconds[watch] = min(previous * 2 or WATCH_RETRY_SECONDS, MAX_WATCH_RETRY_SECONDS)
        return self._retry_seconds[watch]


def _kind(resource: Any) -> tuple[str, str]:
    return f"{resource.group}/{resource.version}".lstrip("/"), resource.kind


async def _fetch_objects(
    *, settings: kopf.OperatorSettings, resource: Any, namespace: Any, logger: Any
) -> AsyncIterator[tuple[list[Any], str]]:
    """List the objects as kopf does, but receive and parse them one at a time. Yields lists of objects. The last list
    is empty and has the resourceVersion from which kopf watches."""
    query = PageQuery(",".join(sorted(set(settings.watching.label_selectors.collect(resource)))))
    has_next = True
    while has_next:
        url = resource.get_url(namespace=namespace, params=query.parameters)
        try:
            request = kopf_api.request(method="get", url=url, settings=settings, headers=UNCOMPRESSED, logger=logger)
            response = await request
        except kopf_errors.APIError as error:
            if not query.restart(error.status):
                raise
            continue
        async with response:
            page = ListPage(response.content.iter_chunked(CHUNK_BYTES))
            async for item in page.items():
                yield [item], ""
        has_next = query.advance(page)
    yield [], page.metadata["resourceVersion"]


def to_watch_connection(connection: Connection) -> "WatchConnection":
    """Return the connection of kopf's watches. The address and the credentials are the same as for all other
    requests."""
    configuration = connection.configuration
    scheme, _, token = configuration.api_key.get("BearerToken", "").partition(" ")
    return WatchConnection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme or None,
        token=token or None,
        proxy_url=configuration.proxy,
        tls_server_name=configuration.tls_server_name,
        impersonation=connection.impersonation,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class WatchConnection(kopf.ConnectionInfo):
    """A connection that verifies the chain and the name of a certificate, but without the strict X.509 check of Python
    3.13. A comment in `api.load_connection` explains the reason."""

    impersonation: Headers = ()
    tls_server_name: str | None = None
    """Name in the server's certificate. None if it is the host name of the address."""

    def __eq__(self, other: object) -> bool:
        """Return True only for the same object. kopf would never again use a connection that equals a rejected
        connection, although the API server may reject valid credentials for a while, for example after etcd was
        restored."""
        return self is other

    __hash__ = object.__hash__

    def as_http_headers(self) -> Any:
        return CIMultiDict([*super().as_http_headers().items(), *self.impersonation])

    def as_ssl_context(self) -> ssl.SSLContext:
        """Return the TLS context. The first call reads the files with the certificates and the key."""
        return self._context

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.tls_server_name:
            context.__class__ = _NamedContext
            context.server_name = self.tls_server_name  # type: ignore[attr-defined] # of _NamedContext
        return context


class _NamedContext(ssl.SSLContext):
    """A TLS context for a server with another name than its host name. kopf cannot pass this name to aiohttp."""

    server_name: str

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,  # noqa: ARG002 - ssl's signature
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name, session)


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings. The timeouts are necessary, because watches without timeouts may silently stop (kopf#955,
    #957)."""
    settings = kopf.OperatorSettings()
    settings.watching.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.inactivity_timeout = 70
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    settings.networking.error_backoffs = (1, 2, 4)  # seconds; `_Watches` continues with its own delays
    settings.posting.enabled = False  # the operator records its own Events, with fixed reasons
    settings.peering.standalone = True  # another operator's peering object must not pause this operator (kopf#734)
    settings.scanning.disabled = True  # so that no permission to list CRDs or namespaces is needed
    for (api_version, kind), selector in WATCHED_KINDS.items():
        if selector:
            group, _, version = api_version.rpartition("/")
            settings.watching.label_selectors[group, version, kind] = selector
    return settings
