"""`render` accepts and refuses the same manifests as the API server: mutated manifests, and URLs of Redis."""

import json
from copy import deepcopy
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from tests.cluster.api_server import ApiServer
from tests.cluster.errors import ProgramFailed
from tests.model.examples import Manifest, manifest
from tests.model.rules import VALID_MANIFESTS
from tests.model.string_fields import FULL_SPECS

TRY = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}?dryRun=All&fieldValidation=Strict"
"""Request that kubectl sends, without storing the object."""

OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u", "controller": True, "blockOwnerDeletion": False}
METADATA: Manifest = {
    "labels": {"a": "b"},
    "annotations": {"a": "b"},
    "finalizers": ["a.b/c"],
    "ownerReferences": [OWNER],
    "creationTimestamp": "2026-01-01T00:00:00Z",
    "generation": 1,
    "uid": "u",
    "resourceVersion": "1",
}
VALID: list[Manifest] = [manifest(**spec) for spec in FULL_SPECS] + [*VALID_MANIFESTS.values()]

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 10, 1000, 1001, 1.5, 0.5, -0.5, 2**31, 2**63 - 1),
    *("", " ", "a", "A", "1", "-1", "0", "$", "1s", "5m", "10h", "1e3", "100ms", "0.5", "+1", ".5", "5.", "1Ki", "1K"),
    *("50%", "100%", "101%", "a.b", "a/b", "a b", "a_b", "x" * 64, "x" * 254, "true", "[]", "1svc", "-a", "a-", "\n"),
    *("http://a", "redis://r:6379", "2026-01-01T00:00:00Z", "2026-01-01", "a\n", "é", "🦊"),
    *([], [None], ["a"], ["a", "a"], [1], {}, {"a": "b"}, {"a": 1}, {"a": None}, {"a b": "c"}),
    *({"name": "a"}, {"name": "a", "key": "b"}, [{}], [{"name": "a"}], [{"name": "A"}, {"name": "A"}]),
]
"""Values that are valid in some fields and invalid in others."""

UNKNOWN_FIELDS = ("foo", "a b", "name", "key", "spec", "x.y/z", "A")
CHARACTERS = [*"aA0-_./:%[]@? \n$é", "", ""]


def check_same_answer(api: ApiServer, document: Manifest) -> None:
    try:
        StreamConsumer.parse_document(document)
        problem = ""
    except InvalidResource as error:
        problem = str(error)
    try:
        api.request("POST", TRY, document)
        refusal = ""
    except ProgramFailed as error:
        refusal = str(error)
    assert bool(problem) == bool(refusal), f"render: {problem or 'accepts'}\nAPI server: {refusal or 'accepts'}"


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_manifests_have_the_same_answer(api: ApiServer, seed: int) -> None:
    check_same_answer(api, mutated_manifest(Random(seed)))


def mutated_manifest(dice: Random) -> Manifest:
    """Return a valid manifest with one or two changes in its metadata or its spec."""
    document = deepcopy(dice.choice(VALID[: len(FULL_SPECS)] if dice.random() < 0.6 else VALID))
    fields = deepcopy(METADATA) if dice.random() < 0.4 else {}
    document["metadata"] = {"name": "orders", "namespace": "default", **fields}
    if dice.random() < 0.2:
        document["status"] = dice.choice([{"replicas": "text"}, {"foo": 1}, {"conditions": [{"foo": 1}]}, {}, "text"])
    for _ in range(dice.choice([1, 1, 1, 2])):
        _mutate(document[dice.choice(["metadata", "spec", "spec", "spec"])], dice)
    document["metadata"] |= {"name": "orders", "namespace": "default"}
    converted: Manifest = json.loads(json.dumps(document))
    return converted


def _mutate(section: Any, dice: Random) -> None:
    """Change one value of a section, or a value within it."""
    parent, key = dice.choice([*_places(section)])
    value = parent[key]
    match dice.choice(["replace", "replace", "delete", "add", "add", "text", "number", "repeat", "rename"]), value:
        case "replace", _:
            parent[key] = deepcopy(dice.choice(VALUES))
        case "delete", _:
            del parent[key]
        case "add", dict():
            value[dice.choice(UNKNOWN_FIELDS)] = dice.choice([None, "x", 1, {}])
        case "text", str():
            position = dice.randrange(len(value) + 1)
            parent[key] = value[:position] + dice.choice(CHARACTERS) + value[position + dice.choice([0, 1]) :]
        case "number", int() if not isinstance(value, bool):
            parent[key] = dice.choice([value + 1, value - 1, value * 1000, -value, str(value)])
        case "repeat", _ if isinstance(parent, list):
            parent.append(deepcopy(value))
        case "rename", _ if isinstance(parent, dict):
            parent[key.swapcase() if dice.random() < 0.5 else f"{key}x"] = parent.pop(key)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return the parent and the key of every value below `value`."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


