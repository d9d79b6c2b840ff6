"""Names of the Kubernetes API: group, labels, annotations, environment prefix, ports and paths. Each has one place."""

GROUP = "streamconsumer.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "StreamConsumer"
PLURAL = "streamconsumers"
SINGULAR = "streamconsumer"
SHORT_NAME = "stc"
CATEGORY = "streams"

ENVIRONMENT_PREFIX = "STREAMCONSUMER_"
"""Prefix of the environment variables with a pod's settings; see `env_codec.py`."""

FIELD_MANAGER = "streamconsumer-operator"
"""Field manager for everything that the operator applies."""

LABEL_CONSUMER = f"{GROUP}/name"
"""On every child: the name of its StreamConsumer. The label never changes, because selectors use only this label."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_APPLIED = f"{GROUP}/applied"
"""On every child: hash of the manifest that was applied last. If it differs, the StreamConsumer has changed."""

ANNOTATION_REFERENCES = f"{GROUP}/references"
"""On pods: hash of the Secrets and ConfigMaps behind their variables. If it differs, the pods must be replaced."""

CONTAINER = "processor"
HTTP_PORT = 8080
TERMINATION_LOG = "/dev/termination-log"
"""File for one line about why a pod exits, at Kubernetes' default path. The kubelet copies it to the pod status."""

SOURCE_FOLDER = "/etc/streamconsumer/source"
SOURCE_MODULE = "handler_source"
SOURCE_FUNCTION = "handle"
"""`handler.source` is mounted as SOURCE_FOLDER/SOURCE_MODULE.py and must define SOURCE_FUNCTION."""

REDIS_FOLDER = "/etc/streamconsumer/redis"
"""Mount path of the Secret keys for Redis, one file per key."""
