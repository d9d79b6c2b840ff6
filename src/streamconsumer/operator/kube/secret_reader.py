"""Reader for Secrets in the namespaces in which the operator is allowed to get Secrets.

By default, the operator is not allowed to get Secrets. A RoleBinding grants this permission in one namespace, and
deleting the RoleBinding revokes the permission. The operator has no permission to watch RoleBindings, so no watch
reports that the permission was granted or revoked. For each namespace, the operator therefore asks the API server once
per CHECK_INTERVAL whether the permission exists. While the permission is missing, reads fail without a request. Even
thousands of StreamConsumers in one namespace therefore cause only one request per interval.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from streamconsumer.errors import PermissionDenied
from streamconsumer.operator.kube.api import ApiError, api_error_message
from streamconsumer.operator.kube.client import KubeClient, secret_data
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.rbac import grant_command

CHECK_INTERVAL = timedelta(minutes=1)
"""The time after which the permission in a namespace is checked again."""

TICK = timedelta(seconds=5)
"""The interval at which the operator searches for namespaces whose check is due."""

UNUSED_AFTER = timedelta(minutes=30)
"""If no Secret of a namespace has been requested for this time, the permission in the namespace is no longer checked.
This time is longer than the interval between two resyncs."""

NOT_READABLE_MESSAGE = (
    "The operator is not allowed to get Secrets in namespace {namespace}. Without this permission, the operator does "
    "not monitor or autoscale streams whose spec.redis refers to a Secret. For such a stream, the number of pods does "
    "not change, and is at least 1. The operator also does not replace pods after a Secret in env or envFrom changes. "
    "Running pods are not affected. To grant the permission, run: {command}"
)
"""Condition message if the operator is not allowed to read Secrets. The message names all effects and the remedy."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Access:
    """The permission to get Secrets in one namespace."""

    is_granted: bool | None = None
    """True if the permission exists, or None before the first check of the permission."""
    checked_seconds: float = 0.0
    used_seconds: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Lock that each read of a Secret holds. Reads therefore run one after another, and a revoked permission causes
    only one refused read."""


class SecretReader:
    """Reads Secrets and ConfigMaps. If the operator is not allowed to get the Secrets of a namespace, a read of a
    Secret raises PermissionDenied with NOT_READABLE_MESSAGE."""

    def __init__(
        self,
        kube: KubeClient,
        on_change: Callable[[str], None],
        *,
        is_cluster_wide: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_change` is called with a namespace when the permission in this namespace was granted or revoked.
        `is_cluster_wide` is True if the operator watches all namespaces."""
        self._kube, self._on_change, self._is_cluster_wide, self._clock = kube, on_change, is_cluster_wide, clock
        self._accesses: dict[str, _Access] = {}
        self._user: str | None = None
        """The user name of the operator, or None before the first request for the user name."""
        self._user_lock = asyncio.Lock()

    async def check(self, namespace: str) -> None:
        """Raise PermissionDenied if the operator is not allowed to get the Secrets of this namespace. The first call
        for a namespace sends a request; later calls use the result of the last check."""
        await self._granted_access(namespace)

    async def get_config_object(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return a Secret or ConfigMap, or None if the object does not exist. Raises PermissionDenied."""
        if kind != "Secret":
            return await self._kube.get_config_object(kind, namespace, name)
        access = await self._granted_access(namespace)
        async with access.lock:
            return await self._read(namespace, name, access)

    async def get_secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        """Return the decoded data of a Secret, or None if the Secret does not exist. Raises PermissionDenied."""
        return secret_data(await self.get_config_object("Secret", namespace, name))

    async def run(self) -> None:
        """Check the permission in every used namespace once per CHECK_INTERVAL, until cancelled."""
        while True:
            await asyncio.sleep(TICK.total_seconds())
            try:
                await self.check_due()
            except Exception as error:  # noqa: BLE001 - for example, the API server is down; the last results stay valid
                extra = {"error": api_error_message(error)}
                log.warning("failed to check the permission to get Secrets; retrying", extra=extra)

    async def check_due(self) -> None:
        """Check the permission in the namespaces whose last check is older than CHECK_INTERVAL. If a check fails, the
        last result stays valid, the other namespaces are still checked, and the first error is raised."""
        failure: Exception | None = None
        for namespace, access in [*self._accesses.items()]:
            now = self._clock()
            if now - access.used_seconds > UNUSED_AFTER.total_seconds():
                del self._accesses[namespace]
            elif access.is_granted is not None and now - access.checked_seconds >= CHECK_INTERVAL.total_seconds():
                try:
                    await self._update(namespace, access)
                except Exception as error:  # noqa: BLE001 - raised below
                    failure = failure or error
        if failure:
            raise failure

    async def _granted_access(self, namespace: str) -> _Access:
        access = self._accesses.setdefault(namespace, _Access())
        access.used_seconds = self._clock()
        if access.is_granted is None:
            async with access.lock:
                if access.is_granted is None:
                    await self._update(namespace, access)
        if not access.is_granted:
            raise await self._denied(namespace)
        return access

    async def _read(self, namespace: str, name: str, access: _Access) -> Manifest | None:
        if not access.is_granted:  # the permission was revoked while this read waited for another read
            raise await self._denied(namespace)
        try:
            return await self._kube.get_config_object("Secret", namespace, name)
        except PermissionDenied:
            self._record(namespace, access, is_granted=False)
            raise await self._denied(namespace) from None

    async def _update(self, namespace: str, access: _Access) -> None:
        try:
            is_granted = await self._kube.can_i("get", "secrets", namespace)
        except ApiError as error:
            if error.status != 403:
                raise
            is_granted = True  # access reviews are forbidden, so only a read can show whether the permission is granted
        self._record(namespace, access, is_granted=is_granted)

    def _record(self, namespace: str, access: _Access, *, is_granted: bool) -> None:
        was_granted, access.is_granted, access.checked_seconds = access.is_granted, is_granted, self._clock()
        if was_granted not in {None, is_granted}:
            log.info(
                "the operator's permission to get Secrets has changed",
                extra={"namespace": namespace, "granted": is_granted},
            )
            self._on_change(namespace)

    async def _denied(self, namespace: str) -> PermissionDenied:
        async with self._user_lock:
            if self._user is None:
                self._user = await self._own_user()
        command = grant_command(namespace, self._user, is_cluster_wide=self._is_cluster_wide)
        return PermissionDenied(NOT_READABLE_MESSAGE.format(namespace=namespace, command=command))

    async def _own_user(self) -> str:
        """Return the user name of the operator, or an empty string if the operator is not allowed to ask for its own
        user name."""
        try:
            return await self._kube.own_user()
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            return ""
