"""Table of Redis errors, with the meaning and the remedy of each error.

The functions in this module have no side effects; they use only the class and the text of an error.

The first word of a Redis error is its code. A few errors have only the general code `ERR`. If a group is deleted while
a reader is blocked, Redis 7.0 replies UNBLOCKED to the reader. In all other cases, the error for a missing group is
NOGROUP.
"""

import re
from dataclasses import dataclass
from typing import Any

from streamconsumer.errors import DestinationNotAllowed, StreamConsumerError
from streamconsumer.text import printable


@dataclass(frozen=True)
class RedisErrorInfo:
    """A classified error, with a readable message."""

    code: str
    message: str
    is_known: bool = False
    """True if the table contains the code."""
    is_command_unavailable: bool = False
    """True if the user has no permission for the command, or if the server does not have the command."""
    is_group_lost: bool = False
    """True if the consumer group does not exist."""
    must_relocate: bool = False
    """True if the server does not accept writes, so that the primary must be found again."""
    context: str = ""
    """Start of the message: the stream, the group and the server, without credentials."""
    unquoted: str = ""
    """The message without any text of the server. The operator uses this message, because the author of the
    StreamConsumer may have no access to the server."""
    is_no_reply: bool = False
    """True if no Redis server replied: the connection failed, timed out or ended, or another protocol was found."""


MAX_ERROR_LENGTH = 4096
"""Maximum length of an error text in characters. A text above this length is truncated, because the server controls the
text."""

DESTINATION_NOT_ALLOWED = DestinationNotAllowed.__name__
DATABASE_OUT_OF_RANGE = "DB index is out of range"
UNKNOWN_COMMAND = "unknown command"

_MESSAGES = {
    "NOGROUP": "the consumer group is gone; recreating it at the last known position",
    "UNBLOCKED": "the stream or its consumer group was deleted while waiting for entries; recreating the group",
    "WRONGTYPE": "the stream's key, or a key of the group such as `{STREAM}:GROUP:claimed`, contains another "
    "type of value; rename this key, or correct `stream`",
    "WRONGPASS": "the user name or the password is wrong; correct the Secret",
    "NOAUTH": "the server requires a password; set redis.passwordSecretRef",
    "NOPERM": "the user lacks a permission; grant it with ACL SETUSER",
    "READONLY": "the server is a replica; waiting until the address leads to the primary",
    "LOADING": "the server is loading its data; waiting",
    "MASTERDOWN": "the replica has lost its primary; waiting",
    "CLUSTERDOWN": "the cluster is down; waiting",
    "MOVED": "another node of the cluster has the stream; set redis.cluster, so that the client connects to that node",
    "ASK": "the stream is moving to another node of the cluster; waiting",
    "TRYAGAIN": "the hash slot is moving to another node of the cluster; waiting",
    "BUSY": "the server is busy with a script; waiting",
    "OOM": "the server is out of memory; free memory or raise maxmemory",
    "NOREPLICAS": "the server has too few replicas in sync and refuses writes; waiting",
    "MISCONF": "the server cannot persist and refuses writes; check its disk",
    UNKNOWN_COMMAND: "the server lacks a required command, which may be renamed, disabled or refused by a proxy",
    "max number of clients": "the server has too many connections; raise maxclients, or close connections",
    DATABASE_OUT_OF_RANGE: "the server has no database with this number; correct the number at the end of the URL",
}
_GROUP_LOST_CODES = {"NOGROUP", "UNBLOCKED"}
_COMMAND_UNAVAILABLE_CODES = {"NOPERM", UNKNOWN_COMMAND}
_CODES_BY_EXCEPTION = {"NoPermission": "NOPERM", "ReadOnly": "READONLY", "OutOfMemory": "OOM"}
"""Maps a part of an exception's class name to the code of the error. The text of an exception with such a name does not
contain the code."""

_SCRIPT_PERMISSION_PHRASES = ("can't run this command", "ACL failure in script")
_SCRIPT_ERROR_PREFIX = re.compile(r"^(ERR )?Error running script .*?: (@user_script: ?\d+: )+-?")
"""Prefix that Redis 6.2 adds to the error of a command in Lua. Redis 7.0 and later append such information to the error
instead of adding a prefix."""
_RELOCATE_CODES = {"READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN"}

_NO_REPLY_TYPES = {"ConnectionError", "TimeoutError"}
"""Names of the exceptions that redis-py raises if no Redis server replied."""

_UNKNOWN_ERROR = "the server replied with an unknown error; the logs of the pods contain its text"

_FOREIGN_PROTOCOL = "the server does not use the Redis protocol; check host and port"

AFTER_TLS_HANDSHAKE = "(right after the TLS handshake)"

