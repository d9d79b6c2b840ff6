"""One table of what a StreamConsumer may not say, for pydantic here and for the API server in tests/operator.

Each case is a name, a spec that is wrong in one place, and the sentence that a user is told by both.
"""

from dataclasses import dataclass
from typing import Any

from streamconsumer.model.fields import DURATION_FORM
from streamconsumer.model.settings import DELAYS_IN_ORDER
from streamconsumer.model.spec import NO_CREDENTIALS, ONE_HANDLER, ONE_URL, RESERVED_VARIABLE, SHORT_NAME
from tests.model.examples import Manifest, manifest

REDIS_URL = "must be redis://host:port/database, or rediss:// for TLS"
FUNCTION = "must name a function as package.module:function"
START = "must be 0 (the oldest entry), $ (only new entries) or the id of an entry"
VARIABLE = "must be letters, digits and _, and not begin with a digit"
ENDPOINT = "must begin with http:// or https://"

SECRET = {"name": "redis", "key": "url"}


@dataclass(frozen=True)
class Case:
    """One wrong StreamConsumer, the field at fault and, where it is our own rule, its sentence."""

    name: str
    wrong: Manifest
    field: str
    sentence: str = ""

    def __str__(self) -> str:
        return self.name


def _spec(name: str, field: str, sentence: str = "", **spec: Any) -> Case:
    return Case(name, manifest(**spec), f"spec.{field}", sentence)


OUR_RULES = [
    _spec("two URLs", "redis", ONE_URL, redis={"url": "redis://redis", "urlSecretRef": SECRET}),
    _spec("no URL", "redis", ONE_URL, redis={}),
    _spec("a password in the URL", "redis", NO_CREDENTIALS, redis={"url": "redis://:hunter2@redis"}),
    _spec("a password as an option", "redis", NO_CREDENTIALS, redis={"url": "redis://redis?password=hunter2"}),
    _spec("two handlers", "handler", ONE_HANDLER, handler={"python": "shop:handle", "source": "x = 1"}),
    _spec("no handler", "handler", ONE_HANDLER, handler={}),
    _spec("a reserved variable", "env", RESERVED_VARIABLE, env=[{"name": "STREAMCONSUMER_STREAM", "value": "x"}]),
    _spec("delays out of order", "reconnect", DELAYS_IN_ORDER, reconnect={"minDelay": "2s", "maxDelay": "1s"}),
    _spec("a first delay above the default's last", "reconnect", DELAYS_IN_ORDER, reconnect={"minDelay": "6s"}),
    _spec("a last delay below the default's first", "reconnect", DELAYS_IN_ORDER, reconnect={"maxDelay": "49ms"}),
    _spec("a first delay of nothing", "reconnect.minDelay", "must be 1ms to 1m", reconnect={"minDelay": "0ms"}),
    _spec("a last delay too long", "reconnect.maxDelay", "must be 1ms to 5m", reconnect={"maxDelay": "6m"}),
    _spec("too short a poll", "pollInterval", "must be 100ms to 1m", pollInterval="99ms"),
    _spec("too long a poll", "pollInterval", "must be 100ms to 1m", pollInterval="61s"),
    _spec("too short an idle time", "delivery.minIdle", "must be 1s to 24h", delivery={"minIdle": "999ms"}),
    _spec("too short a drain", "drainTimeout", "must be 1s to 1h", drainTimeout="0s"),
    _spec("too long a drain", "drainTimeout", "must be 1s to 1h", drainTimeout="1h1ms"),
    _spec("another kind of URL", "redis.url", REDIS_URL, redis={"url": "http://redis"}),
    _spec("a socket", "redis.url", REDIS_URL, redis={"url": "unix:///run/redis"}),
    _spec("a function without a module", "handler.python", FUNCTION, handler={"python": "handle"}),
    _spec("a function with a line feed", "handler.python", FUNCTION, handler={"python": "shop:handle\n"}),
    _spec("no duration", "drainTimeout", DURATION_FORM, drainTimeout="30"),
    _spec("a duration with a line feed", "drainTimeout", DURATION_FORM, drainTimeout="30s\n"),
    _spec("a duration in days", "drainTimeout", DURATION_FORM, drainTimeout="1d"),
    _spec("a wrong start", "startFrom", START, startFrom="yesterday"),
    _spec("a variable that is no name", "env", VARIABLE, env=[{"name": "1ST", "value": "x"}]),
    _spec("a collector without http", "telemetry.endpoint", ENDPOINT, telemetry={"endpoint": "collector:4318"}),
    Case("a name of 51 characters", manifest("o" * 51), "", SHORT_NAME),
]
"""Refused by a rule that has a sentence."""

