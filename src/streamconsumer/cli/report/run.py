"""Collects a bundle from the cluster.

The Secrets are read first, so that the values of Secrets can be removed from every text that is added later.
"""

import sys
from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from streamconsumer import __version__
from streamconsumer.cli.doctor.cluster_checks import OPERATOR_SELECTOR, diagnose_resource
from streamconsumer.cli.pod_exec import run_in_pod
from streamconsumer.cli.report import allow_list
from streamconsumer.cli.report.bundle import Bundle
from streamconsumer.cli.report.redact import keep_reason
from streamconsumer.cli.status.collect import (
    Manifest,
    collect_facts,
    kube_client,
    list_consumers,
    list_events,
    list_pods,
    map_concurrently,
    namespace_of,
)
from streamconsumer.cli.status.findings import derive_findings
from streamconsumer.cli.status.run import status_item
from streamconsumer.errors import InvalidResource, PermissionDenied
from streamconsumer.model import names
from streamconsumer.model.field_hints import quote_name
from streamconsumer.operator.kube.api import api_error_message
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.paths import label_selector

MAX_LOG_LINES = 2000
"""Maximum number of lines that the report keeps from the end of each log."""

MAX_LOG_LENGTH = 1_000_000
"""Maximum number of characters that the report keeps from the end of each log. The limit is needed because a line can
have any length."""

MIN_FOR_PROGRESS = 20
"""Minimum number of StreamConsumers for which a terminal shows the progress."""

MAX_VALUE_BYTES = 4096
"""Maximum length of a Secret's value that the report can remove. The search for a longer value would take too long."""

MAX_CONCURRENT_PODS = 16
"""Maximum number of pods that are queried at the same time. The limit is needed because each query needs a kubectl
process."""

