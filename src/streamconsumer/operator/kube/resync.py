"""Complete lists of the watched objects, for each watched namespace.

The namespaces are independent. A namespace is served while the operator can list all its objects. If the API server
refuses a list, for example because the namespace or its RoleBinding was deleted, only this namespace is not served. The
operator then drops the objects of the namespace from its cache, and repeats the list until the API server allows it. If
a list fails for another reason, for example because the API server is down, the operator continues with its cache.

Without `watch_namespaces`, there is a single list and a single watch per kind for the whole cluster.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import cycle

from streamconsumer.errors import ApiThrottled
from streamconsumer.model import names
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.api import ApiError, api_error_message
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests import CHILD_KINDS

SELECTOR = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER},{names.LABEL_CONSUMER}"
"""The label selector of the watched children and pods. The API server sends no other objects."""

WATCHED_KINDS: Mapping[tuple[str, str], str] = {
    **dict.fromkeys([*CHILD_KINDS, ("v1", "Pod")], SELECTOR),
    (names.API_VERSION, names.KIND): "",
}
"""Label selector of each watched kind. Children precede StreamConsumers, so that the cache contains the children of
each StreamConsumer that it contains."""

RESYNC_INTERVAL = timedelta(minutes=10)
"""The interval, varied randomly by ±25 %, at which every StreamConsumer is reconciled even if no event arrives."""

CHECK_INTERVAL = timedelta(seconds=20)
"""The interval, varied randomly by ±25 %, at which the operator checks whether it may still list a namespace. The API
server does not end the running watches of a user who has lost the permission."""

SETTLE_SECONDS = 2.0
"""The delay between a request for a list and the list. kopf lists one kind after another, and a single list follows all
of these lists."""

RETRY_SECONDS, MAX_RETRY_SECONDS = 2.0, 10.0
"""The delay after the first failed list, and the maximum delay. The delay doubles with every failure."""

MAX_CONCURRENT_LISTS = 8

START_SECONDS = 10.0
"""The time for which the start of the operator waits for the lists of all namespaces. After this time, the list of one
namespace is sufficient."""

FORBIDDEN = 403

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Scope:
    """A watched namespace, or all namespaces if `namespace` is None."""

    namespace: str | None
    served: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the cache contains all objects of the namespace."""
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    problem: str = ""
    """Reason why the last list failed. Empty if the last list succeeded."""
    retry_seconds: float = 0.0
    """Delay before the next attempt. 0 if the last list succeeded."""
    first_attempt: asyncio.Task[None] | None = None
    """The list that `start` has started."""


