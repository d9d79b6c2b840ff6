"""What an error of the server means and what to do about it, in one table. Pure: works on the error's words.

Redis names its errors by their first word, except for a few that are only `ERR`. A lost group has two names: a blocked
reader on Redis 7.0 is told UNBLOCKED, everybody else NOGROUP.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """An error in the loop, told to people."""

    code: str
    sentence: str
    is_known: bool = False
    """Whether the table has the code."""
    is_refusal: bool = False
    """Whether the user may not run the command, or the server does not have it."""
    group_lost: bool = False
    elsewhere: bool = False
    """Whether the stream is to be looked for anew: this server is not, or no longer, the one that takes writes."""


NO_DATABASE = "DB index is out of range"
NO_COMMAND = "unknown command"

_TABLE = {
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
    NO_COMMAND: "the server does not have a command that is required: renamed, disabled or refused by a proxy",
    NO_DATABASE: "the server has no database of this number; correct the end of the URL",
}
_LOST = {"NOGROUP", "UNBLOCKED"}
_REFUSALS = {"NOPERM", NO_COMMAND}
_BY_TYPE = {"NoPermission": "NOPERM", "ReadOnly": "READONLY", "OutOfMemory": "OOM"}
"""Where the server's client takes the first word away and makes a class of it."""

_NOT_IN_A_SCRIPT = ("can't run this command", "ACL failure in script")
_OF_A_SCRIPT = re.compile(r"^(ERR )?Error running script .*?: (@user_script: ?\d+: )+-?")
"""What Redis 6.2 puts before the error of a command in Lua. Later ones put it behind."""
_ELSEWHERE = {"READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN"}

AFTER_HANDSHAKE = "(right after the TLS handshake)"

_TLS = {
    "Hostname mismatch": "the server's certificate is made out to another name; correct the host in the URL",
    "IP address mismatch": "the server's certificate is not made out to this address; connect to its name",
    "certificate has expired": "the server's certificate has expired; renew it",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate comes from an unknown authority; set redis.tls.caSecretRef",
    "CERTIFICATE_REQUIRED": "the server wants a client's certificate; set redis.tls.certSecretRef",
    "ALERT_UNKNOWN_CA": "the server does not trust our certificate; correct redis.tls.certSecretRef",
    "HANDSHAKE_FAILURE": "the server refuses the handshake, perhaps for want of a certificate: redis.tls.certSecretRef",
    AFTER_HANDSHAKE: "the server ends the connection; does it want a client's certificate? Set redis.tls.certSecretRef",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS at this port; write redis:// or another port",
}
"""By OpenSSL's words, the more telling first."""


def fault(error: BaseException, where: str) -> Fault:
    """The fault behind an error; `where` names the stream, the group and the server without credentials."""
    words = _OF_A_SCRIPT.sub("", " ".join(str(error).split()))
    if sentence := next((sentence for phrase, sentence in _TLS.items() if phrase in words), ""):
        return Fault("TLS", f"{where}: {sentence} ({words})")
    code = _code(error, words)
    if not code:
        return Fault(type(error).__name__, f"{where}: {words or type(error).__name__}")
    sentence = f"{where}: {_TABLE[code]} ({words})"
    kinds = {"is_refusal": code in _REFUSALS, "group_lost": code in _LOST, "elsewhere": code in _ELSEWHERE}
    return Fault(code, sentence, is_known=True, **kinds)


def _code(error: BaseException, words: str) -> str:
    code = str(getattr(error, "status_code", None) or "")  # redis-py takes the first word off what it knows
    if code in _TABLE:
        return code
    code = next((code for code in _TABLE if words.startswith(code) or f" {code} " in words[:40]), "")
    if not code and ("invalid username-password" in words or "Authentication" in type(error).__name__):
        code = "WRONGPASS" if "required" not in words else "NOAUTH"
    code = code or next((code for kind, code in _BY_TYPE.items() if kind in type(error).__name__), "")
    if not code and any(each in words for each in _NOT_IN_A_SCRIPT):
        code = "NOPERM"
    return code
