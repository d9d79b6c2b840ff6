"""Redis URL, credentials and TLS settings of a pod. The files that contain the URL, credentials and certificates are
read at each connect.

The kubelet updates the files of a running pod within about a minute after a Secret is rotated. Every connection that is
opened after this update uses the new credentials. Open connections stay valid, because Redis checks the password only
when a connection is opened.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.env_codec import env_name
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.model.redis_url import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    InvalidRedisUrl,
    InvalidRedisUrlOption,
    RedisUrl,
    parse_redis_url,
)
from streamconsumer.redis_client.setting_files import read_text_file, run_in_thread
from streamconsumer.redis_client.tls import MAX_CA_BYTES, InvalidPem, TlsMaterial

MAX_SECRET_BYTES = 64 * 1024
"""Maximum size of a file that contains a URL, a user name, a password, a certificate or a private key."""


@dataclass(frozen=True)
class RedisAddress:
    """Address, database and credentials of one connection."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    socket_path: str = ""
    """Path of a Unix socket. If the path is set, host and port are ignored."""


HostResolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Coroutine function that takes a host and a port. Returns the host names or IP addresses to try, in order."""


async def no_host_lookup(host: str, port: int) -> Sequence[str]:  # noqa: ARG001 - a HostResolver
    """Return the host unchanged. In a pod, the system's resolver can resolve the host."""
    return (host,)


@dataclass(frozen=True)
class _Values:
    """Values of all settings at one point in time."""

    url: RedisUrl
    texts: dict[str, str | None] = field(repr=False)
    tls: TlsMaterial | None = field(repr=False)
    """None if the URL does not begin with rediss://."""


class RedisCredentials:
    """Redis settings, combined with the content of the files that the settings name."""

    def __init__(self, settings: RedisSettings, resolve_host: HostResolver = no_host_lookup) -> None:
        """Read the settings, and check all settings except certificates. Raises InvalidSettings for an invalid setting.

        The operator and the CLI run outside the namespace of the pods. Outside this namespace, a host name may refer to
        another host. The operator and the CLI therefore pass a `resolve_host`. Certificates are verified against the
        host name in the URL, not against the resolved host.
        """
        self.settings = settings
        self.resolve_host = resolve_host
        self._values = self._read_values()
        self._context: tuple[TlsMaterial, ssl.SSLContext] | None = None

    @property
    def scheme(self) -> str:
        """URL scheme. A running pod cannot switch between plain TCP, TLS and a Unix socket."""
        return self._values.url.scheme

    async def refresh(self) -> None:
        """Read the files of the settings again, in a thread. Raises InvalidSettings."""
        if not any(name.endswith("_file") and value for name, value in self.settings):
            return
        values = await run_in_thread(self._read_values)
        if values.url.scheme != self.scheme:
            found = f"found {values.url.scheme}://, expected {self.scheme}:// as at startup"
            raise InvalidSettings(f"{_env_name('url_file')}: {found}; restart the process to change the scheme")
        self._values = values

    def address(self) -> RedisAddress:
        """Return the address and the credentials in the URL. Credentials in separate settings take precedence."""
        url, texts = self._values.url, self._values.texts
        return RedisAddress(
            host=url.host,
            port=url.port,
            database=url.database,
            username=texts["username"] or url.username,
            password=texts["password"] or url.password,
            socket_path=url.socket_path,
        )

    def sentinel_credentials(self) -> tuple[str | None, str | None]:
        """Return user name and password for the sentinels."""
        return self._values.texts["sentinel_username"], self._values.texts["sentinel_password"]

    def connection_options(self) -> dict[str, Any]:
        """Return the connection options in the URL, such as `?socket_timeout=3`."""
        return {**self._values.url.connection_options}

    def check_certificates(self) -> None:
        """Raise InvalidSettings if the certificates cannot be used. Takes up to 0.2 s."""
        if self._values.tls is not None:
            self._create_context(self._values.tls)

    async def tls_context(self) -> ssl.SSLContext:
        """Return the TLS context. After a change of the TLS settings, a thread creates a new context.

        Raises InvalidSettings.
        """
        material, context = self._values.tls or TlsMaterial(), self._context
        if context is None or context[0] != material:
            return await run_in_thread(lambda: self._create_context(material))
        return context[1]

    @property
    def skips_tls_verification(self) -> bool:
        """True if the server's certificate, or the host name in it, is not verified."""
        tls = self._values.tls
        return tls is not None and not (tls.verifies_certificate and tls.verifies_host_name)

    def _create_context(self, material: TlsMaterial) -> ssl.SSLContext:
        try:
            context = material.context()
        except InvalidPem as error:
            name = f"tls_{error.name}_file"
            raise InvalidSettings(f"{self._describe(name)}: {error}") from None
        self._context = material, context
        return context

    def _read_values(self) -> _Values:
        url = self._parse_url(self._read_setting("url") or "")
        names = ("username", "password", "sentinel_username", "sentinel_password")
        texts = {name: self._read_setting(name) for name in names}
        settings = self.settings
        certificates = {"ca": self._read_setting("tls_ca", MAX_CA_BYTES)}
        certificates |= {name: self._read_setting(f"tls_{name}") for name in ("cert", "key")}
        if url.scheme != "rediss":
            if any(certificates.values()) or settings.tls_insecure_skip_verify:
                raise InvalidSettings(f"{_env_name('tls')}_…: these variables require a URL that begins with rediss://")
            return _Values(url, texts, None)
        verifies_certificate = url.verifies_certificate and not settings.tls_insecure_skip_verify
        tls = TlsMaterial(
            **certificates,
            verifies_certificate=verifies_certificate,
            verifies_host_name=verifies_certificate and url.verifies_host_name,
        )
        return _Values(url, texts, tls)

    def _parse_url(self, url: str) -> RedisUrl:
        name = _env_name("url")
        try:
            return parse_redis_url(url)
        except InvalidRedisUrlOption as error:
            raise InvalidSettings(f"{name} has an option that cannot be used: {error}") from None
        except InvalidRedisUrl as error:
            raise InvalidSettings(f"{name} {error}") from None

    def _read_setting(self, name: str, max_bytes: int = MAX_SECRET_BYTES) -> str | None:
        """Return a setting, or the current content of its file without the trailing newline that editors add."""
        text = self._read_file(name, max_bytes) if getattr(self.settings, f"{name}_file") else self._text(name)
        if text is not None:
            try:
                text.encode()
            except UnicodeEncodeError:  # half of a surrogate pair, as in an environment variable that is not UTF-8
                raise InvalidSettings(f"{_env_name(name)}: expected text, found bytes that are not UTF-8") from None
        return text

    def _text(self, name: str) -> str | None:
        value = getattr(self.settings, name, None)
        return value.get_secret_value() if isinstance(value, SecretStr) else value

    def _read_file(self, name: str, max_bytes: int) -> str:
        setting = f"{name}_file"
        try:
            return read_text_file(Path(getattr(self.settings, setting)), max_bytes).rstrip("\r\n")
        except FileNotFoundError:
            advice = "check that the Secret exists and contains the key"
            raise InvalidSettings(f"{self._describe(setting)}: file not found; {advice}") from None
        except (OSError, ValueError) as error:  # ValueError: the content is not UTF-8, or the path contains NUL
            raise InvalidSettings(f"{self._describe(setting)}: cannot be read as text: {error}") from None

    def _describe(self, setting: str) -> str:
        file = getattr(self.settings, setting)
        return f"{_env_name(setting)} is {file}" if file else _env_name(setting.removesuffix("_file"))


def _env_name(field_name: str) -> str:
    return env_name("redis", field_name)