_NO_TLS = "WRONG_VERSION_NUMBER"
"""OpenSSL's error if the server sends data that is not TLS. Any server that uses another protocol can cause this
error."""

_OLD_TLS = "the server supports only TLS versions before 1.2; enable TLS 1.2 or 1.3 on the server"

_TLS_MESSAGES = {
    "Hostname mismatch": "the server's certificate is issued for another name; correct the host in the URL, or, in a "
    "Redis Cluster or with Sentinel, the announced host name",
    "IP address mismatch": "the server's certificate is not issued for this address; use a host name in the URL. "
    "Nodes of a Redis Cluster and servers behind Sentinel must announce host names; if they announce only addresses, "
    "as some cloud services do, add ?ssl_check_hostname=false to the URL",
    "certificate has expired": "the server's certificate has expired; renew it",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is from an unknown certificate authority; "
    "set redis.tls.caSecretRef",
    "CERTIFICATE_REQUIRED": "the server requires a client certificate; set redis.tls.certSecretRef",
    "ALERT_UNKNOWN_CA": "the server does not trust the client certificate; correct redis.tls.certSecretRef",
    "HANDSHAKE_FAILURE": "the server rejects the handshake; if it requires a client certificate, "
    "set redis.tls.certSecretRef; otherwise, enable TLS 1.3 or cipher suites with ECDHE on the server, because suites "
    "with RSA or DHE key exchange are not supported",
    "ALERT_PROTOCOL_VERSION": _OLD_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    AFTER_TLS_HANDSHAKE: "the server closes the connection; if it requires a client certificate, "
    "set redis.tls.certSecretRef",
    _NO_TLS: "the server does not use TLS at this port; use redis:// or another port in the URL",
}
"""Maps a phrase in OpenSSL's error text to a message. More specific phrases come first."""


def classify_error(error: BaseException, context: str) -> RedisErrorInfo:
    """Return the meaning of an error.

    The message begins with `context`: the stream, the group and the server, without credentials.
    """
    if isinstance(error, StreamConsumerError):
        message = f"{context}: {error}"
        return RedisErrorInfo(type(error).__name__, message, unquoted=message)
    if type(error).__name__ == "InvalidResponse":  # the text of this exception quotes data from the server
        return RedisErrorInfo("InvalidResponse", f"{context}: {_FOREIGN_PROTOCOL}", context=context, is_no_reply=True)
    text = _SCRIPT_ERROR_PREFIX.sub("", printable(" ".join(str(error)[:MAX_ERROR_LENGTH].split())))
    if phrase := next((phrase for phrase in _TLS_MESSAGES if phrase in text), ""):
        unquoted = f"{context}: {_TLS_MESSAGES[phrase]}"
        message, is_no_reply = f"{unquoted} ({text})", phrase == _NO_TLS
        return RedisErrorInfo("TLS", message, context=context, unquoted=unquoted, is_no_reply=is_no_reply)
    code = _error_code(error, text)
    if not code:
        kind = type(error).__name__
        is_no_reply = kind in _NO_REPLY_TYPES or isinstance(error, OSError)
        unquoted = f"{context}: {getattr(error, 'unquoted', _UNKNOWN_ERROR)}"
        message = f"{context}: {text or kind}"
        return RedisErrorInfo(kind, message, context=context, unquoted=unquoted, is_no_reply=is_no_reply)
    flags: dict[str, Any] = {
        "is_command_unavailable": code in _COMMAND_UNAVAILABLE_CODES,
        "is_group_lost": code in _GROUP_LOST_CODES,
        "must_relocate": code in _RELOCATE_CODES,
    }
    unquoted = f"{context}: {_MESSAGES[code]}"
    return RedisErrorInfo(code, f"{unquoted} ({text})", unquoted=unquoted, is_known=True, **flags)


def root_cause(error: BaseException) -> BaseException:
    """If `error` is a ConnectionError of redis-py that wraps an error of this package, return the wrapped error.
    Otherwise, return `error`."""
    return error.__cause__ if isinstance(error.__cause__, StreamConsumerError) else error


def _error_code(error: BaseException, text: str) -> str:
    code = str(getattr(error, "status_code", None) or "")  # redis-py removes the code from errors that it knows
    if code in _MESSAGES:
        return code
    code = next((code for code in _MESSAGES if text.startswith(code) or f" {code} " in text[:40]), "")
    if not code and ("invalid username-password" in text or "Authentication" in type(error).__name__):
        code = "WRONGPASS" if "required" not in text else "NOAUTH"
    code = code or next((code for kind, code in _CODES_BY_EXCEPTION.items() if kind in type(error).__name__), "")
    if not code and any(phrase in text for phrase in _SCRIPT_PERMISSION_PHRASES):
        code = "NOPERM"
    return code
