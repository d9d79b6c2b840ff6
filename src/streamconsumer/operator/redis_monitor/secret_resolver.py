"""How a StreamConsumer says that its server is reached, with what stands in its Secrets now.

The operator has no files of theirs: what a pod has mounted, it reads through the API. OpenSSL takes certificates from
files alone; they are given to it as files in memory, which no other process sees and nothing writes to a disk.
"""

import os
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from streamconsumer.errors import InvalidSettings, NotAllowed
from streamconsumer.model.processor_settings import RedisAccess
from streamconsumer.model.spec import Redis, SecretKeyRef
from streamconsumer.model.status import StreamReason
from streamconsumer.operator.kube.client import Cluster
from streamconsumer.operator.manifests.redis_secrets import access, files
from streamconsumer.operator.redis_monitor.probe import Sight, unreachable
from streamconsumer.redis_client.credentials import Access

NOT_READABLE = (
    "The operator may not read {}: it cannot look at the stream, so lag and pending are not known, and the group and "
    "its consumers are left to the pods, who need no operator for it. Allow it with rbac.readSecrets."
)
"""What it costs."""


@dataclass
class Resolved:
    """What a Line is made of. Its files last until it is closed."""

    settings: RedisAccess
    values: dict[str, str] = field(repr=False)
    """By setting: what makes two of these equal, or another one needed."""
    _files: list[int] = field(repr=False)
    _hidden: list[str] = field(repr=False)

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def without_secrets(self, sentence: str) -> str:
        """An error may quote a user's name, or the host of a URL that is a Secret as a whole."""
        for each in self._hidden:
            sentence = sentence.replace(each, "…")
        return sentence


async def resolve(redis: Redis, namespace: str, cluster: Cluster) -> Resolved | Sight:
    """The way there, or why there is none."""
    values: dict[str, str] = {}
    for setting, _, ref in files(redis):
        found = await _value(cluster, namespace, ref)
        if isinstance(found, Sight):
            return found
        values[setting] = found
    held = {setting: _in_memory(value) for setting, value in values.items() if setting.startswith("tls_")}
    try:
        return _resolved(access(redis), values, held)
    except (ValidationError, InvalidSettings) as error:
        for each in held.values():
            os.close(each)
        return unreachable(StreamReason.INVALID_SETTINGS, _what_is_wrong(error, redis, held))


def _resolved(settings: RedisAccess, values: dict[str, str], held: dict[str, int]) -> Resolved:
    """Certificates as files, everything else as it is."""
    fields: dict[str, Any] = {name: value for name, value in settings if name not in values}
    fields |= {setting: _file(descriptor) for setting, descriptor in held.items()}
    texts = {setting: value.rstrip("\r\n") for setting, value in values.items() if setting not in held}
    fields |= {setting.removesuffix("_file"): text for setting, text in texts.items()}
    resolved = RedisAccess(**fields)
    place = Access(resolved).place()
    hidden = {text for setting, text in texts.items() if setting != "url_file"}
    if "url_file" in values:
        hidden |= {place.host, place.username or "", place.password or "", place.path}
    return Resolved(resolved, values, [*held.values()], sorted(hidden - {""}, key=len, reverse=True))


def _what_is_wrong(error: Exception, redis: Redis, held: dict[str, int]) -> str:
    """Our own sentences name a file; pydantic's quote what they found, which may be a Secret."""
    keys = {setting: f"key {ref.key} of Secret {ref.name}" for setting, _, ref in files(redis)}
    if not isinstance(error, InvalidSettings):
        return f"{', '.join(keys.values())}: expected what spec.redis takes, such as redis://host:port/database"
    sentence = str(error)
    for setting, descriptor in held.items():
        sentence = sentence.replace(_file(descriptor), keys[setting])
    return sentence


async def _value(cluster: Cluster, namespace: str, ref: SecretKeyRef) -> str | Sight:
    try:
        data = await cluster.secret(namespace, ref.name)
    except NotAllowed:
        message = NOT_READABLE.format(f"Secret {ref.name}")
        return unreachable(StreamReason.SECRETS_NOT_READABLE, message, status="Unknown")
    if data is None:
        return unreachable(StreamReason.SECRET_MISSING, f"There is no Secret {ref.name}; create it.")
    if ref.key not in data:
        return unreachable(StreamReason.SECRET_MISSING, f"Secret {ref.name} has no key {ref.key}; expected one.")
    try:
        return data[ref.key].decode()
    except UnicodeDecodeError:
        return unreachable(StreamReason.INVALID_SETTINGS, f"Key {ref.key} of Secret {ref.name} is not text.")


def _file(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _in_memory(text: str) -> int:
    descriptor = os.memfd_create("certificate")
    os.write(descriptor, text.encode())
    return descriptor
