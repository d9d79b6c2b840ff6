"""How a pod reaches Redis: what a StreamConsumer says of it as settings, and its Secrets as files.

Files and not variables: a variable is fixed when the container starts, while the kubelet brings a rotated Secret into
the files of a running pod, and the processor reads them at each connect. A Secret that is missing does not keep the
pod from starting, in a way that only its events tell: the processor says which file is not there, and the
StreamConsumer's condition shows it.
"""

from collections.abc import Iterator

from streamconsumer.model import names
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.model.spec import RedisSpec, SecretKeyRef
from streamconsumer.operator.manifests.metadata import Manifest

FILE_MODE = 0o444
"""For the user of any image: without an fsGroup, which some clusters forbid, the files belong to root."""

_VOLUME = "redis"


def redis_settings(redis: RedisSpec) -> RedisSettings:
    """What the pod is told."""
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
    """The volume with all files; none where nothing comes from a Secret."""
    sources = [
        {"secret": {"name": ref.name, "items": [{"key": ref.key, "path": file}], "optional": True}}
        for _, file, ref in secret_files(redis)
    ]
    return [{"name": _VOLUME, "projected": {"defaultMode": FILE_MODE, "sources": sources}}] if sources else []


def mounts(redis: RedisSpec) -> list[Manifest]:
    return [{"name": _VOLUME, "mountPath": names.REDIS_FOLDER, "readOnly": True}] if volumes(redis) else []


def secret_files(redis: RedisSpec) -> Iterator[tuple[str, str, SecretKeyRef]]:
    """The setting that names it, the file, and where it comes from."""
    tls, sentinel = redis.tls, redis.sentinel
    certificate = tls.cert_secret_ref.name if tls and tls.cert_secret_ref else None
    known = [
        ("url_file", "url", redis.url_secret_ref),
        ("username_file", "username", redis.username_secret_ref),
        ("password_file", "password", redis.password_secret_ref),
        ("tls_ca_file", "ca.crt", tls.ca_secret_ref if tls else None),
        ("tls_cert_file", "tls.crt", SecretKeyRef(name=certificate, key="tls.crt") if certificate else None),
        ("tls_key_file", "tls.key", SecretKeyRef(name=certificate, key="tls.key") if certificate else None),
        ("sentinel_username_file", "sentinel-username", sentinel.username_secret_ref if sentinel else None),
        ("sentinel_password_file", "sentinel-password", sentinel.password_secret_ref if sentinel else None),
    ]
    return ((setting, file, reference) for setting, file, reference in known if reference)
