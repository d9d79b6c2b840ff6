"""Reads the Secrets that StreamConsumers and pods name, with the rights of the caller."""

from collections.abc import Iterable

from streamconsumer.cli.cluster import NAME
from streamconsumer.cli.cluster.connection import Manifest
from streamconsumer.cli.report.named import Reference, SecretValue, references
from streamconsumer.errors import NotAllowed
from streamconsumer.operator.cluster import Cluster


class Secrets:
    """Secrets, each read once."""

    def __init__(self, api: Cluster) -> None:
        self._api = api
        self._read: dict[tuple[str, str], dict[str, bytes] | str] = {}
        self._values: dict[str, SecretValue] = {}

    @property
    def values(self) -> list[SecretValue]:
        """The values that were read, in the order of their labels."""
        return [self._values[label] for label in sorted(self._values)]

    async def read(self, namespace: str, manifests: Iterable[Manifest]) -> dict[str, str]:
        """Read the Secrets that the manifests name. Returns the Secrets whose values remain unknown, with the reason.

        An optional Secret that does not exist has no values.
        """
        unknown = {}
        for reference in sorted({*references(list(manifests))}):
            if reason := await self._one(namespace, reference):
                unknown[f"Secret {namespace}/{reference.name}"] = reason
        return unknown

    async def _one(self, namespace: str, reference: Reference) -> str:
        """Why values remain unknown; empty if none do."""
        data = await self._data(namespace, reference.name)
        if isinstance(data, str):
            return data
        chosen = {key: value for key, value in data.items() if reference.key in ("", key)}
        for key, value in chosen.items():
            found = SecretValue(f"{namespace}/{reference.name}", key, value)
            self._values[found.label] = found
        if chosen or reference.optional:
            return ""
        return f"key {reference.key} not found" if data and reference.key else "not found, or empty"

    async def _data(self, namespace: str, name: str) -> dict[str, bytes] | str:
        """The data of the Secret, none if it does not exist, or the reason why it cannot be read."""
        if not NAME.fullmatch(name):  # it would be another path at the API server
            return "not a name of a Secret"
        if (namespace, name) not in self._read:
            try:
                self._read[namespace, name] = await self._api.secret(namespace, name) or {}
            except NotAllowed as error:
                self._read[namespace, name] = str(error)
        return self._read[namespace, name]
