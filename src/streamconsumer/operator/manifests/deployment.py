"""Deployment whose pods run the processor image. Each pod is a consumer in the consumer group."""

import math
from datetime import timedelta
from typing import NamedTuple

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import redis_secrets
from streamconsumer.operator.manifests.env import env_from, environment
from streamconsumer.operator.manifests.metadata import Manifest, child_name, digest, labels, metadata, selector
from streamconsumer.operator.manifests.scheduling import non_empty, rollout, scheduling
from streamconsumer.operator.manifests.source_config_map import SOURCE_VOLUME, source_name
from streamconsumer.operator.settings import OperatorSettings

GRACE_AFTER_DRAIN = timedelta(seconds=8)
"""Time between the end of `drainTimeout` and the SIGKILL.

If Redis does not reply, the processor needs up to 1 s for each of four steps: ending the read, releasing entries,
awaiting cancelled handlers and leaving the group. The export of the last spans then takes up to 3 s."""


class ReferenceHashes(NamedTuple):
    """Hashes of the Secrets and ConfigMaps that the environment variables of the pods refer to."""

    template: str = ""
    """Value of the annotation of the pod template, or an empty string if the pod template has no such annotation. A new
    value starts a rollout."""
    known: str = ""
    """Value of the annotation of the Deployment: the hash of each readable object. The value is an empty string if the
    Deployment has no such annotation."""


def deployment(consumer: StreamConsumer, settings: OperatorSettings, references: ReferenceHashes) -> Manifest:
    annotations = non_empty(**{names.ANNOTATION_KNOWN_REFERENCES: references.known})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**metadata(consumer, child_name(consumer)), **non_empty(annotations=annotations)},
        "spec": {
            "replicas": 0 if consumer.spec.suspend else consumer.spec.replicas,
            **rollout(consumer.spec.rollout),
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector(consumer)},
            "template": _template(consumer, settings, references.template),
        },
    }


def _template(consumer: StreamConsumer, settings: OperatorSettings, config_hash: str) -> Manifest:
    spec = consumer.spec
    identity = spec.service_account_annotations
    own_annotations = {
        names.ANNOTATION_REFERENCES: config_hash,
        names.ANNOTATION_SERVICE_ACCOUNT: digest(identity) if identity else "",
    }
    annotations = {**spec.pod_annotations, **non_empty(**own_annotations)}
    pod_metadata = {"labels": {**spec.pod_labels, **labels(consumer)}, **non_empty(annotations=annotations)}
    return {"metadata": pod_metadata, "spec": _pod(consumer, settings)}


def _pod(consumer: StreamConsumer, settings: OperatorSettings) -> Manifest:
    grace = consumer.spec.drain_timeout + GRACE_AFTER_DRAIN
    return {
        **scheduling(consumer),
        "serviceAccountName": child_name(consumer),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(grace.total_seconds()),
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(consumer, settings)],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            *_source_volume(consumer),
            *redis_secrets.volumes(consumer.spec.redis),
        ],
    }


def _container(consumer: StreamConsumer, settings: OperatorSettings) -> Manifest:
    spec = consumer.spec
    policy = spec.image_pull_policy or settings.processor_image_pull_policy
    return {
        "name": names.CONTAINER,
        "image": spec.image or settings.processor_image,
        **({"imagePullPolicy": policy} if policy else {}),
        "command": ["streamconsumer", "processor"],
        "env": environment(consumer, settings),
        **non_empty(envFrom=env_from(consumer)),
        "ports": [{"name": "http", "containerPort": names.HTTP_PORT}],
        # A pod starts its first read after a second or two. Until then, frequent probes cost little and report a ready
        # pod early.
        "startupProbe": {**_probe("/livez"), "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 2, "failureThreshold": 3},
        "livenessProbe": {**_probe("/livez"), "periodSeconds": 10, "failureThreshold": 3},
        **({"resources": resources} if (resources := _resources(consumer)) else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": names.TERMINATION_LOG,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a separate volume
            *_source_mount(consumer),
            *redis_secrets.mounts(consumer.spec.redis),
        ],
    }


def _probe(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 2}


def _resources(consumer: StreamConsumer) -> Manifest:
    return consumer.spec.resources.model_dump(exclude_defaults=True)


def _source_volume(consumer: StreamConsumer) -> list[Manifest]:
    text = consumer.spec.handler.source
    return [{"name": SOURCE_VOLUME, "configMap": {"name": source_name(consumer, text)}}] if text else []


def _source_mount(consumer: StreamConsumer) -> list[Manifest]:
    mount = {"name": SOURCE_VOLUME, "mountPath": names.SOURCE_FOLDER, "readOnly": True}
    return [mount] if consumer.spec.handler.source else []
