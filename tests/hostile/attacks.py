"""Attacks of a tenant: hostile values for every string field of a StreamConsumer."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamconsumer.model.spec import StreamConsumerSpec
from streamconsumer.model.structural_schema import Schema, structural_schema
from tests.model.examples import Manifest, manifest

Path_ = Sequence[str]

OWN_SECRET = "own"
"""A Secret of the tenant. Its keys are in OWN_KEYS."""
OWN_KEYS = {"value": "tenant-password", "tls.crt": "no certificate", "tls.key": "no key"}

ITEM, VALUE, KEY = "[]", "{}", "{key}"
"""Steps of a path: an item of a list, a value of a map, and a key of a map."""

SIBLINGS: Mapping[str, Any] = {
    "name": OWN_SECRET,
    "key": "value",
    "operator": "Exists",
    "masterName": "primary",
    "nodes": ["127.0.0.1:1"],
    "service": "own",
    "topologyKey": "zone",
    "type": "Pods",
    "value": 1,
    "period": "60s",
    "target": {"drainTime": "60s"},
    "maxReplicas": 3,
    "minReplicas": 1,
    "replicas": 1,
    "after": "60s",
}
"""Valid values of the fields that an object requires next to the attacked field."""


@dataclass(frozen=True)
class Canaries:
    """Objects that a tenant must not reach."""

    namespace: str
    secret: str
    file: Path
    socket: Path
    api_server: str
    """Host and port of the API server."""


@dataclass(frozen=True)
class Attack:
    """A value in one field."""

    path: Path_
    value: str

    def __str__(self) -> str:
        return f"{'.'.join(self.path)} = {self.value[:80]!r}"

    def manifest(self, name: str, url: str) -> Manifest:
        """Return a StreamConsumer with the value, whose other fields are valid."""
        spec = deepcopy(manifest(redis={"url": url})["spec"])
        _resolve_conflicts(spec, self.path)
        _insert(spec, SPEC, self.path, self.value)
        return {**manifest(name), "spec": spec}


PATHS_PER_REFERENCE = 10
"""Path attacks of each reference to a Secret. The password is attacked with all of them."""

SPEC: Schema = structural_schema(StreamConsumerSpec)


def fields(schema: Schema = SPEC, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the path of every field whose value is text."""
    if schema.get("type") == "string" or schema.get("x-kubernetes-int-or-string"):
        yield path
    for name, inner in schema.get("properties", {}).items():
        yield from fields(inner, (*path, name))
    if "items" in schema:
        yield from fields(schema["items"], (*path, ITEM))
    if isinstance(schema.get("additionalProperties"), dict):
        yield (*path, KEY)
        yield from fields(schema["additionalProperties"], (*path, VALUE))


def path_values(canaries: Canaries) -> list[str]:
    """Return names that lead to another path if they are pasted into one."""
    namespace, secret = canaries.namespace, canaries.secret
    target = f"{namespace}/secrets/{secret}"
    encoded = target.replace("/", "%2f")
    return [
        *(".", "..", "/", "//", "own/", "/own", "own/.", "own/..", "own/../own"),
        *(f"../../{target}", f"../../../../v1/namespaces/{target}", f"own/../../../{target}"),
        *(f"..%2f..%2f{encoded}", f"%2e%2e/%2e%2e/{target}", f"%2e%2e%2f%2e%2e%2f{encoded}", f".%2e/.%2e/{target}"),
        *(f"%252e%252e%252f%252e%252e%252f{encoded}", f"..\\..\\{namespace}\\secrets\\{secret}"),
        *(
            f"../../{target}?watch=1",
            f"../../{target}#",
            f"..;/..;/{target}",
            f"../../{target}\x00",
            f" ../../{target}",
        ),
        *(f"\uff0e\uff0e/\uff0e\uff0e/{target}", f"\u2025/\u2025/{target}", f"..\u2215..\u2215{namespace}"),
        *(f"/api/v1/namespaces/{target}", f"https://{canaries.api_server}/api/v1/namespaces/{target}"),
        *("own?watch=1", "own?fieldSelector=a", "own#a", "own%00", "own%0a", "?watch=1", "#", "../configmaps/own"),
        *("../serviceaccounts/default/token", "own/status", "own:own", "own;a=b", "own&a=b", "own*", "~", "~root"),
        *(str(canaries.file), f"file://{canaries.file}", f"../../../../../../../../../..{canaries.file}"),
        *("/dev/stdout", "/proc/self/fd/8", "/proc/self/environ", "/dev/zero"),
    ]


