"""Parser of Redis URLs: address, credentials and the allowed options, for the CRD, the operator, the CLI and pods.

The `parse_url` function of redis-py passes every option to a Python class. An option could therefore open a file, load
a codec or contain a password. This parser accepts only the options in `OPTIONS`, and checks them after
percent-decoding. Error messages quote no part of the URL except the name of a known option, because text after `?` may
belong to a password.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import unquote

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 6379
MAX_URL_LENGTH = 2048
MAX_HOST_LENGTH = 253
MAX_PORT = 65535

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME_PATTERN = rf"{_LABEL}(\.{_LABEL})*\.?"
PORT_PATTERN = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HOST_PATTERN = rf"{HOST_NAME_PATTERN}|\[[0-9A-Fa-f:.]{{2,45}}\]"
"""Host name, IPv4 address or IPv6 address in brackets. A label of a host name has at most 63 characters, because a DNS
query cannot contain a longer label."""

FORM_MESSAGE = (
    "is not a URL of the form redis://[user:password@]host[:port][/db]; "
    "in a password, write `/` as %2F, `#` as %23 and `?` as %3F"
)


class InvalidRedisUrl(ValueError):
    """The URL has the wrong form. The error text has no subject, because the caller puts the name of the URL before the
    text."""


class InvalidRedisUrlOption(InvalidRedisUrl):
    """An option of the URL cannot be used. The error text begins with the position of the option in the URL."""


@dataclass(frozen=True)
class RedisUrl:
    """Parsed URL of a Redis server."""

    scheme: str
    """Either `redis`, `rediss` (TLS) or `unix`."""
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    socket_path: str = ""
    """Path of a Unix socket, or an empty string if the scheme is not `unix`."""
    verifies_certificate: bool = True
    verifies_host_name: bool = True
    connection_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of a redis-py connection: timeouts, keepalive and the health check."""

    @property
    def has_credentials(self) -> bool:
        """True if the URL contains a user name or a password, either before the host or as an option."""
        return self.username is not None or self.password is not None

    @property
    def endpoint(self) -> str:
        """The URL in canonical form: the server, the database, and whether the certificate is verified."""
        server = self.socket_path or f"{self.host.lower()}:{self.port}"
        return f"{self.scheme}://{server}/{self.database} {self.verifies_certificate} {self.verifies_host_name}"


@dataclass(frozen=True)
class _Option:
    pattern: str
    parse: Callable[[str], Any]
    """Function that converts the text of the option to its value. Raises ValueError if the value is out of range."""
    expected: str
    is_tls: bool = False


def _parse_timeout(text: str) -> float:
    if not 0.01 <= (seconds := float(text)) <= 3600:
        raise ValueError(text)
    return seconds


_FALSE = {"0", "false", "no"}
_TIMEOUT = _Option(r"[0-9]{1,4}(\.[0-9]{1,3})?", _parse_timeout, "a number of seconds from 0.01 to 3600")
_BOOLEAN_PATTERN = "[01]|[Tt]rue|[Ff]alse|[Yy]es|[Nn]o"


def _boolean(*, is_tls: bool = False) -> _Option:
    return _Option(_BOOLEAN_PATTERN, lambda text: text.lower() not in _FALSE, "true or false", is_tls)


OPTIONS: Mapping[str, _Option] = {
    "db": _Option("[0-9]{1,9}", int, "the number of a database"),
    "health_check_interval": _Option("[0-9]{1,4}", int, "a number of seconds from 0 to 9999"),
    "socket_connect_timeout": _TIMEOUT,
    "socket_keepalive": _boolean(),
    "socket_timeout": _TIMEOUT,
    "ssl_cert_reqs": _Option("none|optional|required", str, "none or required", is_tls=True),
    "ssl_check_hostname": _boolean(is_tls=True),
}
"""Allowed options. No allowed option names a file, a class or a callable."""

_CREDENTIAL_OPTIONS = ("username", "password")
_CONNECTION_OPTIONS = ("health_check_interval", "socket_connect_timeout", "socket_keepalive", "socket_timeout")

_TLS_FILE_OPTIONS = ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password")
_REFUSED_OPTIONS = (
    *("client_name", "command_packer", "connection_class", "credential_provider", "decode_responses", "encoder_class"),
    *("encoding", "encoding_errors", "host", "lib_name", "lib_version", "max_connections", "parser_class", "path"),
    *("port", "protocol", "redis_connect_func", "retry", "retry_on_error", "retry_on_timeout", "socket_read_size"),
    *("socket_type", "ssl_ciphers", "ssl_min_version", "ssl_validate_ocsp", "timeout"),
)
"""Options of redis-py that are refused. Error messages may quote the names of these options, because the names are
fixed and not secret."""