HOSTS = [
    *("r", "redis.svc", "a_b", "1host", "r.", "r-", "-r", "1.2.3.4", "", "x" * 63, "x" * 64),
    *(".".join(["x" * 63] * 4), ".".join(["x" * 62] * 4) + ".x"),
    *("[::]", "[::1]", "[1::]", "[1:2:3:4:5:6:7:8]", "[1:2:3:4:5:6:7::]", "[::2:3:4:5:6:7:8]", "[1:2:3::5:6:7:8]"),
    *("[1::2:3:4:5:6:7]", "[1:2::3:4:5:6:7:8]", "[1:2]", "[:::]", "[::1::]", "[fd00::12345]", "[::1.2.3.4]"),
    *("[:1:2:3:4:5:6:7]", "[1:2:3:4:5:6:7:]"),
]
PORTS = ["", ":6379", ":65535", "", ":0", ":65536", ":06379", ":", ":99999"]
DATABASES = ["", "/", "/0", "/1", "/00", "/1/", "/0/", "/123456789", "/1234567890", "/a"]
OPTIONS = [
    *("db=0", "db=1", "db=01", "db=", "socket_connect_timeout=2", "socket_keepalive=yes", "health_check_interval=5"),
    *(
        f"socket_timeout={each}"
        for each in ("0", "0.01", "0.009", "0.0", "00", "00.01", "1.", "5.5", "0361", "3599.999")
    ),
    *(f"socket_timeout={each}" for each in ("3600", "3600.0", "3600.1", "3601", "3700", "9999")),
    *("ssl_cert_reqs=none", "ssl_check_hostname=no", "foo=1", ""),
]


@given(
    parts=st.tuples(*map(st.sampled_from, [["redis://", "rediss://"], HOSTS, PORTS, DATABASES])),
    options=st.lists(st.sampled_from(OPTIONS), max_size=3),
    has_sentinel=st.booleans(),
)
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_urls_have_the_same_answer(
    api: ApiServer, parts: tuple[str, ...], options: list[str], *, has_sentinel: bool
) -> None:
    url = "".join(parts) + (f"?{'&'.join(options)}" if options else "")
    sentinel = {"sentinel": {"masterName": "m", "nodes": ["s:1"]}} if has_sentinel else {}
    check_same_answer(api, manifest(namespace="default", redis={"url": url, **sentinel}))


@pytest.mark.parametrize("host", HOSTS)
def test_each_host_has_the_same_answer(api: ApiServer, host: str) -> None:
    check_same_answer(api, manifest(namespace="default", redis={"url": f"redis://{host}"}))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("start", ["redis://r", "rediss://r/1"])
def test_each_option_has_the_same_answer(api: ApiServer, start: str, option: str) -> None:
    check_same_answer(api, manifest(namespace="default", redis={"url": f"{start}?{option}"}))


METADATA_VALUES: dict[str, list[Any]] = {
    "labels": [{"a": 1}, {"a": None}, {"a b": "c"}, {"a": "x y"}, {"a": "x" * 64}, [], None, {"A/b": "c"}],
    "annotations": [{"a": 1}, {"A/b": "c"}, {"a b": "c"}, {"a": "x" * 262_143}, {"a": "x" * 262_144}],
    "finalizers": [["a"], [""], [1], [None], "a", ["a b"]],
    "ownerReferences": [[{}], [OWNER], [OWNER, OWNER], [{**OWNER, "uid": ""}], [{**OWNER, "foo": 1}]],
    "creationTimestamp": [None, "2026-01-01T00:00:00Z", "2026-01-01", 5, "2026-01-01T00:00:00.5+02:00"],
    "generation": [1, -1, "1", 1.5, None],
    "managedFields": [[], [{"manager": "a"}], {}, [{"foo": 1}]],
    "deletionGracePeriodSeconds": [1, "1"],
    "generateName": ["a-", "A b", 1, ""],
    "uid": ["u", 5],
    "resourceVersion": ["1", 1],
    "selfLink": ["x", 1],
    "clusterName": ["x", None],
}
NAMES: list[Any] = [123, True, "", None, "Orders", "a.b", "o" * 50, "o" * 51]
SECTIONS: dict[str, list[Any]] = {
    "metadata": [None, [], "orders", {}, *({"name": name} for name in NAMES)],
    "spec": [None, [], "text", 0, {}],
    "status": [None, [], "text", 0, {"replicas": -3}, {"foo": 1}],
    "kind": ["streamconsumer", None],
    "apiVersion": ["streamconsumer.dev/v1", None],
    "foo": [1],
    "Spec": [{}],
}
CHANGES: list[Manifest] = [
    *({section: value} for section, values in SECTIONS.items() for value in values),
    *({"metadata": {"name": "a", field: value}} for field, values in METADATA_VALUES.items() for value in values),
]


@pytest.mark.parametrize(
    "change",
    CHANGES,
    ids=lambda change: repr(change)[:80],
)
def test_each_change_around_the_spec_has_the_same_answer(api: ApiServer, change: Manifest) -> None:
    check_same_answer(api, {**manifest(namespace="default"), **change})