GET_METRICS = """
from http.client import HTTPConnection
connection = HTTPConnection("127.0.0.1", {port}, timeout=10)
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""

PodsWithFolder = Sequence[tuple[str, Manifest]]
"""Pods, each with the folder for the files about the pod."""


async def collect(options: Mapping[str, Any]) -> Bundle:
    """Collect the files for the StreamConsumers that the options select, and for the operator.

    Raises InvalidSettings if the kubeconfig is unusable or the StreamConsumer does not exist. Raises BackendUnavailable
    if the Kubernetes API does not answer.
    """
    bundle, context = Bundle(), options["context"]
    async with kube_client(context) as client:
        consumers = await list_consumers(client, namespace_of(options), options["name"])
        resources = {f"{each['metadata']['namespace']}/{each['metadata']['name']}": each for each in consumers}
        operators = await bundle.fetch("operator/pods", _list_objects(client, "v1", "Pod", None, OPERATOR_SELECTOR))
        pods = [("operator", pod) for pod in operators or []]

        async def list_pods_of(folder: str) -> list[tuple[str, Manifest]]:
            consumer_pods = await bundle.fetch(f"{folder}/pods", list_pods(client, resources[folder]))
            return [(folder, pod) for pod in consumer_pods or []]

        pods += [pod for found in await map_concurrently(list_pods_of, resources) for pod in found]
        unknown = await _read_secrets(bundle, client, [*consumers, *(pod for _, pod in pods)])
        hidden = len(resources) < MIN_FOR_PROGRESS
        with click.progressbar(length=len(resources), label="collecting", file=sys.stderr, hidden=hidden) as progress:

            async def add_resource(folder: str) -> None:
                pod_names = {pod["metadata"]["name"] for pod_folder, pod in pods if pod_folder == folder}
                await _add_resource(bundle, client, (folder, resources[folder]), pod_names, context)
                progress.update(1)

            await map_concurrently(add_resource, resources, MAX_CONCURRENT_PODS)
        await bundle.add_response("operator/deployments.json", _deployment_documents(client, None, OPERATOR_SELECTOR))
        await _add_metrics(bundle, pods, resources, context)
        if options["logs"] and unknown:
            bundle.omit("logs", f"logs may contain the unknown values of {', '.join(sorted(unknown))}")
        elif options["logs"]:
            await _add_logs(bundle, client, pods)
        version = await bundle.fetch("version of Kubernetes", client.version())
        bundle.add("versions.json", {"streamconsumer": __version__, "kubernetes": version})
    return bundle


async def _add_resource(
    bundle: Bundle, client: KubeClient, resource: tuple[str, Manifest], pod_names: set[str], context: str | None
) -> None:
    """Add the files about one StreamConsumer. `resource` is a pair: the folder for the files, and the manifest of the
    StreamConsumer."""
    folder, manifest = resource
    metadata = manifest["metadata"]
    await bundle.add_response(f"{folder}/streamconsumer.json", _streamconsumer_document(manifest))
    await bundle.add_response(f"{folder}/status.json", _status_document(client, manifest))
    await bundle.add_response(f"{folder}/doctor.json", diagnose_resource(client, manifest, context))
    selector = label_selector({names.LABEL_CONSUMER: metadata["name"]})
    deployments = _deployment_documents(client, metadata["namespace"], selector)
    await bundle.add_response(f"{folder}/deployments.json", deployments)
    await bundle.add_response(f"{folder}/events.json", _event_documents(client, manifest, pod_names))


async def _read_secrets(bundle: Bundle, client: KubeClient, manifests: Sequence[Manifest]) -> Collection[str]:
    """Register the values of all referenced Secrets for removal.

    Returns the Secrets and keys whose values cannot be removed, because the values are unknown or too long.
    """
    values, unknown = dict[str, bytes](), dict[str, str]()
    for namespace, name, optional in {
        (manifest["metadata"]["namespace"], *reference)
        for manifest in manifests
        for reference in secret_references(manifest)
    }:
        secret = f"Secret {namespace}/{quote_name(name)}"
        try:
            data = await client.get_secret(namespace, name) or {}
        except (InvalidResource, PermissionDenied) as error:
            unknown[secret] = str(error)
            continue
        except Exception as error:  # noqa: BLE001 - an unreadable Secret must not prevent the report
            unknown[secret] = api_error_message(error)
            continue
        if not data and not optional:
            unknown[secret] = "not found or empty"
        values |= {f"{secret}, key {key}": value for key, value in data.items()}
    too_long = {
        label: f"longer than {MAX_VALUE_BYTES} bytes" for label, value in values.items() if len(value) > MAX_VALUE_BYTES
    }
    unknown |= {label: reason for label, reason in too_long.items() if not keep_reason(values[label])}
    bundle.redact_values({label: value for label, value in values.items() if label not in unknown})
    for secret, reason in unknown.items():
        bundle.omit(secret, reason)
    return unknown


def secret_references(manifest: Any) -> Iterator[tuple[str, bool]]:
    """Return the names of the Secrets that a manifest references, each with True if the reference is optional.

    `imagePullSecrets` are omitted, because only the kubelet reads Secrets with registry credentials, and no log
    contains their values.
    """
    if isinstance(manifest, list):
        for item in manifest:
            yield from secret_references(item)
    for field, inner in manifest.items() if isinstance(manifest, dict) else ():
        yield from secret_references(inner)
        if isinstance(inner, dict) and field.lower().endswith(("secretref", "secretkeyref", "secret")):
            secret_names = [inner[key] for key in ("name", "secretName") if isinstance(inner.get(key), str)]
            yield from ((name, inner.get("optional") is True) for name in secret_names)


async def _list_objects(
    client: KubeClient, version: str, kind: str, namespace: str | None, selector: str
) -> list[Manifest]:
    return [each async for each in client.list(version, kind, namespace, selector)]


async def _streamconsumer_document(resource: Manifest) -> Any:
    return allow_list.streamconsumer_document(resource)


async def _status_document(client: KubeClient, resource: Manifest) -> Any:
    facts = await collect_facts(client, resource)
    return status_item(facts, derive_findings(facts))


async def _deployment_documents(client: KubeClient, namespace: str | None, selector: str) -> Any:
    return [
        allow_list.deployment_document(deployment)
        for deployment in await _list_objects(client, "apps/v1", "Deployment", namespace, selector)
    ]


async def _event_documents(client: KubeClient, resource: Manifest, pods: set[str]) -> Any:
    namespace, name = resource["metadata"]["namespace"], resource["metadata"]["name"]
    events = await list_events(client, namespace, {name, f"{name}-consumer", *pods})
    return [allow_list.event_document(event) for event in events]


async def _add_metrics(bundle: Bundle, pods: PodsWithFolder, resources: Collection[str], context: str | None) -> None:
    async def add(folder_and_pod: tuple[str, Manifest]) -> None:
        folder, pod = folder_and_pod
        file = f"{folder}/metrics/{pod['metadata']['name']}.json"
        fetched = await bundle.fetch(file, _fetch_metrics(pod, context))
        if fetched is None:
            return
        metrics, problem = fetched
        with suppress(Exception):  # the pod belongs to a tenant, so its answer can have any form
            if samples := [*allow_list.samples(metrics.decode(), resources)]:
                bundle.add(file, samples)
                return
        bundle.omit(file, problem)

    await map_concurrently(add, pods, MAX_CONCURRENT_PODS)


async def _fetch_metrics(pod: Manifest, context: str | None) -> tuple[bytes, str]:
    """Return the metrics of a pod in the Prometheus format, and the problem if there are no metrics."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == "http":
                command = ("python", "-c", GET_METRICS.format(port=int(port["containerPort"])))
                output = await run_in_pod(pod, container["name"], command, context)
                return (b"", output) if isinstance(output, str) else output
    return b"", "no container has a port named http"


async def _add_logs(bundle: Bundle, client: KubeClient, pods: PodsWithFolder) -> None:
    for folder, pod in pods:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        statuses = pod.get("status", {}).get("containerStatuses", [])
        restarted = {each["name"] for each in statuses if each.get("restartCount")}
        for container in (each["name"] for each in pod["spec"]["containers"]):
            for previous in (False, True) if container in restarted else (False,):
                file = f"{folder}/logs/{name}-{container}{'-previous' if previous else ''}.log"
                log = client.pod_log(namespace, name, container, lines=MAX_LOG_LINES, previous=previous)
                await bundle.add_response(file, _last_lines(log))


async def _last_lines(request: Awaitable[str]) -> str:
    """Return the last complete lines of a log, within MAX_LOG_LENGTH."""
    log = await request
    return log if len(log) <= MAX_LOG_LENGTH else log[-MAX_LOG_LENGTH:].partition("\n")[2]