_FORM = re.compile(
    rf"(?P<scheme>rediss?)://((?P<userinfo>[^/?#\s]*)@)?(?P<host>{HOST_PATTERN})?(:(?P<port>[0-9]{{1,5}}))?"
    r"(/(?P<database>[0-9]{1,9})?/?)?(\?(?P<query>[^#\s]*))?"
)
_UNIX_FORM = re.compile(r"(?P<scheme>unix)://((?P<userinfo>[^/?#\s]*)@)?(?P<path>/[^?#\s]+)(\?(?P<query>[^#\s]*))?")

_GROUP = "[0-9A-Fa-f]{1,4}"
_GROUPS = f"({_GROUP}:){{0,6}}{_GROUP}"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_WITH_IPV4 = rf"(({_GROUP}:){{6}}|({_GROUP}(:{_GROUP})?)?::({_GROUP}:){{0,3}}){_OCTET}(\.{_OCTET}){{3}}"
"""IPv6 address that ends with an IPv4 address, for example `64:ff9b::10.0.0.7`."""

_IPV6_PATTERN = rf"\[(({_GROUP}:){{7}}{_GROUP}|({_GROUPS})?::({_GROUPS})?|{_WITH_IPV4})\]"
_SPEC_OPTIONS = "|".join(
    f"({'|'.join(name for name, option in OPTIONS.items() if option.pattern == pattern)})=({pattern})"
    for pattern in dict.fromkeys(option.pattern for option in OPTIONS.values())
)
PLAIN_URL_PATTERN = (
    rf"rediss?://({HOST_NAME_PATTERN}|{_IPV6_PATTERN})?(:{PORT_PATTERN})?(/[0-9]{{0,9}}/?)?"
    rf"(\?({_SPEC_OPTIONS})(&({_SPEC_OPTIONS}))*)?"
)
"""Pattern of a URL without credentials, for the CRD."""


def _shortest_prefix(name: str) -> str:
    """Return the shortest prefix that no other option has. The CRD has little space."""
    prefixes = (name[:length] for length in range(1, len(name) + 1))
    return next(each for each in prefixes if [other.startswith(each) for other in OPTIONS].count(True) == 1)


_REPEATED_OPTION = "|".join(f"{prefix}.*&{prefix}" for prefix in map(_shortest_prefix, OPTIONS))
_CEL_DATABASE, _CEL_DB = (f"int(self.find('{each}').find('[0-9]+$'))" for each in ("//[^/?]*/[0-9]+", "[?&]db=[0-9]+"))
_SHORT_TIMEOUT = "0+([.](0|00[0-9]?))?(&|$)"
_LONG_TIMEOUT = "3600[.]0*[1-9]|36(0[1-9]|[1-9][0-9])|3[7-9][0-9]{2}|[4-9][0-9]{3}"
PLAIN_URL_RULE = " && ".join(
    [
        rf"self.find(r'//[^:/?\[]*').size() <= {len('//') + MAX_HOST_LENGTH}",
        r"!self.matches(r'\[[^:\]]+:([^:\]]*:){7,}[^:\]]+\]')",  # `::` stands for at least one group
        f"!self.matches('timeout=({_SHORT_TIMEOUT}|{_LONG_TIMEOUT})')",
        "(self.startsWith('rediss:') || !self.matches('[?&]ssl_'))",
        f"!self.matches('[?&]({_REPEATED_OPTION})')",
        f"(!self.matches('//[^/?]*/[0-9]+/?[?](.*&)?db=') || {_CEL_DATABASE} == {_CEL_DB})",
    ]
)
"""CEL expression with the conditions that PLAIN_URL_PATTERN cannot express: the length of the host, the range of a
timeout, and options that exclude each other. `parse_redis_url` accepts every URL that matches the pattern and meets the
conditions."""


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a URL. Raises InvalidRedisUrl."""
    match = _FORM.fullmatch(url) or _UNIX_FORM.fullmatch(url)
    if match is None or len(url) > MAX_URL_LENGTH:
        raise InvalidRedisUrl(FORM_MESSAGE)
    parts = match.groupdict()
    userinfo = parts["userinfo"]
    username, _, password = (userinfo or "").partition(":")
    values: dict[str, Any] = {
        "db": int(parts["database"]) if parts.get("database") else None,
        "username": _decode(username) or None,
        "password": _decode(password) or None,
    }
    for name, value in _parse_query(parts["query"], is_tls=parts["scheme"] == "rediss").items():
        if values.get(name) not in (None, value):
            raise InvalidRedisUrl(
                f"contains two different values for {name}, before and after the `?`; remove one value"
            )
        values[name] = value
    is_unverified = values.get("ssl_cert_reqs") == "none"
    return RedisUrl(
        scheme=parts["scheme"],
        host=_parse_host(parts.get("host") or DEFAULT_HOST),
        port=_parse_port(parts.get("port") or str(DEFAULT_PORT)),
        database=values["db"] or 0,
        username=values["username"],
        password=values["password"],
        socket_path=_parse_socket_path(parts.get("path") or ""),
        verifies_certificate=not is_unverified,
        verifies_host_name=not is_unverified and values.get("ssl_check_hostname", True),
        connection_options={name: values[name] for name in _CONNECTION_OPTIONS if name in values},
    )


def parse_host_port(text: str) -> tuple[str, int]:
    """Parse `host:port`, where an IPv6 address is in brackets. Raises InvalidRedisUrl."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(HOST_PATTERN, host) or not re.fullmatch("[0-9]{1,5}", port):
        raise InvalidRedisUrl(FORM_MESSAGE)
    return _parse_host(host), _parse_port(port)


