"""Names that the project uses in Kubernetes: API group, labels, annotations, prefix of environment variables, ports and
paths."""

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
"""Field manager of all objects that the operator applies."""

LABEL_CONSUMER = f"{GROUP}/name"
"""Label of every child object. The value is the name of the StreamConsumer.

The label must never be renamed, because the selectors of Deployments use only this label and cannot be changed.
"""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_APPLIED = f"{GROUP}/applied"
"""Annotation of every child object: hash of the manifest that the operator applied last.

If a child object differs from its manifest although both have the same hash, another program changed the object.
"""

ANNOTATION_REFERENCES = f"{GROUP}/references"
"""Annotation of pods: hash of the Secrets and ConfigMaps that the pod's environment variables refer to.

A new hash in the pod template starts a rollout.
"""

ENDED_POD_PHASES = ("Failed", "Succeeded")
"""Phases of pods that never run again, for example after an eviction or the shutdown of their node. Kubernetes has
already replaced these pods."""

ANNOTATION_SERVICE_ACCOUNT = f"{GROUP}/service-account"
"""Annotation of the pod template that contains a hash of `serviceAccountAnnotations`. A change of these annotations
replaces the pods, because cloud webhooks read the annotations only when a pod is created."""

ANNOTATION_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation of pods, defined by Kubernetes: a ReplicaSet first deletes the pods with the lowest cost."""

ANNOTATION_KNOWN_REFERENCES = f"{GROUP}/known-references"
"""Annotation of Deployments: a hash for each readable Secret or ConfigMap that the pods' environment variables use.

The operator compares the hashes in this annotation with the hashes of the current objects. If an object was not
readable before, the annotation contains no hash of this object. The first hash of such an object does not start a
rollout.
"""

CONTAINER = "processor"
ANY_HOST = "::"
"""Address of a server that accepts connections over IPv6 and IPv4. The kubelet probes the pod's own address."""

HTTP_PORT = 8080
TERMINATION_LOG = "/dev/termination-log"
"""File to which a pod writes the reason if the pod cannot start. The path is the default terminationMessagePath of
Kubernetes. The kubelet copies the reason to the status of the pod."""

SOURCE_FOLDER = "/etc/streamconsumer/source"
SOURCE_MODULE = "handler_source"
SOURCE_FUNCTION = "handle"
"""Function that the code in `handler.source` must define. The code is mounted as SOURCE_FOLDER/SOURCE_MODULE.py."""

REDIS_FOLDER = "/etc/streamconsumer/redis"
"""Folder in which the keys of the Secrets for Redis are mounted, one file per key."""

POD_UID_VARIABLE = "OTEL_RESOURCE_ATTRIBUTES_POD_UID"
"""Environment variable with the UID of the pod. Telemetry and the registration of the consumer name use this UID."""
