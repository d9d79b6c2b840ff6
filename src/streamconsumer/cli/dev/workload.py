"""Reads files into workloads. A workload is a StreamConsumer with the manifests that the operator would apply."""

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
from streamconsumer.model.manifest import resembles_consumer
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.manifests.env import http_url
from streamconsumer.operator.settings import OperatorSettings


@dataclass(frozen=True)
class Workload:
    """A StreamConsumer, and everything that `dev` needs to run its pods on this machine."""

    consumer: StreamConsumer
    folder: Path
    """Folder of the manifest. Python imports the handler from this folder."""

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
        """Names of the pods, such as `orders-consumer-1` and `orders-consumer-2`."""
        replicas = int(self.deployment["spec"].get("replicas", 1))
        return [f"{self.deployment['metadata']['name']}-{number}" for number in range(1, replicas + 1)]

    @property
    def handler_name(self) -> str:
        """Name of the handler in messages of `dev`."""
        return self._local_handler_url() or self.consumer.spec.handler.python or "handler.source"

    @property
    def grace_period(self) -> timedelta:
        """Time between SIGTERM and SIGKILL."""
        return timedelta(seconds=self.pod_spec["terminationGracePeriodSeconds"])

    @property
    def source_files(self) -> Mapping[str, str]:
        """Files with the code in `handler.source`, or no files if `handler.source` is not set."""
        return next((child["data"] for child in self.children if child["kind"] == "ConfigMap"), {})

    def environment(self, pod_name: str) -> dict[str, str]:
        """Return the environment variables of the container.

        Raises InvalidSettings if a Secret or ConfigMap is missing.
        """
        fields = {
            "metadata.name": pod_name,
            "metadata.namespace": self.consumer.namespace,
            "metadata.uid": str(uuid.uuid4()),
            "spec.nodeName": "localhost",
        }
        (container,) = self.pod_spec["containers"]
        environment = resolve(container, fields, self.config_objects)
        if url := self._local_handler_url():
            environment[env_name("handler", "http_url")] = url
        return environment

    def _local_handler_url(self) -> str:
        """Return the local URL of an HTTP handler. The user's program must listen on this machine, on the same port as
        the Service."""
        http = self.consumer.spec.handler.http
        return http_url(http, "127.0.0.1") if http else ""


def load_workloads(files: Iterable[Path]) -> list[Workload]:
    """Load the StreamConsumers in the files. Raises InvalidSettings or InvalidResource if a StreamConsumer cannot
    run."""
    documents = [(manifest_folder(file), document) for file in files for document in read([file])]
    settings = OperatorSettings.from_env(os.environ)
    objects = collect_config_objects(document for _, document in documents)
    workloads: list[Workload] = []
    for folder, document in documents:
        if resembles_consumer(document):
            consumer = StreamConsumer.parse_document(document)
            workload = Workload(consumer, folder, desired(consumer, settings), objects)
            workload.environment("pod")  # reports a missing Secret before a process starts
            workloads.append(workload)
    if not workloads:
        raise InvalidSettings(f"no {names.API_VERSION} {names.KIND} in {', '.join(map(str, files))}")
    return workloads


def manifest_folder(file: Path) -> Path:
    """Return the folder of the file. If the file is standard input, return the current folder."""
    return (file if file.is_dir() else file.parent).absolute()


def collect_config_objects(documents: Iterable[Document]) -> ConfigObjects:
    """Collect the Secrets and ConfigMaps in the documents. As in the API server, `stringData` overrides `data`."""
    data_by_object: dict[tuple[str, str, str], dict[str, str]] = {}
    for document in documents:
        kind = document.get("kind")
        if kind not in ("Secret", "ConfigMap"):
            continue
        metadata = document.get("metadata") or {}
        object_name = str(metadata.get("namespace") or "default"), str(metadata.get("name") or "")
        data = document.get("data") or {}
        texts = {
            key: _decode_secret(object_name, key, value) if kind == "Secret" else str(value)
            for key, value in data.items()
        }
        texts |= {key: str(value) for key, value in (document.get("stringData") or {}).items()}
        data_by_object[kind, *object_name] = texts
    return ConfigObjects(data_by_object)


def _decode_secret(object_name: tuple[str, str], key: str, value: object) -> str:
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidSettings(
            f"Secret {'/'.join(object_name)}, data.{key}: found a value that base64 cannot decode to text; "
            "encode the text in base64, or move the plain text to stringData"
        ) from None
