"""Redis access of a pod: connection settings from the spec, and Secrets as mounted files.

Secrets are mounted as files, because the environment variables of a container are fixed when the container starts.
After a rotation, the kubelet updates the files in a running pod, and the processor reads the files each time it
connects.

The Secrets in the volume are optional, so that a pod starts even if a Secret is missing. The processor then reports the
missing file, and a condition of the StreamConsumer shows this report. If the Secrets were required, the pod would not
start, and only the pod's Events would show the cause.
"""

from collections.abc import Iterator

from streamconsumer.model import names
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.model.spec import RedisSpec, SecretKeyRef
from streamconsumer.operator.manifests.metadata import Manifest

FILE_MODE = 0o444
"""File mode that allows the user of any image to read the files. The files belong to root, because the pod sets no
fsGroup, which some clusters forbid."""

_VOLUME = "redis"


def redis_settings(redis: RedisSpec) -> RedisSettings:
    """Build the connection settings of the pod. If a value comes from a Secret, the setting contains the path of a
    file."""
    sentinel = redis.sentinel
    return RedisSettings(
        url=redis.url,
        tls_insecure_skip_verify=redis.tls.insecure_skip_verify if redis.tls else False,
        sentinel_master=sentinel.master_name if sentinel else None,
        sentinel_nodes=sentinel.nodes if sentinel else [],
        cluster=redis.cluster,
        **{setting: f"{names.REDIS_FOLDER}/{file}" for setting, file, _ in secret_files(redis)},
    )


def volumes(redis: RedisSpec) -> list[Manifest]:
    """Build the volume that contains all Secret files. Returns an empty list if no value comes from a Secret."""
    sources = [
        {"secret": {"name": ref.name, "items": [{"key": ref.key, "path": file}], "optional": True}}
        for _, file, ref in secret_files(redis)
    ]
    return [{"name": _VOLUME, "projected": {"defaultMode": FILE_MODE, "sources": sources}}] if sources else []


def mounts(redis: RedisSpec) -> list[Manifest]:
    return [{"name": _VOLUME, "mountPath": names.REDIS_FOLDER, "readOnly": True}] if volumes(redis) else []


def secret_files(redis: RedisSpec) -> Iterator[tuple[str, str, SecretKeyRef]]:
    """Yield three items for each value that comes from a Secret: the name of the setting, the file name, and the
    reference to the key of the Secret."""
    tls, sentinel = redis.tls, redis.sentinel
    certificate = tls.cert_secret_ref.name if tls and tls.cert_secret_ref else None
    candidates = [
        ("url_file", "url", redis.url_secret_ref),
        ("username_file", "username", redis.username_secret_ref),
        ("password_file", "password", redis.password_secret_ref),
        ("tls_ca_file", "ca.crt", tls.ca_secret_ref if tls else None),
        ("tls_cert_file", "tls.crt", SecretKeyRef(name=certificate, key="tls.crt") if certificate else None),
        ("tls_key_file", "tls.key", SecretKeyRef(name=certificate, key="tls.key") if certificate else None),
        ("sentinel_username_file", "sentinel-username", sentinel.username_secret_ref if sentinel else None),
        ("sentinel_password_file", "sentinel-password", sentinel.password_secret_ref if sentinel else None),
    ]
    return ((setting, file, reference) for setting, file, reference in candidates if reference)
