"""What a pod was told about Redis, as it stands now: files are read anew at each connect.

The kubelet brings a rotated Secret into a running pod's files within about a minute. Whoever connects after that uses
the new one; a connection that is there already stays good, for Redis asks for a password once.
"""

import ssl
from collections.abc import Awaitable, Callable
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
    """Where to connect, and as whom."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    socket_path: str = ""
    """Of a socket; then host and port count for nothing."""


HostResolver = Callable[[str, int], Awaitable[str]]
"""A host and a port → the name to connect by."""


async def no_host_lookup(host: str, port: int) -> str:  # noqa: ARG001 - a Dial
    """A pod's hosts are what its own resolver says."""
    return host


class RedisCredentials:
    """The settings, with what stands in their files. Raises InvalidSettings for what cannot be used already."""

    def __init__(self, settings: RedisSettings, resolve_host: HostResolver = no_host_lookup) -> None:
        """`dial` is for who looks from elsewhere; certificates are held against the host as it is written."""
        self._settings = settings
        self.resolve_host = resolve_host
        self.scheme = self._read_url().partition("://")[0]
        """Of the URL at start: a pod does not change between plain TCP, TLS and a socket."""

        if self.scheme != "rediss" and self._has_tls_settings:
            raise InvalidSettings(f"{_env_name('tls')}_…: TLS needs a URL that begins with rediss://")
        self.address()
        self.sentinel_credentials()
        self.connection_options()
        if self.scheme == "rediss":
            self.tls_context()

    def address(self) -> RedisAddress:
        """What the URL says, with the credentials that come by themselves. Raises InvalidSettings."""
        found = self._parse_url()
        return RedisAddress(
            host=found.get("host", "localhost"),
            port=found.get("port", DEFAULT_PORT),
            database=int(found.get("db", 0)),
            username=self._read_setting("username") or found.get("username"),
            password=self._read_setting("password") or found.get("password"),
            socket_path=found.get("path", ""),
        )

    def sentinel_credentials(self) -> tuple[str | None, str | None]:
        return self._read_setting("sentinel_username"), self._read_setting("sentinel_password")

    def connection_options(self) -> dict[str, Any]:
        """What else the URL says of connections, such as `?socket_timeout=3`. Only redis-py knows which there are.
        Raises InvalidSettings."""
        found = {key: value for key, value in self._parse_url().items() if key not in _ADDRESS_OPTIONS | _POOL_OPTIONS}
        try:
            _CONNECTION_CLASSES[self.scheme](**found)
        except (TypeError, ValueError, AttributeError, RedisError):  # which are not quoted: of a password, behind a `?`
            raise InvalidSettings(
                f"{_env_name('url')} has an option behind ? that a connection by {self.scheme}:// does not take; leave it "
                "out, and in a password write ? as %3F"
            ) from None
        return found

    def tls_context(self) -> ssl.SSLContext | None:
        """How TLS is spoken; None where the URL says it by itself, as in `?ssl_ca_certs=…`."""
        return None if self._tls_configured_by_url else self._create_tls_context()

    @property
    def skips_tls_verification(self) -> bool:
        """Whether the server's certificate, or the name in it, counts for nothing."""
        if not self._tls_configured_by_url:
            return self._settings.tls_insecure_skip_verify
        options = self.connection_options()
        return options.get("ssl_cert_reqs") == "none" or options.get("ssl_check_hostname") is False

    def _create_tls_context(self) -> ssl.SSLContext:
        """Certificates are verified for chain and name, not for form: Python 3.13's strictness refuses the
        authorities of many clusters. Where an authority is given, those of the system do not count. Raises
        InvalidSettings with the file that cannot be used."""
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
                # A password that is empty is refused; one that is not given is asked for at the terminal.
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password="")
            except OSError as error:
                raise self._file_error("tls_cert_file", "a certificate that its key belongs to", error) from None
        return context

    @property
    def _has_tls_settings(self) -> bool:
        settings = self._settings
        return bool(settings.tls_ca_file or settings.tls_cert_file or settings.tls_insecure_skip_verify)

    @property
    def _tls_configured_by_url(self) -> bool:
        """Whether its options say how TLS is spoken, and nothing else does."""
        return not self._has_tls_settings and any(key.startswith("ssl_") for key in self.connection_options())

    def _read_url(self) -> str:
        return self._read_setting("url") or ""

    def _parse_url(self) -> dict[str, Any]:
        url = self._read_url()
        found: dict[str, Any] | None = None
        if url.startswith("unix:") or is_usable_redis_url(url):
            with suppress(ValueError):  # whose text may quote the password
                found = {**parse_url(url)}
        if found is None:
            raise InvalidSettings(
                f"{_env_name('url')} is no redis://[user:password@]host[:port][/db]; "
                "in a password, write / as %2F, # as %23 and ? as %3F"
            )
        return found

    def _read_setting(self, name: str) -> str | None:
        """A setting, or what its file says now, without the line feed that editors put at the end."""
        if (file := getattr(self._settings, f"{name}_file")) is None:
            given = getattr(self._settings, name)
            return given.get_secret_value() if isinstance(given, SecretStr) else given
        try:
            return Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise self._file_error(f"{name}_file", "text", error) from None

    def _file_error(self, name: str, expected: str, error: Exception) -> InvalidSettings:
        told = f"{_env_name(name)} is {getattr(self._settings, name)}"
        if isinstance(error, FileNotFoundError):
            return InvalidSettings(f"{told}, and there is no such file; does the Secret exist, and has it the key?")
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
        return InvalidSettings(f"{told}: expected {expected}, found {why}")


def _env_name(field_name: str) -> str:
    return env_name("redis", field_name)