def url_values(canaries: Canaries, address: str) -> list[str]:
    """Return URLs of which a part is dangerous."""
    url, tls, file = f"redis://{address}/0", f"rediss://{address}/0", canaries.file
    host, _, port = address.partition(":")
    names_file = (
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_ca_path",
        "ssl_ca_data",
        "ssl%5fca_certs",
        "SSL_CA_CERTS",
    )
    options = (
        *("encoding=rot13", "encoding=hex&decode_responses=true", "encoding_errors=x", "protocol=3", "protocol=x"),
        *("connection_class=os.system", "parser_class=x", "retry=x", "credential_provider=x", "redis_connect_func=x"),
        *("socket_timeout=1e9", "socket_timeout=nan", "socket_timeout=-1", "socket_connect_timeout=1e9"),
        *("socket_read_size=1099511627776", "socket_read_size=0", "max_connections=0", "health_check_interval=1e-9"),
        *("client_name=a%0d%0ab", "lib_name=a%0d%0ab", "lib_version=x", "username=x", "password=x", "pass%77ord=x"),
        *("user%6eame=x", "PASSWORD=x", "password", "db=99999999999", "db=-1", "db=x", f"path={canaries.socket}"),
        *(f"host={host}", "port=1", f"unix_socket_path={canaries.socket}", "socket_keepalive_options=x"),
        *("timeout=x", "a=b", "a", "=", "&&&", "%", "%zz", "ssl_cert_reqs=none", "ssl_check_hostname=false"),
        *("ssl_min_version=0", "ssl_ciphers=NULL", "ssl_validate_ocsp=true", "ssl_exclude_verify_flags=x"),
        *("ssl_password=x", "decode_responses=1&encoding=punycode", "single_connection_client=1", "event_dispatcher=x"),
    )
    return [
        *(f"{tls}?{name}={value}" for name in names_file for value in (file, "/dev/stdout", "/proc/self/fd/8")),
        *(f"{tls}?ssl_certfile=/proc/self/fd/{fd}&ssl_keyfile=/proc/self/fd/{fd + 1}" for fd in range(6, 24, 2)),
        *(f"{scheme}?{option}" for scheme in (url, tls) for option in options),
        *(
            f"unix://{canaries.socket}",
            f"unix:{canaries.socket}",
            f"UNIX://{canaries.socket}",
            f"redis+unix://{canaries.socket}",
        ),
        *(f"redis://user:password@{address}/0", f"redis://:p%40ss@{address}/0", f"redis://user%3apw@{address}/0"),
        *(f"redis://%61:%62@{address}/0", f"redis:///{address}/0", f"redis:/{address}/0", f"REDIS://{address}/0"),
        *(f"redis://{address}/%30", f"redis://{address}/0/../1", f"redis://{address}/\u0661", f"redis://{address}/0#x"),
        *(
            f"redis://{address}\\@evil/0",
            f"redis://{address}/0;x",
            f"redis://{host}:{port}0000/0",
            f"redis://{host}:-1/0",
        ),
        *(f"redis://{host}:\u0661/0", f"redis://{host}:/0", "redis://", "redis:///0", "redis://[/0", "redis://[::1/0"),
        *("redis://[fe80::1%25lo]:6379/0", "redis://%00:6379/0", "redis://a%0d%0ab:6379/0", "redis://a b/0"),
        *(
            "redis://a\u2028b:6379/0",
            f"redis://{'a' * 2000}/0",
            f"redis://{'a.' * 120}:6379/0",
            f"redis://{'a' * 64}.b/0",
        ),
        *("redis://xn--/0", "redis://xn--a.b/0", "redis://\u00df.example/0", "redis://..:6379/0", "redis://.:6379/0"),
        *("redis://*:6379/0", "redis://-a:6379/0", "redis://0x7f.1:6379/0", "http://169.254.169.254/latest/meta-data"),
        *(f"https://{canaries.api_server}/", "javascript:alert(1)", "data:,x", "file:///etc/passwd", "gopher://x:1/_x"),
    ]