SHAPES = [
    _spec("no Redis", "redis", redis=...),
    _spec("no stream", "stream", stream=...),
    _spec("no group", "consumerGroup", consumerGroup=...),
    _spec("no handler at all", "handler", handler=...),
    _spec("an empty stream", "stream", stream=""),
    _spec("a stream too long", "stream", stream="x" * 513),
    _spec("half a Secret", "redis.urlSecretRef.key", redis={"urlSecretRef": {"name": "redis"}}),
    _spec("an empty source", "handler.source", handler={"source": ""}),
    _spec("a number for a duration", "drainTimeout", drainTimeout=30),
    _spec("an absurd duration", "drainTimeout", drainTimeout="9999999999999999999999999999h"),
    _spec("no entries", "batchCount", batchCount=0),
    _spec("too many entries", "batchCount", batchCount=1001),
    _spec("text for a number", "batchCount", batchCount="10"),
    _spec("a fraction for a number", "batchCount", batchCount=1.5),
    _spec("yes for a number", "concurrency", concurrency=True),
    _spec("too much at once", "concurrency", concurrency=1001),
    _spec("another encoding", "encoding", encoding="latin-1"),
    _spec("another pull policy", "imagePullPolicy", imagePullPolicy="Sometimes"),
    _spec("an empty image", "image", image=""),
    _spec("fewer than no pods", "replicas", replicas=-1),
    _spec("too many pods", "replicas", replicas=1001),
    _spec("a variable that is a number", "env", env=[{"name": "FIRST", "value": 1}]),
    _spec("one variable twice", "env", env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
    _spec("variables as an object", "env", env={"A": "1"}),
    _spec("no quantity", "resources.limits", resources={"limits": {"memory": "much"}}),
    _spec("a quantity below nothing", "resources.limits.cpu", resources={"limits": {"cpu": -1}}),
    _spec("a quantity as a fraction", "resources.limits.cpu", resources={"limits": {"cpu": 0.5}}),
    _spec("a quantity as yes", "resources.limits.cpu", resources={"limits": {"cpu": True}}),
    _spec("a string for Redis", "redis", redis="redis://redis"),
]
"""Refused by type or bound, each side in its own words."""

RIGHT = {
    "the smallest": manifest(),
    "nulls": manifest(replicas=None, image=None, env=None, delivery=None, reconnect={"minDelay": None}),
    "no pods": manifest(replicas=0),
    "a URL from a Secret": manifest(redis={"urlSecretRef": SECRET}),
    "a user and a password from Secrets": manifest(
        redis={"url": "rediss://redis", "usernameSecretRef": SECRET, "passwordSecretRef": SECRET}
    ),
    "a source": manifest(handler={"source": "def handle(data): ..."}, image=...),
    "delays alike": manifest(reconnect={"minDelay": "1s", "maxDelay": "1s"}),
    "a first delay at the default's last": manifest(reconnect={"minDelay": "5s"}),
    "durations at their bounds": manifest(pollInterval="100ms", drainTimeout="1h", delivery={"minIdle": "1440m"}),
    "a duration of several units": manifest(drainTimeout="1m30s500ms"),
    "an empty group of settings": manifest(delivery={}, reconnect={}, resources={}, telemetry={}),
    "starting at an id": manifest(startFrom="1526919030474-55"),
    "starting at the end": manifest(startFrom="$"),
    "quantities": manifest(resources={"limits": {"cpu": "0.5", "memory": "1.5Gi"}}),
    "a quantity as a number": manifest(resources={"limits": {"cpu": 1}, "requests": {"cpu": "100m"}}),
    "a variable without a value": manifest(env=[{"name": "DEBUG"}]),
    "a variable of OpenTelemetry": manifest(env=[{"name": "OTEL_SERVICE_NAME", "value": "orders"}]),
    "a name of 50 characters": manifest("o" * 50),
    "a stream in other letters": manifest(stream="заказы:{shop}:$1 $(x)"),
}
"""Accepted by both."""
