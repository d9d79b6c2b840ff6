"""Connection settings of a StreamConsumer, with the current values of its Secrets.

The operator's pod does not mount the Secrets of StreamConsumers, so the operator reads these Secrets through the
Kubernetes API. Values from Secrets are inserted as text. A Secret or a StreamConsumer therefore cannot make the
operator open a file.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.env_codec import env_name
from streamconsumer.model.processor_settings import InlineRedisSettings, RedisSettings
from streamconsumer.model.spec import RedisSpec, SecretKeyRef
from streamconsumer.model.status import StreamReason
from streamconsumer.operator.manifests.redis_secrets import redis_settings, secret_files
from streamconsumer.operator.redis_monitor.probe import ProbeResult, unreachable
from streamconsumer.redis_client.credentials import (
    MAX_SECRET_BYTES,
    HostResolver,
    RedisAddress,
    RedisCredentials,
    no_host_lookup,
)
from streamconsumer.redis_client.setting_files import run_in_thread
from streamconsumer.redis_client.tls import MAX_CA_BYTES
from streamconsumer.redis_client.topology import topology


class SecretSource(Protocol):
    """Source of Secrets: `SecretReader` in the operator, and `KubeClient` in the CLI."""

    async def get_secret(self, namespace: str, name: str) -> dict[str, bytes] | None: ...


NO_UNIX_SOCKET = (
    "begins with unix://, which only pods can use, because the socket is on the pod's node; use redis:// or rediss://"
)


@dataclass(frozen=True)
class ResolvedRedis:
    """Credentials for a `PipelineClient`, which include the values from Secrets, and the TLS context for its
    connections."""

    credentials: RedisCredentials
    _secrets: list[str] = field(repr=False)

    def redact(self, message: str) -> str:
        """Replace values from Secrets in an error message with an ellipsis.

        An error message may quote the user name, or the host in a URL that comes from a Secret."""
        for secret in self._secrets:
            message = message.replace(secret, "…")
        return message


async def resolve_redis_spec(redis: RedisSpec, namespace: str, secrets: SecretSource) -> ResolvedRedis | ProbeResult:
    """Read the Secrets and build the credentials. Returns a failed ProbeResult if a Secret or a setting is unusable.
    Raises PermissionDenied if reading a Secret is not allowed."""
    values = await read_secret_values(redis, namespace, secrets)
    return values if isinstance(values, ProbeResult) else await resolve_values(redis, values, no_host_lookup)


async def read_secret_values(redis: RedisSpec, namespace: str, secrets: SecretSource) -> dict[str, str] | ProbeResult:
    """Return the values from Secrets, by name of the setting. Returns a failed ProbeResult if a Secret is unusable.
    Raises PermissionDenied if reading a Secret is not allowed."""
    values: dict[str, str] = {}
    for setting, _, ref in secret_files(redis):
        max_bytes = MAX_CA_BYTES if setting == "tls_ca_file" else MAX_SECRET_BYTES
        value = await _secret_value(secrets, namespace, ref, max_bytes)
        if isinstance(value, ProbeResult):
            return value
        values[setting] = value
    return values


async def resolve_values(
    redis: RedisSpec, values: dict[str, str], resolve_host: HostResolver
) -> ResolvedRedis | ProbeResult:
    """Build and check the credentials. Returns a failed ProbeResult if the settings are unusable.

    A thread builds the TLS context, which takes up to 0.2 s. Raises OSError if the thread does not end in time."""
    try:
        credentials = RedisCredentials(_inline_settings(redis_settings(redis), values), resolve_host)
        topology(credentials, "")
        _check_scheme(credentials.scheme)
        await run_in_thread(credentials.check_certificates)
    except (ValidationError, InvalidSettings) as error:
        return unreachable(StreamReason.INVALID_SETTINGS, _settings_error_message(error, redis))
    return ResolvedRedis(credentials, _secret_texts(values, credentials.address()))


def _check_scheme(scheme: str) -> None:
    if scheme == "unix":
        raise InvalidSettings(f"{env_name('redis', 'url')} {NO_UNIX_SOCKET}")


def _inline_settings(settings: RedisSettings, values: dict[str, str]) -> InlineRedisSettings:
    """Replace the file paths in the settings with the values from Secrets."""
    fields: dict[str, Any] = {name: value for name, value in settings if name not in values}
    texts = {setting.removesuffix("_file"): value.rstrip("\r\n") for setting, value in values.items()}
    return InlineRedisSettings(**{**fields, **texts})


def _secret_texts(values: dict[str, str], address: RedisAddress) -> list[str]:
    """Return the texts that no message may quote, longest first."""
    not_quoted = [setting for setting in values if setting != "url_file" and not setting.startswith("tls_")]
    secrets = {values[setting].rstrip("\r\n") for setting in not_quoted}
    if "url_file" in values:
        secrets |= {address.host, address.username or "", address.password or ""}
    return sorted(secrets - {""}, key=len, reverse=True)


def _settings_error_message(error: Exception, redis: RedisSpec) -> str:
    """Describe invalid settings without quoting a value from a Secret.

    The message names the field of the spec, or the Secret and its key, instead of the environment variable of a pod.
    The text of a pydantic error is not used, because this text quotes the invalid value."""
    places = {setting: f"key {ref.key} of Secret {ref.name}" for setting, _, ref in secret_files(redis)}
    if isinstance(error, ValidationError):
        expected = "expected a value that spec.redis accepts, such as redis://host:port/database"
        return f"{', '.join(places.values())}: {expected}"
    message = str(error)
    fields = {"url": "spec.redis.url", "tls_…": "spec.redis.tls", "sentinel_nodes": "spec.redis.sentinel.nodes"}
    fields |= {setting.removesuffix("_file"): place for setting, place in places.items()}
    for setting in sorted(fields, key=len, reverse=True):
        if message.startswith(name := env_name("redis", setting)):
            return f"{fields[setting]}{message.removeprefix(name)}"
    return message


async def _secret_value(secrets: SecretSource, namespace: str, ref: SecretKeyRef, max_bytes: int) -> str | ProbeResult:
    data = await secrets.get_secret(namespace, ref.name)
    if data is None:
        return unreachable(StreamReason.SECRET_MISSING, f"Secret {ref.name} does not exist; create it.")
    if ref.key not in data:
        return unreachable(StreamReason.SECRET_MISSING, f"Secret {ref.name} has no key {ref.key}; add it.")
    if (size := len(data[ref.key])) > max_bytes:
        message = f"Key {ref.key} of Secret {ref.name}: found {size} bytes, expected at most {max_bytes}; shorten it."
        return unreachable(StreamReason.INVALID_SETTINGS, message)
    try:
        return data[ref.key].decode()
    except UnicodeDecodeError:
        return unreachable(StreamReason.INVALID_SETTINGS, f"Key {ref.key} of Secret {ref.name} is not text.")