CONTROL_VALUES = (
    *("a\r\nFLUSHALL\r\nb", "a\nb", "a\rb", "a\tb", "a\x00b", "\x00", "a\x7fb", "a\x85b", "a\u2028b", "a\u2029b"),
    *(
        "\x1b]0;owned\x07",
        "\x1b[2J\x1b[31ma",
        "\x9b31m",
        "a\x08\x08b",
        "a\u202eb",
        "a\u2066b\u2069",
        "a\u200bb",
        "\ufeffa",
    ),
    *("a\r\n*1\r\n$8\r\nFLUSHALL\r\n", " ", "a ", " a", "\n", "a\\nb", "a\\u0000b"),
)
UNICODE_VALUES = (
    *("\u0130", "\ufb03", "e\u0301", "\U0001f98a" * 30, "\ufffe", "\U0010ffff", "\u0660", "\u00b2", "\u212a", "\u1e9e"),
    *(
        "a" + "\u0301" * 200,
        "\u202b\u05d0",
        "\U000e0041",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    ),
)
LENGTH_VALUES = (
    "",
    "a",
    "a" * 254,
    "a" * 513,
    "9" * 400,
    "a" * 2049,
    "a" * 300_000,
    "1" * 33,
    "9" * 20 + "-" + "9" * 20,
)
OPTION_VALUES = (
    *(
        "--help",
        "-oProxyCommand=id",
        "-",
        "--",
        "$(id)",
        "`id`",
        "${PATH}",
        "$(PATH)",
        "$$(PATH)",
        "%s%s%n",
        "{}",
        "{0}",
    ),
    *("{{ .Values }}", "{{7*7}}", "<script>alert(1)</script>", "'; DROP TABLE x; --", '"', "'", "\\", "a,b", "a=b"),
    *("null", "true", "0", "-1", "1e9", "NaN", "0x10", "!!python/object:os.system", "&a *a", "*", "?", "[a-z]*", ".*"),
    *(
        "(a+)+$",
        "__class__.__bases__",
        "os:system",
        "builtins:eval",
        "a.b:c.d",
        "999999999h",
        "1e400s",
        "-1s",
        "0s",
        "1y",
    ),
    *("=cmd|' /C calc'!A0", "a{b}c", "{tag}orders", "streamconsumer.dev/x", "kubernetes.io/x", "PATH", "LD_PRELOAD"),
)


def values(canaries: Canaries, address: str) -> list[str]:
    """Return all hostile values, each kind of attack in turn."""
    kinds = (
        path_values(canaries),
        url_values(canaries, address),
        CONTROL_VALUES,
        UNICODE_VALUES,
        LENGTH_VALUES,
        OPTION_VALUES,
    )
    longest = max(map(len, kinds))
    return [kind[position] for position in range(longest) for kind in kinds if position < len(kind)]


def sample(canaries: Canaries, address: str, per_field: int) -> list[Attack]:
    """Return the attacks that each field invites, and some of all attacks, other ones in each field."""
    paths, hostile = list(fields()), values(canaries, address)
    chosen = {
        (path, hostile[(position * per_field + offset) % len(hostile)])
        for position, path in enumerate(paths)
        for offset in range(per_field)
    }
    secret_names, names = [path for path in paths if _is_secret_name(path)], path_values(canaries)
    chosen |= {
        (path, names[(position * PATHS_PER_REFERENCE + offset) % len(names)])
        for position, path in enumerate(secret_names)
        for offset in range(PATHS_PER_REFERENCE)
    }
    chosen |= {(("redis", "passwordSecretRef", "name"), value) for value in names}
    chosen |= {(("redis", "url"), value) for value in url_values(canaries, address)}
    chosen |= {((name,), value) for name in ("stream", "consumerGroup") for value in CONTROL_VALUES}
    return [Attack(path, value) for path, value in sorted(chosen)]


def _is_secret_name(path: Path_) -> bool:
    return path[0] == "redis" and path[-1] == "name"


def _resolve_conflicts(spec: Manifest, path: Path_) -> None:
    """Remove the fields that must not be set together with the attacked field."""
    match list(path):
        case ["redis", "urlSecretRef", *_]:
            spec["redis"].pop("url")
        case ["redis", "tls", *_]:
            spec["redis"]["url"] = spec["redis"]["url"].replace("redis://", "rediss://")
        case ["redis", "sentinel", *_]:
            spec["redis"]["url"] = "redis:///0"
        case ["handler", *_]:
            spec["handler"] = {}
        case ["tolerations", _, "value"]:
            spec["tolerations"] = [{"operator": "Equal", "key": "a"}]
        case ["tolerations", _, "effect"]:
            spec["tolerations"] = [{"operator": "Exists"}]
        case ["envFrom", _, "prefix"]:
            spec["envFrom"] = [{"secretRef": {"name": OWN_SECRET}}]


def _insert(target: Any, schema: Schema, path: Path_, value: str) -> None:
    step, *rest = path
    match step:
        case "[]":
            _insert_item(target, schema["items"], rest, value)
        case "{}":
            target["a"] = value
        case "{key}":
            target[value] = "1"
        case _ if not rest:
            target[step] = value
        case _:
            inner = schema["properties"][step]
            existing = target.setdefault(step, [] if inner.get("type") == "array" else {})
            _insert(existing, inner, rest, value)
    for name in schema.get("required", ()):
        if isinstance(target, dict) and name not in target and name in SIBLINGS:
            target[name] = deepcopy(SIBLINGS[name])


def _insert_item(items: list[Any], schema: Schema, path: Path_, value: str) -> None:
    if not path:
        items.append(value)
        return
    if not items:
        items.append({})
    _insert(items[0], schema, path, value)