class Resync:
    """Updates the cache from complete lists, and enqueues every listed StreamConsumer."""

    def __init__(
        self, kube: KubeClient, cache: ObjectCache, enqueue: Callable[[Key], None], namespaces: Sequence[str]
    ) -> None:
        """`namespaces` lists the watched namespaces. If the list is empty, all namespaces are watched."""
        self._kube, self._cache, self._enqueue = kube, cache, enqueue
        watched: list[str | None] = [*namespaces] or [None]
        self._scopes = {namespace: _Scope(namespace) for namespace in watched}
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_LISTS)

    async def start(self) -> None:
        """List every namespace. Returns when at least one namespace is served, and the lists of the other namespaces
        have ended or START_SECONDS have passed."""
        while not self.has_served:
            await asyncio.sleep(min(scope.retry_seconds for scope in self._scopes.values()))
            for scope in self._scopes.values():
                scope.first_attempt = asyncio.create_task(self._try_list(scope))
            attempts = [scope.first_attempt for scope in self._scopes.values() if scope.first_attempt]
            _, pending = await asyncio.wait(attempts, timeout=START_SECONDS)
            while pending and not self.has_served:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)

    async def run(self) -> None:
        """List each namespace when a list is requested, and at least once per RESYNC_INTERVAL, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for scope in self._scopes.values():
                group.create_task(self._keep_listed(scope))

    def request(self, namespace: str | None) -> None:
        """Request a list, because a watch has been interrupted. Watches do not report the objects that were deleted
        during the interruption."""
        self._scope(namespace).requested.set()

    def is_served(self, namespace: str) -> bool:
        """Return True if the cache contains all objects of the namespace."""
        return self._scope(namespace).served.is_set()

    async def wait_until_served(self, namespace: str | None) -> None:
        """Wait until the operator serves the namespace."""
        await self._scope(namespace).served.wait()

    @property
    def has_served(self) -> bool:
        """True if the operator serves at least one namespace."""
        return any(scope.served.is_set() for scope in self._scopes.values())

    def served(self) -> dict[str, bool]:
        """Return whether the operator serves each watched namespace. The key for all namespaces is an empty string."""
        return {scope.namespace or "": scope.served.is_set() for scope in self._scopes.values()}

    def warning(self) -> str:
        """Return which namespaces the operator does not serve, and the reasons. Empty if all namespaces are served."""
        missing = [scope for scope in self._scopes.values() if not scope.served.is_set()]
        return "; ".join(f"not serving {_name(scope)}: {scope.problem or 'waiting for the list'}" for scope in missing)

    async def find_obstacle(self) -> str:
        """Return the reason why the operator could not serve any namespace, or an empty string if it could serve a
        namespace. An operator that is not the leader calls this method instead of listing all objects."""
        problem = ""
        for scope in self._scopes.values():
            try:
                for kind in WATCHED_KINDS:
                    await self._kube.latest_version(*kind, scope.namespace)
            except Exception as error:  # noqa: BLE001 - the next namespace may have no problem
                problem = f"cannot serve {_name(scope)}: {api_error_message(error)}"
            else:
                return ""
        return problem

    def _scope(self, namespace: str | None) -> _Scope:
        return self._scopes.get(namespace) or self._scopes[None]

    async def _keep_listed(self, scope: _Scope) -> None:
        if scope.first_attempt:
            await scope.first_attempt
        while True:
            if scope.retry_seconds:
                await asyncio.sleep(scope.retry_seconds)
            else:
                await self._wait_until_due(scope)
                await asyncio.sleep(SETTLE_SECONDS)
            scope.requested.clear()
            await self._try_list(scope)

    async def _wait_until_due(self, scope: _Scope) -> None:
        """Wait until a list is requested, the operator may no longer list the namespace, or RESYNC_INTERVAL has passed.
        The checks take turns with the kinds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(with_jitter(RESYNC_INTERVAL)):
                for kind in cycle(WATCHED_KINDS):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(with_jitter(CHECK_INTERVAL)):
                            await scope.requested.wait()
                            return
                    if await self._is_refused(scope, kind):
                        return

    async def _is_refused(self, scope: _Scope, kind: tuple[str, str]) -> bool:
        try:
            await self._kube.latest_version(*kind, scope.namespace)
        except Exception as error:  # noqa: BLE001 - the watches handle other errors
            return _is_forbidden(error)
        return False

    async def _try_list(self, scope: _Scope) -> None:
        try:
            async with self._slots:
                keys = await self._list(scope.namespace)
        except Exception as error:  # noqa: BLE001 - without a list, retrying is the only option
            self._record_failure(scope, error)
            return
        if scope.problem:
            log.info("listed resources after a failure", extra={"namespace": _name(scope)})
        scope.problem, scope.retry_seconds = "", 0.0
        scope.served.set()
        for key in keys:
            self._enqueue(key)

    async def _list(self, namespace: str | None) -> set[Key]:
        """Update the cache from complete lists. Returns the keys of all StreamConsumers that have or had objects."""
        versions_before, listed_uids, keys = self._cache.begin_list(namespace), set[str](), set[Key | None]()
        for (api_version, kind), selector in WATCHED_KINDS.items():
            async for manifest in self._kube.list(api_version, kind, namespace, selector):
                listed_uids.add(manifest["metadata"]["uid"])
                keys.add(self._cache.upsert(manifest, versions_before))
        keys |= self._cache.remove_missing(versions_before, listed_uids)
        return {key for key in keys if key}

    def _record_failure(self, scope: _Scope, error: Exception) -> None:
        problem = api_error_message(error)
        if _is_forbidden(error) and scope.served.is_set():
            self._stop_serving(scope)
        if problem != scope.problem:
            extra = {"namespace": _name(scope), "served": scope.served.is_set(), "error": problem}
            log.warning("failed to list resources; retrying", extra=extra)
        wanted = error.retry_after.total_seconds() if isinstance(error, ApiThrottled) else 0.0
        scope.problem = problem
        scope.retry_seconds = max(wanted, min(scope.retry_seconds * 2 or RETRY_SECONDS, MAX_RETRY_SECONDS))

    def _stop_serving(self, scope: _Scope) -> None:
        """Drop the objects of the namespace, because the operator can neither observe nor change these objects. The
        enqueued reconciles drop the states of the StreamConsumers, and stop polling their streams."""
        scope.served.clear()
        for key in self._cache.remove_missing(self._cache.begin_list(scope.namespace), ()):
            if key:
                self._enqueue(key)


def _is_forbidden(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.status == FORBIDDEN


def with_jitter(interval: timedelta) -> float:
    """Return the interval in seconds, varied randomly by ±25 %."""
    return interval.total_seconds() * random.uniform(0.75, 1.25)  # noqa: S311 - jitter


def _name(scope: _Scope) -> str:
    return "all namespaces" if scope.namespace is None else f"namespace {scope.namespace}"
