"""Types of the text fields that contain names: names of Kubernetes objects and keys, Redis keys and fields, and images.

Each name in a StreamConsumer becomes part of an API path, a Redis command, a label, a file name, an environment
variable or a header. The patterns are therefore the first check of every name that a user of the cluster writes.
"""

from typing import Annotated

from pydantic import Field

from streamconsumer.model.fields import Pattern
from streamconsumer.model.redis_url import PORT_PATTERN

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""C0 and C1 control characters, DEL, line and paragraph separators, and all bidirectional controls."""

OBJECT_NAME = Pattern(
    _SUBDOMAIN,
    "must be the name of a Kubernetes object: lower-case letters, digits, `-` and `.`, such as redis-login",
    "redis-login",
)
NAMESPACE = Pattern(_LABEL, "must be the name of a namespace: lower-case letters, digits and `-`, such as shop", "shop")
LABEL_KEY = Pattern(f"({_SUBDOMAIN}/)?{_QUALIFIED_NAME}", "must be a qualified name, such as team or example.com/team")
LABEL_VALUE = Pattern(
    "([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
    "must be a label value: letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
    "shop",
)
REDIS_NAME = Pattern(
    f"[^{_CONTROL}]*", "must not contain control characters, line separators or bidirectional controls", "orders"
)

ObjectName = Annotated[str, Field(min_length=1, max_length=253), OBJECT_NAME]
"""Name of a Kubernetes object: a DNS subdomain."""

NamespaceName = Annotated[str, Field(min_length=1, max_length=63), NAMESPACE]

ObjectKey = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Pattern(
        r"\.?[-_A-Za-z0-9][-._A-Za-z0-9]*",
        "must be a key of a Secret or ConfigMap: letters, digits, `-`, `_` and `.`, without `..` at the beginning",
        "password",
    ),
]
"""Key of a Secret or ConfigMap. Volumes use the key as a file name."""

LabelKey = Annotated[str, Field(min_length=1, max_length=317), LABEL_KEY]
"""Key of a label, an annotation, a taint or a resource."""

LabelValue = Annotated[str, Field(max_length=63), LABEL_VALUE]

RedisName = Annotated[str, Field(min_length=1, max_length=512), REDIS_NAME]
"""Name of a stream, a consumer group, a consumer or an entry field: any text without control characters."""

SentinelNode = Annotated[
    str,
    Field(min_length=3, max_length=261),
    Pattern(
        rf"([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):{PORT_PATTERN}",
        "must be the address of a sentinel, as host:port",
        "sentinel:26379",
    ),
]
SentinelMaster = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Pattern(
        "[A-Za-z0-9._-]+", "must be a name in the Sentinel configuration: letters, digits, `.`, `_` and `-`", "mymaster"
    ),
]
ImageName = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Pattern(
        r"[A-Za-z0-9\[][A-Za-z0-9_.:/@\[\]+-]*",
        "must be the name of an image, such as registry.example/shop:1.4",
        "registry.example/shop:1.4",
    ),
]
ServiceName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Pattern(_LABEL, "must be the name of a Service in the same namespace, without a dot", "billing"),
]