def format_host_port(host: str, port: int | None) -> str:
    """Return `host:port`, with an IPv6 address in brackets. If `port` is None, return the host."""
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def redact_url(url: str) -> str:
    """Return a URL of any scheme without credentials and options, for output.

    If an `@` or another character shows that a password is not percent-encoded, only the scheme is returned."""
    match = re.fullmatch(rf"([a-z]{{2,6}}://)([^/?#\s]*@)?(({HOST_PATTERN})?(:[0-9]+)?(/[^@?#\s]*)?)(\?[^@]*)?", url)
    scheme = re.match("[a-z]{2,6}://", url)
    return f"{match[1]}{match[3]}" if match else f"{scheme[0] if scheme else ''}…"


def _parse_host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise InvalidRedisUrl(FORM_MESSAGE) from None
    if len(host) > MAX_HOST_LENGTH:
        raise InvalidRedisUrl(FORM_MESSAGE)
    return host


def _parse_port(port: str) -> int:
    if not 0 < int(port) <= MAX_PORT:
        raise InvalidRedisUrl(FORM_MESSAGE)
    return int(port)


def _parse_socket_path(path: str) -> str:
    if "\0" in (decoded := _decode(path)):
        raise InvalidRedisUrl(FORM_MESSAGE)
    return decoded


def _decode(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
        decoded.encode()  # fails for half of a surrogate pair, as in an environment variable that is not UTF-8
    except UnicodeError:
        raise InvalidRedisUrl(FORM_MESSAGE) from None
    return decoded


def _parse_query(query: str | None, *, is_tls: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for position, text in enumerate(query.split("&") if query else [], start=1):
        encoded_name, _, encoded_value = text.partition("=")
        name, value = _decode(encoded_name), _decode(encoded_value)
        place = f"option {position} after `?`"
        if name not in OPTIONS and name not in _CREDENTIAL_OPTIONS:
            raise InvalidRedisUrlOption(_refusal(place, name))
        place = f"{place} ({name})"
        if name in values:
            raise InvalidRedisUrlOption(f"{place} repeats an earlier option; remove one of the two options")
        values[name] = value if name in _CREDENTIAL_OPTIONS else _parse_value(place, OPTIONS[name], value, is_tls)
    return values


def _refusal(place: str, name: str) -> str:
    if name in _TLS_FILE_OPTIONS:
        return (
            f"{place} ({name}) is not allowed; set redis.tls in the StreamConsumer, or set "
            "STREAMCONSUMER_REDIS_TLS_CA_FILE, …_CERT_FILE and …_KEY_FILE in a process without a StreamConsumer"
        )
    if name in _REFUSED_OPTIONS:
        return f"{place} ({name}) is not allowed; remove the option"
    allowed = ", ".join(OPTIONS)
    return f"{place} is not one of {allowed}; remove the option, or write a `?` in the password as %3F"


def _parse_value(place: str, option: _Option, value: str, is_tls: bool) -> Any:
    if option.is_tls and not is_tls:
        raise InvalidRedisUrlOption(f"{place} is valid only in a URL that begins with rediss://; remove the option")
    if re.fullmatch(option.pattern, value):
        try:
            return option.parse(value)
        except ValueError:
            pass
    raise InvalidRedisUrlOption(f"{place} must be {option.expected}")
