"""Patterns for secrets whose values the report does not know: tokens of providers, headers, assignments and commands.

In doubt, a pattern matches too much rather than too little. In an assignment, a quoted value ends at its closing quote.
An unquoted value ends at the end of the line if the assignment begins the line, and otherwise at white space. All
patterns are linear in the length of the text.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

TOKEN, AUTHORIZATION, ASSIGNMENT, COMMAND, OPAQUE = (
    "token of a provider",
    "authorization",
    "value of a secret setting",
    "password in a command",
    "opaque token",
)
"""Labels of the removed values."""

MIN_OPAQUE_LENGTH, MIN_OPAQUE_CHANGES = 32, 0.4
"""Minimum length of an opaque token, and minimum share of its characters that differ in kind from the character before.
Upper case, lower case and digits are different kinds. In names and paths, most adjacent characters are of the same
kind."""

_NAME = (
    r"(?:pass(?:word|wd|phrase|code)|pwd|secret|token|credentials?"
    r"|(?:api|access|private|account|encryption|signing|shared|master)[ _.-]?key|auth(?![A-Za-z])"
    r"|session[_-]?(?:id|key)|signature|\bsig|connection[ _-]?string|docker(?:config(?:json)?|cfg)"
    r"|requirepass|masterauth|\bdsn|\botp|\bpin)"
    r"(?![\w.-]{0,40}(?:ref|name|file|path)\b)"
)
"""Words in the name of a setting whose value is secret. `passwordSecretRef.name` and `--password-file` are not
secret."""

_QUOTE = r"""(?:\\*["'`]|\\+u00(?:22|27)|%(?:25)*2[27]|&(?:quot|apos|\#3[49]);)"""
_SPACE = r"(?:\s|\+|%(?:25)*20|\\+[nrt])"
_SEPARATOR = rf"{_QUOTE}?{_SPACE}{{0,8}}+(?:[:=]>?|%(?:25)*3[AaDd]){_SPACE}{{0,8}}+\[?"
_COMMA = rf"{_QUOTE}{_SPACE}{{0,8}}+,{_SPACE}{{0,8}}+\[?"
"""Separator in lists, such as the arguments of a command or the headers of a request."""

_QUOTED = (
    r"""[bru]{0,2}(?P<backslashes>\\*)(?P<quote>["'`])(?P<quoted>(?:(?!(?<!\\)(?P=backslashes)(?P=quote))[^\r\n])+)"""
)
_WORD = r"""(?P<word>[^\s"'`<>{\[]+)"""

_PATTERNS = [
    (
        re.compile(
            r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}|gh[a-z]_\w{20,}|github_pat_\w{20,}"
            r"|gl[a-z]{2,8}-[\w-]{16,}|xox[a-z][.-][\w-]{10,}|xapp-[\w-]{10,}|(?:sk|rk|pk)_(?:live|test)_\w{10,}|whsec_[\w+/=]{10,}|sk-[\w-]{20,}"
            r"|AIza[\w-]{30,}|ya29\.[\w-]{10,}|GOCSPX-[\w-]{10,}|npm_\w{20,}|pypi-[\w-]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}"
            r"|SK[0-9a-f]{32}|hf_\w{20,}|do[opr]_v1_\w{32,}|hv[sbr]\.[\w-]{20,}|s\.\w{24}\b|shp[a-z]{2}_\w{32}"
            r"|dckr_pat_[\w-]{20,}|AGE-SECRET-KEY-1\w+|glsa_\w{20,}|lin_api_\w{20,}|PMAK-[\w-]{20,})"
        ),
        TOKEN,
    ),
    (re.compile(r"(?<!\d)\d{8,10}:[\w-]{35}(?![\w-])|hooks\.slack\.com/services/[\w/]+"), TOKEN),
    (re.compile(r"(?:eyJ|ewog|LS0tLS1CRUdJTi)[\w+/=.%-]{16,}(?:(?:[\r\n]|\\n)+ {0,8}[\w+/=-]{40,})*"), TOKEN),
    (
        re.compile(
            rf"(?i:authorization|x-api-key|x-auth-token|cookie){_SEPARATOR}(?:{_QUOTED}|(?P<rest>[^\"'`<>\r\n]+))"
        ),
        AUTHORIZATION,
    ),
    (
        re.compile(r"\b(?i:bearer)\s+([\w+/=.~-]{8,})|\b(?i:basic)\s+((?=[\w+/=.~-]*[A-Z0-9=])[\w+/=.~-]{8,})"),
        AUTHORIZATION,
    ),
    (
        re.compile(
            rf"(?m)^[ \t-]{{0,64}}+(?:export +)?[\w.-]{{0,64}}?(?i:{_NAME})[\w.-]{{0,64}}+[ \t]{{0,8}}+[:=]"
            rf"[ \t]{{0,8}}+(?![\"'`{{\[])(.+)$"
        ),
        ASSIGNMENT,
    ),
    (re.compile(rf"(?i:{_NAME})[\w.-]{{0,64}}+{_SEPARATOR}(?:{_QUOTED}|{_WORD})"), ASSIGNMENT),
    (re.compile(rf"(?i:{_NAME})[\w.-]{{0,64}}+{_COMMA}{_QUOTED}"), ASSIGNMENT),
    (
        re.compile(
            rf"(?i:pass(?:word|wd|phrase|code)|token|api[ _-]?key)(?i:\s{{1,8}}(?:is|was))?\s{{1,8}}(?!`){_QUOTED}"
        ),
        ASSIGNMENT,
    ),
    (
        re.compile(
            r"(?i:password|passphrase|passwd)\s+(?i:is|was)\s+"
            r"(?!(?i:wrong|invalid|not|required|empty|missing|incorrect|expired|set|too)\b)([^\s\"']+)"
        ),
        ASSIGNMENT,
    ),
    (re.compile(rf"(?i)<[\w:.-]{{0,64}}?(?:{_NAME})[\w.-]{{0,64}}>([^<\r\n]+)<"), ASSIGNMENT),
    (re.compile(rf"(?<![\w-])--[\w-]{{0,64}}?(?i:{_NAME})[\w-]{{0,64}}[ =]+(?:{_QUOTED}|{_WORD})"), COMMAND),
    (
        re.compile(r"\b(?:redis-cli|valkey-cli|sshpass|mysql|curl)\b[^\r\n]*?\s(?:-a|-p|-u|--user)\s*([^\s\"']+)"),
        COMMAND,
    ),
    (re.compile(r"(?i:args beginning with): *([^\r\n]+)|\bSETUSER\s+([^\r\n\"]+)"), COMMAND),
    (re.compile(r"\bAUTH[\"']?\s+([^\s]+(?:\s+[^\s]+)?)"), COMMAND),
    (re.compile(r"(?i)\b(?:requirepass|masterauth|auth-pass\s+\S+)[\"']?\s+([^\s]+)"), COMMAND),
    (re.compile(r"(?<![\w.%+/-])[\w.%+-]{1,128}:([^\s:@/\"'<>]{3,256})@(?!sha256:)[\w.-]"), COMMAND),
]

_OPAQUE_CANDIDATE = re.compile(r"(?<![\w+/=-])[A-Za-z0-9_+/=-]{32,}")

Span = tuple[int, int, str]
"""The start and the end of a secret in a text, and its label."""


def secret_spans(text: str) -> Iterator[Span]:
    """Yield the positions of all texts that have the shape of a secret."""
    for pattern, label in _PATTERNS:
        for match in pattern.finditer(text):
            yield *match.span(match.lastindex or 0), label
    for match in _OPAQUE_CANDIDATE.finditer(text):
        if is_opaque(match[0]):
            yield *match.span(), OPAQUE


def is_opaque(token: str) -> bool:
    """Return True if the token looks random and contains upper case, lower case and digits. Hexadecimal ids are not
    opaque."""
    kinds = [
        "upper" if each.isupper() else "lower" if each.islower() else "digit" if each.isdigit() else ""
        for each in token
    ]
    changes = sum(first != second for first, second in pairwise(kinds))
    is_mixed = min(kinds.count("upper"), kinds.count("lower"), kinds.count("digit")) >= 2
    return len(token) >= MIN_OPAQUE_LENGTH and is_mixed and changes >= MIN_OPAQUE_CHANGES * len(token)
