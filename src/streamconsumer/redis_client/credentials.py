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
from streamconsumer.model.env_codec import variable
from streamconsumer.model.fields import leads_somewhere
from streamconsumer.model.processor_settings import RedisAccess

DEFAULT_PORT = 6379

_OF_A_PLACE = {"host", "port", "db", "path", "username", "password", "connection_class"}
_OF_A_POOL = {"max_connections", "timeout"}

_TAKES_OPTIONS = {"redis": Connection, "rediss": SSLConnection, "unix": UnixDomainSocketConnection}


@dataclass(frozen=True)
class Place:
    """Where to connect, and as whom."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    """Of a socket; then host and port count for nothing."""


Dial = Callable[[str, int], Awaitable[str]]
"""A host and a port → the name to connect by."""


async def as_written(host: str, port: int) -> str:  # noqa: ARG001 - a Dial
    """A pod's hosts are what its own resolver says."""
    return host


class Access:
    """The settings, with what stands in their files. Raises InvalidSettings for what cannot be used already."""

    def __init__(self, settings: RedisAccess, dial: Dial = as_written) -> None:
        """`dial` is for who looks from elsewhere; certificates are held against the host as it is written."""
        self._settings = settings
        self.dial = dial
        self.scheme = self._url().partition("://")[0]
        """Of the URL at start: a pod does not change between plain TCP, TLS and a socket."""

        if self.scheme != "rediss" and self._wants_tls:
            raise InvalidSettings(f"{_name('tls')}_…: TLS needs a URL that begins with rediss://")
        self.place()
        self.sentinel_credentials()
        self.options()
        if self.scheme == "rediss":
            self.tls()

    def place(self) -> Place:
        """What the URL says, with the credentials that come by themselves. Raises InvalidSettings."""
        found = self._parsed()
        return Place(
            host=found.get("host", "localhost"),
            port=found.get("port", DEFAULT_PORT),
            database=int(found.get("db", 0)),
            username=self._text("username") or found.get("username"),
            password=self._text("password") or found.get("password"),
            path=found.get("path", ""),
        )

    def sentinel_credentials(self) -> tuple[str | None, str | None]:
        return self._text("sentinel_username"), self._text("sentinel_password")

    def options(self) -> dict[str, Any]:
        """What else the URL says of connections, such as `?socket_timeout=3`. Only redis-py knows which there are.
        Raises InvalidSettings."""
        found = {key: value for key, value in self._parsed().items() if key not in _OF_A_PLACE | _OF_A_POOL}
        try:
            _TAKES_OPTIONS[self.scheme](**found)
        except (TypeError, ValueError, AttributeError, RedisError):  # which are not quoted: of a password, behind a `?`
            raise InvalidSettings(
                f"{_name('url')} has an option behind ? that a connection by {self.scheme}:// does not take; leave it "
                "out, and in a password write ? as %3F"
            ) from None
        return found

    def tls(self) -> ssl.SSLContext | None:
        """How TLS is spoken; None where the URL says it by itself, as in `?ssl_ca_certs=…`."""
        return None if self._left_to_the_url else self._context()

    @property
    def trusts_anybody(self) -> bool:
        """Whether the server's certificate, or the name in it, counts for nothing."""
        if not self._left_to_the_url:
            return self._settings.tls_insecure_skip_verify
        options = self.options()
        return options.get("ssl_cert_reqs") == "none" or options.get("ssl_check_hostname") is False

    def _context(self) -> ssl.SSLContext:
        """Certificates are verified for chain and name, not for form: Python 3.13's strictness refuses the
        authorities of many clusters. Where an authority is given, those of the system do not count. Raises
        InvalidSettings with the file that cannot be used."""
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.tls_ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise self._unusable("tls_ca_file", "certificates", error) from None
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
        if settings.tls_insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if settings.tls_cert_file is not None:
            try:
                # A password that is empty is refused; one that is not given is asked for at the terminal.
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password="")
            except OSError as error:
                raise self._unusable("tls_cert_file", "a certificate that its key belongs to", error) from None
        return context

    @property
    def _wants_tls(self) -> bool:
        settings = self._settings
        return bool(settings.tls_ca_file or settings.tls_cert_file or settings.tls_insecure_skip_verify)

    @property
    def _left_to_the_url(self) -> bool:
        """Whether its options say how TLS is spoken, and nothing else does."""
        return not self._wants_tls and any(key.startswith("ssl_") for key in self.options())

    def _url(self) -> str:
        return self._text("url") or ""

    def _parsed(self) -> dict[str, Any]:
        url = self._url()
        found: dict[str, Any] | None = None
        if url.startswith("unix:") or leads_somewhere(url):
            with suppress(ValueError):  # whose text may quote the password
                found = {**parse_url(url)}
        if found is None:
            raise InvalidSettings(
                f"{_name('url')} is no redis://[user:password@]host[:port][/db]; "
                "in a password, write / as %2F, # as %23 and ? as %3F"
            )
        return found

    def _text(self, name: str) -> str | None:
        """A setting, or what its file says now, without the line feed that editors put at the end."""
        if (file := getattr(self._settings, f"{name}_file")) is None:
            given = getattr(self._settings, name)
            return given.get_secret_value() if isinstance(given, SecretStr) else given
        try:
            return Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise self._unusable(f"{name}_file", "text", error) from None

    def _unusable(self, name: str, expected: str, error: Exception) -> InvalidSettings:
        told = f"{_name(name)} is {getattr(self._settings, name)}"
        if isinstance(error, FileNotFoundError):
            return InvalidSettings(f"{told}, and there is no such file; does the Secret exist, and has it the key?")
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
        return InvalidSettings(f"{told}: expected {expected}, found {why}")


def _name(field_name: str) -> str:
    return variable("redis", field_name)
