"""Writer of the status of StreamConsumers, even if the CRD in the cluster is older than the operator.

Helm does not upgrade a CRD that it does not manage. If a server-side apply contains fields that the CRD lacks, the API
server responds with the HTTP status 500. The error text names only some of these fields. The writer therefore leaves
out the named fields and tries again. The writer remembers these fields, so that later writes need only one request.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from streamconsumer.model.status import Status
from streamconsumer.operator.kube.api import ApiError, api_error_message
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests import Manifest

RECHECK_INTERVAL = timedelta(seconds=30)
"""Interval at which a write contains all fields again, to detect an upgrade of the CRD."""

OLDER_CRD = "the CRD in the cluster is older than the operator; the status lacks the fields that the CRD does not have"
REMEDY = "apply the CRD of this version: streamconsumer crd | kubectl apply --server-side -f -"

_UNDECLARED = re.compile(r"(?:^|: )\s*\.status\.(\S+): field not declared in schema$", re.MULTILINE)
_LIST_KEY = re.compile(r"\[[^\]]*\]")

Fields = frozenset[str]
"""Paths of fields in the status, such as `stream.lag` and `conditions[].reason`."""

log = logging.getLogger(__name__)


class StatusWriter:
    """Writes the status of StreamConsumers."""

    def __init__(self, kube: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube, self._clock = kube, clock
        self._rechecked_seconds = clock()
        self.undeclared: Fields = frozenset()
        """Fields that the CRD in the cluster lacks. Empty if no write has found a missing field."""

    async def write(self, namespace: str, name: str, status: Status) -> Manifest | None:
        """Write the whole status, without the fields that the CRD lacks. Returns the object, or None if the object no
        longer exists."""
        document = status.model_dump(by_alias=True, exclude_none=True)
        omitted = frozenset() if self._is_recheck_due() else self.undeclared
        while True:
            try:
                written = await self._kube.apply_status(namespace, name, without_fields(document, omitted))
            except ApiError as error:
                found = undeclared_fields(api_error_message(error))
                if found <= omitted:
                    raise
                omitted |= found
            else:
                self._record(omitted | self.undeclared - frozenset(field_paths(document)))
                return written

    @property
    def warning(self) -> str:
        """The problem and the remedy if the CRD is older than the operator, otherwise an empty string."""
        return f"{OLDER_CRD}; {REMEDY}" if self.undeclared else ""

    def _is_recheck_due(self) -> bool:
        now = self._clock()
        is_due = now - self._rechecked_seconds >= RECHECK_INTERVAL.total_seconds()
        if is_due:
            self._rechecked_seconds = now
        return is_due

    def _record(self, undeclared: Fields) -> None:
        """Store the fields that the CRD lacks. Logs a warning if one of these fields was not stored before."""
        if undeclared - self.undeclared:
            log.warning(OLDER_CRD, extra={"fields": sorted(undeclared), "remedy": REMEDY})
        elif self.undeclared and not undeclared:
            log.info("the CRD in the cluster has all fields of the status")
        self.undeclared = undeclared


def undeclared_fields(message: str) -> Fields:
    """Return the fields of the status that the CRD lacks, according to the API server's error message."""
    return frozenset(_LIST_KEY.sub("[]", path) for path in _UNDECLARED.findall(message))


def without_fields(value: Any, omitted: Fields, parent: str = "") -> Any:
    """Return a copy of the status, or of the part at the path `parent`, without the omitted fields."""
    if isinstance(value, list):
        return [without_fields(item, omitted, f"{parent}[]") for item in value]
    if not isinstance(value, dict):
        return value
    paths = {name: _join(parent, name) for name in value}
    return {
        name: without_fields(inner, omitted, paths[name]) for name, inner in value.items() if paths[name] not in omitted
    }


def field_paths(value: Any, parent: str = "") -> Iterator[str]:
    """Yield the path of each field in the status, or in the part at the path `parent`."""
    if isinstance(value, list):
        for item in value:
            yield from field_paths(item, f"{parent}[]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield _join(parent, name)
            yield from field_paths(inner, _join(parent, name))


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
