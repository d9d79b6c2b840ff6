"""Files → what to run: each StreamConsumer with the Deployment that the operator would apply for it."""

import base64
import binascii
import os
import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from streamconsumer.cli.dev.environment import Objects, Secrets, resolve
from streamconsumer.cli.documents import Document, read
from streamconsumer.cli.render import parse
from streamconsumer.errors import InvalidSettings
from streamconsumer.model import names
from streamconsumer.model.environment import variable
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.manifests.environment import http_url
from streamconsumer.operator.settings import OperatorSettings

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' own for the ends of names: no vowels, so no words."""


@dataclass(frozen=True)
class Workload:
    """One StreamConsumer, ready to run here."""

    consumer: StreamConsumer
    folder: Path
    """Of the manifest: where the handler's module is looked for."""

    children: Sequence[Manifest]
    secrets: Secrets
    config_maps: Secrets

    @property
    def name(self) -> str:
        return self.consumer.name

    @property
    def deployment(self) -> Manifest:
        return next(child for child in self.children if child["kind"] == "Deployment")

    @property
    def pod(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.deployment["spec"]["template"]["spec"]
        return spec

    @property
    def replicas(self) -> int:
        return int(self.deployment["spec"].get("replicas", 1))

    @property
    def handler(self) -> str:
        """What is told of the handler."""
        said = self.consumer.spec.handler
        return self._sent_to() or said.python or "handler.source"

    @property
    def grace(self) -> timedelta:
        """What a pod gets between SIGTERM and SIGKILL."""
        return timedelta(seconds=self.pod["terminationGracePeriodSeconds"])

    @property
    def source(self) -> Mapping[str, str]:
        """The files of the ConfigMap that carries `handler.source`."""
        return next((child["data"] for child in self.children if child["kind"] == "ConfigMap"), {})

    def pod_name(self) -> str:
        """Another one at each call."""
        return f"{self.deployment['metadata']['name']}-{''.join(secrets.choice(_ALPHABET) for _ in range(5))}"

    def files(self) -> dict[str, str]:
        """What the container finds of Secrets, by path. Raises InvalidSettings where one is missing: in a cluster it
        may come later, here it cannot."""
        (container,) = self.pod["containers"]
        folders = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        return {
            f"{folders[volume['name']]}/{item['path']}": self.secrets.value(
                self.consumer.namespace, source["secret"]["name"], item["key"]
            )
            for volume in self.pod["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
            for item in source["secret"]["items"]
        }

    def environment(self, pod_name: str, files: Mapping[str, Path]) -> dict[str, str]:
        """The container's; `files` says where here each of its files is."""
        fields = {
            "metadata.name": pod_name,
            "metadata.namespace": self.consumer.namespace,
            "metadata.uid": str(uuid.uuid4()),
            "spec.nodeName": "localhost",
        }
        (container,) = self.pod["containers"]
        objects = Objects(self.consumer.namespace, self.secrets, self.config_maps)
        found = resolve(container["env"], fields, objects, container.get("envFrom", []))
        if url := self._sent_to():
            found[variable("handler", "http_url")] = url
        return {name: str(files.get(value, value)) for name, value in found.items()}

    def _sent_to(self) -> str:
        """No Service answers here, but the program behind it may, on the same port of this machine."""
        http = self.consumer.spec.handler.http
        return http_url(http, "127.0.0.1") if http else ""


def load(files: Iterable[Path]) -> tuple[list[Workload], list[str]]:
    """What can run, and why the rest cannot. Raises InvalidSettings for a file that cannot be read at all."""
    found = [(folder_of(file), document) for file in files for document in read([file])]
    settings = OperatorSettings.from_env(os.environ)
    given = [document for _, document in found]
    secrets, config_maps = secrets_of(given), config_maps_of(given)
    workloads: dict[tuple[str, str], Workload] = {}
    refusals: list[str] = []
    for folder, document in found:
        consumers, refused = parse([document] if document.get("kind") == names.KIND else [])
        refusals += refused
        for consumer in consumers:
            workload = Workload(consumer, folder, desired(consumer, settings), secrets, config_maps)
            if problem := _problem(workload, workloads):
                refusals.append(problem)
            else:
                workloads[consumer.namespace, consumer.name] = workload
    return list(workloads.values()), refusals


def folder_of(file: Path) -> Path:
    """Where a handler beside the file is looked for; of standard input, the current folder."""
    return (file if file.is_dir() else file.parent).absolute()


def secrets_of(documents: Iterable[Document]) -> Secrets:
    """The Secrets among the documents; stringData wins over data, as on the API server."""
    values: dict[tuple[str, str, str], str] = {}
    for document in documents:
        if document.get("kind") != "Secret":
            continue
        metadata = document.get("metadata") or {}
        where = str(metadata.get("namespace") or "default"), str(metadata.get("name") or "")
        texts = {key: _decoded(where, key, value) for key, value in (document.get("data") or {}).items()}
        texts |= {key: str(value) for key, value in (document.get("stringData") or {}).items()}
        values |= {(*where, key): text for key, text in texts.items()}
    return Secrets(values)


def config_maps_of(documents: Iterable[Document]) -> Secrets:
    """The ConfigMaps among the documents."""
    values: dict[tuple[str, str, str], str] = {}
    for document in documents:
        if document.get("kind") == "ConfigMap":
            metadata = document.get("metadata") or {}
            where = str(metadata.get("namespace") or "default"), str(metadata.get("name") or "")
            values |= {(*where, key): str(text) for key, text in (document.get("data") or {}).items()}
    return Secrets(values, "ConfigMap")


def _decoded(where: tuple[str, str], key: str, value: object) -> str:
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidSettings(
            f"Secret {'/'.join(where)}, data.{key}: is not text in base64; write it plainly under stringData"
        ) from None


def _problem(workload: Workload, others: Mapping[tuple[str, str], Workload]) -> str:
    where = workload.consumer.namespace, workload.consumer.name
    if where in others:
        return f"{'/'.join(where)}: is given twice; the first one is used"
    try:
        workload.files()
        workload.environment("pod", {})
    except InvalidSettings as error:
        return f"{'/'.join(where)}: {error}"
    return ""
