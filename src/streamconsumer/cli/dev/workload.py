"""Files → what to run: each StreamConsumer with the Deployment that the operator would apply for it."""

import base64
import binascii
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from streamconsumer.cli.dev.kubelet_env import ConfigObjects, resolve
from streamconsumer.cli.manifest_files import Document, read
from streamconsumer.errors import InvalidSettings
from streamconsumer.model import names
from streamconsumer.model.env_codec import env_name
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.manifests.env import http_url
from streamconsumer.operator.settings import OperatorSettings


@dataclass(frozen=True)
class Workload:
    """One StreamConsumer, ready to run here."""

    consumer: StreamConsumer
    folder: Path
    """Of the manifest: where the handler's module is looked for."""

    children: Sequence[Manifest]
    config_objects: ConfigObjects

    @property
    def name(self) -> str:
        return self.consumer.name

    @property
    def deployment(self) -> Manifest:
        return next(child for child in self.children if child["kind"] == "Deployment")

    @property
    def pod_spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.deployment["spec"]["template"]["spec"]
        return spec

    @property
    def pod_names(self) -> list[str]:
        """The name of each replica's pod: `orders-consumer-1`, `orders-consumer-2`."""
        replicas = int(self.deployment["spec"].get("replicas", 1))
        return [f"{self.deployment['metadata']['name']}-{number}" for number in range(1, replicas + 1)]

    @property
    def handler_name(self) -> str:
        """What is told of the handler."""
        said = self.consumer.spec.handler
        return self._local_handler_url() or said.python or "handler.source"

    @property
    def grace_period(self) -> timedelta:
        """What a pod gets between SIGTERM and SIGKILL."""
        return timedelta(seconds=self.pod_spec["terminationGracePeriodSeconds"])

    @property
    def source_files(self) -> Mapping[str, str]:
        """The files of the ConfigMap that carries `handler.source`."""
        return next((child["data"] for child in self.children if child["kind"] == "ConfigMap"), {})

    def environment(self, pod_name: str) -> dict[str, str]:
        """The container's. Raises InvalidSettings where a Secret or ConfigMap is missing: in a cluster it may come
        later, here it cannot."""
        fields = {
            "metadata.name": pod_name,
            "metadata.namespace": self.consumer.namespace,
            "metadata.uid": str(uuid.uuid4()),
            "spec.nodeName": "localhost",
        }
        (container,) = self.pod_spec["containers"]
        found = resolve(container, fields, self.config_objects)
        if url := self._local_handler_url():
            found[env_name("handler", "http_url")] = url
        return found

    def _local_handler_url(self) -> str:
        """No Service answers here, but the program behind it may, on the same port of this machine."""
        http = self.consumer.spec.handler.http
        return http_url(http, "127.0.0.1") if http else ""


def load_workloads(files: Iterable[Path]) -> list[Workload]:
    """The StreamConsumers in the files. Raises InvalidSettings or InvalidResource if any of them cannot run."""
    found = [(manifest_folder(file), document) for file in files for document in read([file])]
    settings = OperatorSettings.from_env(os.environ)
    objects = collect_config_objects(document for _, document in found)
    workloads: list[Workload] = []
    for folder, document in found:
        if document.get("kind") == names.KIND:
            consumer = StreamConsumer.parse(document)
            workload = Workload(consumer, folder, desired(consumer, settings), objects)
            workload.environment("pod")  # a missing Secret is reported before anything starts
            workloads.append(workload)
    if not workloads:
        raise InvalidSettings(f"no {names.API_VERSION} {names.KIND} in {', '.join(map(str, files))}")
    return workloads


def manifest_folder(file: Path) -> Path:
    """Where a handler beside the file is looked for; of standard input, the current folder."""
    return (file if file.is_dir() else file.parent).absolute()


def collect_config_objects(documents: Iterable[Document]) -> ConfigObjects:
    """The Secrets and ConfigMaps among the documents. stringData wins over data, as on the API server."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for document in documents:
        kind = document.get("kind")
        if kind not in ("Secret", "ConfigMap"):
            continue
        metadata = document.get("metadata") or {}
        where = str(metadata.get("namespace") or "default"), str(metadata.get("name") or "")
        data = document.get("data") or {}
        texts = {
            key: _decode_secret(where, key, value) if kind == "Secret" else str(value) for key, value in data.items()
        }
        texts |= {key: str(value) for key, value in (document.get("stringData") or {}).items()}
        found[kind, *where] = texts
    return ConfigObjects(found)


def _decode_secret(object_name: tuple[str, str], key: str, value: object) -> str:
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidSettings(
            f"Secret {'/'.join(object_name)}, data.{key}: is not text in base64; write it plainly under stringData"
        ) from None
