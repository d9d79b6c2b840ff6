"""What an error of the server means and what to do about it, in one table. Pure: works on the error's words.

Redis names its errors by their first word, except for a few that are only `ERR`. A lost group has two names: a blocked
reader on Redis 7.0 is told UNBLOCKED, everybody else NOGROUP.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class RedisErrorInfo:
    """An error in the loop, told to people."""

    code: str
    message: str
    is_known: bool = False
    """Whether the table has the code."""
    is_command_unavailable: bool = False
    """Whether the user may not run the command, or the server does not have it."""
    is_group_lost: bool = False
    must_relocate: bool = False
    """Whether the stream is to be looked for anew: this server is not, or no longer, the one that takes writes."""


DATABASE_OUT_OF_RANGE = "DB index is out of range"
UNKNOWN_COMMAND = "unknown command"

_MESSAGES = {
    "NOGROUP": "the consumer group is gone; it is created again at the last known position",
    "UNBLOCKED": "the stream or its consumer group went while waiting for entries; it is created again",
    "WRONGTYPE": "the key is not a stream; rename one of the two, or correct `stream`",
    "WRONGPASS": "the user name or the password is wrong; correct the Secret",
    "NOAUTH": "the server wants a password; set redis.passwordSecretRef",
    "NOPERM": "the user lacks a permission; grant it with ACL SETUSER",
    "READONLY": "this is a replica; waiting until the address leads to the primary",
    "LOADING": "the server is loading its data; waiting",
    "MASTERDOWN": "the replica has lost its primary; waiting",
    "CLUSTERDOWN": "the cluster is down; waiting",
    "MOVED": "another node of the cluster has the stream; set redis.cluster, and the next connection leads there",
    "ASK": "the stream is moving to another node of the cluster; waiting",
    "TRYAGAIN": "the slot is moving; waiting",
    "BUSY": "the server is busy with a script; waiting",
    "OOM": "the server is out of memory; free some or raise maxmemory",
    "NOREPLICAS": "the server has too few replicas in sync and refuses writes; waiting",
    "MISCONF": "the server cannot persist and refuses writes; look at its disk",
    UNKNOWN_COMMAND: "the server does not have a command that is required: renamed, disabled or refused by a proxy",
    DATABASE_OUT_OF_RANGE: "the server has no database of this number; correct the end of the URL",
}
_GROUP_LOST_CODES = {"NOGROUP", "UNBLOCKED"}
_COMMAND_UNAVAILABLE_CODES = {"NOPERM", UNKNOWN_COMMAND}
_CODES_BY_EXCEPTION = {"NoPermission": "NOPERM", "ReadOnly": "READONLY", "OutOfMemory": "OOM"}
"""Where the server's client takes the first word away and makes a class of it."""

_SCRIPT_PERMISSION_PHRASES = ("can't run this command", "ACL failure in script")
_SCRIPT_ERROR_PREFIX = re.compile(r"^(ERR )?Error running script .*?: (@user_script: ?\d+: )+-?")
"""What Redis 6.2 puts before the error of a command in Lua. Later ones put it behind."""
_RELOCATE_CODES = {"READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN"}

AFTER_TLS_HANDSHAKE = "(right after the TLS handshake)"

_TLS_MESSAGES = {
    "Hostname mismatch": "the server's certificate is made out to another name; correct the host in the URL",
    "IP address mismatch": "the server's certificate is not made out to this address; connect to its name",
    "certificate has expired": "the server's certificate has expired; renew it",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate comes from an unknown authority; set redis.tls.caSecretRef",
    "CERTIFICATE_REQUIRED": "the server wants a client's certificate; set redis.tls.certSecretRef",
    "ALERT_UNKNOWN_CA": "the server does not trust our certificate; correct redis.tls.certSecretRef",
    "HANDSHAKE_FAILURE": "the server refuses the handshake, perhaps for want of a certificate: redis.tls.certSecretRef",
    AFTER_TLS_HANDSHAKE: "the server ends the connection; does it want a client's certificate? Set redis.tls.certSecretRef",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS at this port; write redis:// or another port",
}
"""By OpenSSL's words, the more telling first."""


def classify_error(error: BaseException, context: str) -> RedisErrorInfo:
    """The fault behind an error; `where` names the stream, the group and the server without credentials."""
    words = _SCRIPT_ERROR_PREFIX.sub("", " ".join(str(error).split()))
    if sentence := next((sentence for phrase, sentence in _TLS_MESSAGES.items() if phrase in words), ""):
        return RedisErrorInfo("TLS", f"{context}: {sentence} ({words})")
    code = _error_code(error, words)
    if not code:
        return RedisErrorInfo(type(error).__name__, f"{context}: {words or type(error).__name__}")
    sentence = f"{context}: {_MESSAGES[code]} ({words})"
    kinds = {
        "is_command_unavailable": code in _COMMAND_UNAVAILABLE_CODES,
        "is_group_lost": code in _GROUP_LOST_CODES,
        "must_relocate": code in _RELOCATE_CODES,
    }
    return RedisErrorInfo(code, sentence, is_known=True, **kinds)


def _error_code(error: BaseException, text: str) -> str:
    code = str(getattr(error, "status_code", None) or "")  # redis-py takes the first word off what it knows
    if code in _MESSAGES:
        return code
    code = next((code for code in _MESSAGES if text.startswith(code) or f" {code} " in text[:40]), "")
    if not code and ("invalid username-password" in text or "Authentication" in type(error).__name__):
        code = "WRONGPASS" if "required" not in text else "NOAUTH"
    code = code or next((code for kind, code in _CODES_BY_EXCEPTION.items() if kind in type(error).__name__), "")
    if not code and any(each in text for each in _SCRIPT_PERMISSION_PHRASES):
        code = "NOPERM"
    return code
