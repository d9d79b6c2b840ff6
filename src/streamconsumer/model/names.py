"""Every word that goes over a wire, once."""

GROUP = "streamconsumer.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "StreamConsumer"
PLURAL = "streamconsumers"
SINGULAR = "streamconsumer"
SHORT_NAME = "stc"
CATEGORY = "streams"

ENVIRONMENT_PREFIX = "STREAMCONSUMER_"
"""A pod's settings are environment variables that begin so; see `model.environment`."""

FIELD_MANAGER = "streamconsumer-operator"
"""Who owns the fields that the operator applies."""

LABEL_CONSUMER = f"{GROUP}/name"
"""On every child: the StreamConsumer it belongs to. The only label a selector holds, so it never changes."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_APPLIED = f"{GROUP}/applied"
"""On every child: the hash of what was applied last. Differs: somebody changed the StreamConsumer."""

ANNOTATION_REFERENCES = f"{GROUP}/references"
"""On pods: the hash of the Secrets and ConfigMaps that their variables come from. Differs: they must be replaced."""

CONTAINER = "processor"
HTTP_PORT = 8080
TERMINATION_LOG = "/dev/termination-log"
"""Where a dying pod leaves its one line; the kubelet copies it into the pod's status (Kubernetes' default path)."""

SOURCE_FOLDER = "/etc/streamconsumer/source"
SOURCE_MODULE = "handler_source"
SOURCE_FUNCTION = "handle"
"""`handler.source` is mounted as SOURCE_FOLDER/SOURCE_MODULE.py and must define SOURCE_FUNCTION."""

REDIS_FOLDER = "/etc/streamconsumer/redis"
"""What a StreamConsumer takes of Secrets for Redis is mounted here, a file each."""
