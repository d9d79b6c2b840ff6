"""Connection settings of a StreamConsumer, with the current values of its Secrets.

The operator's pod does not mount these Secrets, so the operator reads the Secrets through the Kubernetes API. OpenSSL
loads certificates only from files. The operator therefore stores certificates in files in memory, which other processes
cannot see and which are never written to a disk.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.model.spec import RedisSpec, SecretKeyRef
from streamconsumer.model.status import StreamReason
from streamconsumer.operator.manifests.redis_secrets import redis_settings, secret_files
from streamconsumer.operator.redis_monitor.probe import ProbeResult, unreachable
from streamconsumer.redis_client.credentials import RedisCredentials


class SecretSource(Protocol):
    """The method that this module needs, of `SecretReader` in the operator and of `KubeClient` in the command line."""

    async def get_secret(self, namespace: str, name: str) -> dict[str, bytes] | None: ...


@dataclass
class ResolvedRedis:
    """Settings of a `PipelineClient`. The certificate files in memory exist until `close` is called."""

    settings: RedisSettings
    values: dict[str, str] = field(repr=False)
    """Values from Secrets, by name of the setting. If a value has changed, a new connection is required."""
    _descriptors: list[int] = field(repr=False)
    _secrets: list[str] = field(repr=False)

    def close(self) -> None:
        """Close the files in memory."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def redact(self, message: str) -> str:
        """Replace values from Secrets in an error message with an ellipsis.

        An error message may quote the user name, or the host in a URL that comes from a Secret."""
        for secret in self._secrets:
            message = message.replace(secret, "…")
        return message


async def resolve_redis_spec(redis: RedisSpec, namespace: str, secrets: SecretSource) -> ResolvedRedis | ProbeResult:
    """Read the Secrets and build the settings. Returns a failed ProbeResult if a Secret or a setting is unusable.
    Raises PermissionDenied if reading a Secret is not allowed."""
    values: dict[str, str] = {}
    for setting, _, ref in secret_files(redis):
        value = await _secret_value(secrets, namespace, ref)
        if isinstance(value, ProbeResult):
            return value
        values[setting] = value
    descriptors = {setting: _memfd(value) for setting, value in values.items() if setting.startswith("tls_")}
    try:
        return _build_resolved(redis_settings(redis), values, descriptors)
    except (ValidationError, InvalidSettings) as error:
        for descriptor in descriptors.values():
            os.close(descriptor)
        return unreachable(StreamReason.INVALID_SETTINGS, _settings_error_message(error, redis, descriptors))


def _build_resolved(settings: RedisSettings, values: dict[str, str], descriptors: dict[str, int]) -> ResolvedRedis:
    """Build the settings. Certificates become paths of files in memory; other values from Secrets are inserted."""
    fields: dict[str, Any] = {name: value for name, value in settings if name not in values}
    fields |= {setting: _descriptor_path(descriptor) for setting, descriptor in descriptors.items()}
    texts = {setting: value.rstrip("\r\n") for setting, value in values.items() if setting not in descriptors}
    fields |= {setting.removesuffix("_file"): text for setting, text in texts.items()}
    resolved = RedisSettings(**fields)
    address = RedisCredentials(resolved).address()
    secrets = {text for setting, text in texts.items() if setting != "url_file"}
    if "url_file" in values:
        secrets |= {address.host, address.username or "", address.password or "", address.socket_path}
    return ResolvedRedis(resolved, values, [*descriptors.values()], sorted(secrets - {""}, key=len, reverse=True))


def _settings_error_message(error: Exception, redis: RedisSpec, descriptors: dict[str, int]) -> str:
    """Describe invalid settings without quoting a value from a Secret.

    If an InvalidSettings error names a file in memory, the message names the Secret and its key instead. The text of a
    pydantic error is not used, because this text quotes the invalid value."""
    keys = {setting: f"key {ref.key} of Secret {ref.name}" for setting, _, ref in secret_files(redis)}
    if not isinstance(error, InvalidSettings):
        return (
            f"{', '.join(keys.values())}: expected a value that spec.redis accepts, such as redis://host:port/database"
        )
    message = str(error)
    for setting, descriptor in descriptors.items():
        message = message.replace(_descriptor_path(descriptor), keys[setting])
    return message


async def _secret_value(secrets: SecretSource, namespace: str, ref: SecretKeyRef) -> str | ProbeResult:
    data = await secrets.get_secret(namespace, ref.name)
    if data is None:
        return unreachable(StreamReason.SECRET_MISSING, f"Secret {ref.name} does not exist; create it.")
    if ref.key not in data:
        return unreachable(StreamReason.SECRET_MISSING, f"Secret {ref.name} has no key {ref.key}; add it.")
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
