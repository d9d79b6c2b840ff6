"""How a StreamConsumer says that its server is reached, with what stands in its Secrets now.

The operator has no files of theirs: what a pod has mounted, it reads through the API. OpenSSL takes certificates from
files alone; they are given to it as files in memory, which no other process sees and nothing writes to a disk.
"""

import os
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from streamconsumer.errors import InvalidSettings, PermissionDenied
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.model.spec import RedisSpec, SecretKeyRef
from streamconsumer.model.status import StreamReason
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests.redis_secrets import redis_settings, secret_files
from streamconsumer.operator.redis_monitor.probe import ProbeResult, unreachable
from streamconsumer.redis_client.credentials import RedisCredentials

NOT_READABLE_MESSAGE = (
    "The operator may not read {}: it cannot look at the stream, so lag and pending are not known, and the group and "
    "its consumers are left to the pods, who need no operator for it. Allow it with rbac.readSecrets."
)
"""What it costs."""


@dataclass
class ResolvedRedis:
    """What a Line is made of. Its files last until it is closed."""

    settings: RedisSettings
    values: dict[str, str] = field(repr=False)
    """By setting: what makes two of these equal, or another one needed."""
    _descriptors: list[int] = field(repr=False)
    _secrets: list[str] = field(repr=False)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def redact(self, message: str) -> str:
        """An error may quote a user's name, or the host of a URL that is a Secret as a whole."""
        for each in self._secrets:
            message = message.replace(each, "…")
        return message


async def resolve_redis_spec(redis: RedisSpec, namespace: str, kube: KubeClient) -> ResolvedRedis | ProbeResult:
    """The way there, or why there is none."""
    values: dict[str, str] = {}
    for setting, _, ref in secret_files(redis):
        found = await _secret_value(kube, namespace, ref)
        if isinstance(found, ProbeResult):
            return found
        values[setting] = found
    held = {setting: _memfd(value) for setting, value in values.items() if setting.startswith("tls_")}
    try:
        return _build_resolved(redis_settings(redis), values, held)
    except (ValidationError, InvalidSettings) as error:
        for each in held.values():
            os.close(each)
        return unreachable(StreamReason.INVALID_SETTINGS, _settings_error_message(error, redis, held))


def _build_resolved(settings: RedisSettings, values: dict[str, str], descriptors: dict[str, int]) -> ResolvedRedis:
    """Certificates as files, everything else as it is."""
    fields: dict[str, Any] = {name: value for name, value in settings if name not in values}
    fields |= {setting: _descriptor_path(descriptor) for setting, descriptor in descriptors.items()}
    texts = {setting: value.rstrip("\r\n") for setting, value in values.items() if setting not in descriptors}
    fields |= {setting.removesuffix("_file"): text for setting, text in texts.items()}
    resolved = RedisSettings(**fields)
    place = RedisCredentials(resolved).address()
    hidden = {text for setting, text in texts.items() if setting != "url_file"}
    if "url_file" in values:
        hidden |= {place.host, place.username or "", place.password or "", place.socket_path}
    return ResolvedRedis(resolved, values, [*descriptors.values()], sorted(hidden - {""}, key=len, reverse=True))


def _settings_error_message(error: Exception, redis: RedisSpec, descriptors: dict[str, int]) -> str:
    """Our own sentences name a file; pydantic's quote what they found, which may be a Secret."""
    keys = {setting: f"key {ref.key} of Secret {ref.name}" for setting, _, ref in secret_files(redis)}
    if not isinstance(error, InvalidSettings):
        return f"{', '.join(keys.values())}: expected what spec.redis takes, such as redis://host:port/database"
    sentence = str(error)
    for setting, descriptor in descriptors.items():
        sentence = sentence.replace(_descriptor_path(descriptor), keys[setting])
    return sentence


async def _secret_value(kube: KubeClient, namespace: str, ref: SecretKeyRef) -> str | ProbeResult:
    try:
        data = await kube.get_secret(namespace, ref.name)
    except PermissionDenied:
        message = NOT_READABLE_MESSAGE.format(f"Secret {ref.name}")
        return unreachable(StreamReason.SECRETS_NOT_READABLE, message, status="Unknown")
    if data is None:
        return unreachable(StreamReason.SECRET_MISSING, f"There is no Secret {ref.name}; create it.")
    if ref.key not in data:
        return unreachable(StreamReason.SECRET_MISSING, f"Secret {ref.name} has no key {ref.key}; expected one.")
    try:
        return data[ref.key].decode()
    except UnicodeDecodeError:
        return unreachable(StreamReason.INVALID_SETTINGS, f"Key {ref.key} of Secret {ref.name} is not text.")


def _descriptor_path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _memfd(text: str) -> int:
    descriptor = os.memfd_create("certificate")
    os.write(descriptor, text.encode())
    return descriptor
