"""Redis URL, credentials and TLS settings of a pod. The files with these values are read at each connect.

The kubelet updates the files of a running pod within about a minute after a Secret is rotated. Later connects use the
new credentials. Open connections stay valid, because Redis checks a password only once.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.env_codec import env_name
from streamconsumer.model.fields import is_usable_redis_url
from streamconsumer.model.processor_settings import RedisSettings

DEFAULT_PORT = 6379

_ADDRESS_OPTIONS = {"host", "port", "db", "path", "username", "password", "connection_class"}
_POOL_OPTIONS = {"max_connections", "timeout"}

_CONNECTION_CLASSES = {"redis": Connection, "rediss": SSLConnection, "unix": UnixDomainSocketConnection}


@dataclass(frozen=True)
class RedisAddress:
    """Address, database and credentials of one connection."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    socket_path: str = ""
    """Path of a Unix socket. If the path is set, host and port are ignored."""


HostResolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Coroutine function that returns the host names or IP addresses to connect to, in order, for a host and a port."""


async def no_host_lookup(host: str, port: int) -> Sequence[str]:  # noqa: ARG001 - a HostResolver
    """Return the host unchanged, because the system's resolver can resolve it in a pod."""
    return (host,)


class RedisCredentials:
    """Redis settings, combined with the current content of the files that the settings name."""

    def __init__(self, settings: RedisSettings, resolve_host: HostResolver = no_host_lookup) -> None:
        """Check the settings. Raises InvalidSettings if they cannot be used.

        The operator and the CLI pass a `resolve_host`, because they run in another network location than the pods.
        Certificates are verified against the host name in the URL, not against the resolved host.
        """
        self._settings = settings
        self.resolve_host = resolve_host
        self.scheme = self._read_url().partition("://")[0]
        """URL scheme at the start. A running pod cannot switch between plain TCP, TLS and a Unix socket."""

        if self.scheme != "rediss" and self._has_tls_settings:
            raise InvalidSettings(f"{_env_name('tls')}_…: TLS needs a URL that begins with rediss://")
        self.address()
        self.sentinel_credentials()
        self.connection_options()
        if self.scheme == "rediss":
            self.tls_context()

    def address(self) -> RedisAddress:
        """Return the address in the URL. Credentials in separate settings take precedence. Raises InvalidSettings."""
        parts = self._parse_url()
        return RedisAddress(
            host=parts.get("host", "localhost"),
            port=parts.get("port", DEFAULT_PORT),
            database=int(parts.get("db", 0)),
            username=self._read_setting("username") or parts.get("username"),
            password=self._read_setting("password") or parts.get("password"),
            socket_path=parts.get("path", ""),
        )

    def sentinel_credentials(self) -> tuple[str | None, str | None]:
        """Return user name and password for the sentinels."""
        return self._read_setting("sentinel_username"), self._read_setting("sentinel_password")

    def connection_options(self) -> dict[str, Any]:
        """Return the connection options in the URL, such as `?socket_timeout=3`.

        Raises InvalidSettings for an option that redis-py does not accept.
        """
        ignored = _ADDRESS_OPTIONS | _POOL_OPTIONS
        options = {key: value for key, value in self._parse_url().items() if key not in ignored}
        try:
            _CONNECTION_CLASSES[self.scheme](**options)
        except (TypeError, ValueError, AttributeError, RedisError):  # not quoted: may be a password that contains `?`
            raise InvalidSettings(
                f"{_env_name('url')} has an option after ? that a {self.scheme}:// connection does not accept; "
                "remove the option, or, if the ? belongs to the password, write it as %3F"
            ) from None
        return options

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context. None if options in the URL configure TLS, as in `?ssl_ca_certs=…`."""
        return None if self._tls_configured_by_url else self._create_tls_context()

    @property
    def skips_tls_verification(self) -> bool:
        """True if the server's certificate, or the host name in it, is not verified."""
        if not self._tls_configured_by_url:
            return self._settings.tls_insecure_skip_verify
        options = self.connection_options()
        return options.get("ssl_cert_reqs") == "none" or options.get("ssl_check_hostname") is False

    def _create_tls_context(self) -> ssl.SSLContext:
        """Create a context that verifies the certificate chain and the host name.

        A configured CA file replaces the CAs of the system. The strict X.509 check of Python 3.13 is off, because it
        rejects the CAs of many clusters. Raises InvalidSettings with the name of a file that cannot be used.
        """
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.tls_ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise self._file_error("tls_ca_file", "certificates", error) from None
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
        if settings.tls_insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if settings.tls_cert_file is not None:
            try:
                # OpenSSL prompts at the terminal if no password is passed; an encrypted key rejects the empty one.
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password="")
            except OSError as error:
                raise self._file_error("tls_cert_file", "a certificate that matches its private key", error) from None
        return context

    @property
    def _has_tls_settings(self) -> bool:
        settings = self._settings
        return bool(settings.tls_ca_file or settings.tls_cert_file or settings.tls_insecure_skip_verify)

    @property
    def _tls_configured_by_url(self) -> bool:
        """True if only the options of the URL configure TLS."""
        return not self._has_tls_settings and any(key.startswith("ssl_") for key in self.connection_options())

    def _read_url(self) -> str:
        return self._read_setting("url") or ""

    def _parse_url(self) -> dict[str, Any]:
        url = self._read_url()
        parts: dict[str, Any] | None = None
        if url.startswith("unix:") or is_usable_redis_url(url):
            with suppress(ValueError):  # its text may quote the password
                parts = {**parse_url(url)}
        if parts is None:
            raise InvalidSettings(
                f"{_env_name('url')} is not a URL of the form redis://[user:password@]host[:port][/db]; "
                "in a password, write / as %2F, # as %23 and ? as %3F"
            )
        return parts

    def _read_setting(self, name: str) -> str | None:
        """Return a setting, or the current content of its file without the trailing newline that editors add."""
        if (file := getattr(self._settings, f"{name}_file")) is None:
            value = getattr(self._settings, name)
            return value.get_secret_value() if isinstance(value, SecretStr) else value
        try:
            return Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise self._file_error(f"{name}_file", "text", error) from None

    def _file_error(self, name: str, expected: str, error: Exception) -> InvalidSettings:
        setting = f"{_env_name(name)} is {getattr(self._settings, name)}"
        if isinstance(error, FileNotFoundError):
            return InvalidSettings(f"{setting}: file not found; check that the Secret exists and contains the key")
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
        return InvalidSettings(f"{setting}: expected {expected}, found {reason}")


def _env_name(field_name: str) -> str:
    return env_name("redis", field_name)
