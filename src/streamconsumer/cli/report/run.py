"""Collects a bundle from the cluster: Secrets first, so that their values are removed from all that follows."""

import asyncio
from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from streamconsumer import __version__
from streamconsumer.cli.doctor.cluster_checks import OPERATOR_SELECTOR, diagnose_resource
from streamconsumer.cli.pod_exec import run_in_pod
from streamconsumer.cli.report import allow_list
from streamconsumer.cli.report.bundle import Bundle
from streamconsumer.cli.report.redact import keep_reason
from streamconsumer.cli.status import NAME_PATTERN
from streamconsumer.cli.status import collect as connection
from streamconsumer.cli.status.collect import Manifest
from streamconsumer.cli.status.findings import derive_findings
from streamconsumer.cli.status.run import status_item
from streamconsumer.errors import PermissionDenied
from streamconsumer.model import names
from streamconsumer.operator.kube.client import KubeClient

MAX_LOG_LINES = 2000
"""Lines of each log, counted from its end."""

MAX_LOG_LENGTH = 1_000_000
"""Characters of each log, counted from its end. Lines may be of any length."""

MAX_VALUE_BYTES = 4096
"""Bytes of a value of a Secret. The search for a longer value takes too long."""

MAX_CONCURRENT_PODS = 8
"""Pods that are asked for metrics at the same time: each needs a kubectl process."""

GET_METRICS = """
from http.client import HTTPConnection
connection = HTTPConnection("127.0.0.1", {port}, timeout=10)
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""

PodsWithFolder = Sequence[tuple[str, Manifest]]
"""Each with the folder of its files."""


async def collect(options: Mapping[str, Any]) -> Bundle:
    """Raises BackendUnavailable if the API server does not answer."""
    bundle, context = Bundle(), options["context"]
    async with connection.kube_client(context) as api:
        found = await connection.list_consumers(api, connection.namespace_of(options), options["name"])
        resources = {f"{each['metadata']['namespace']}/{each['metadata']['name']}": each for each in found}
        operators = await bundle.fetch("operator/pods", _list_objects(api, "v1", "Pod", None, OPERATOR_SELECTOR))
        pods = [("operator", pod) for pod in operators or []]
        for folder, resource in resources.items():
            of_resource = await bundle.fetch(f"{folder}/pods", connection.list_pods(api, resource))
            pods += [(folder, pod) for pod in of_resource or []]
        unknown = await _read_secrets(bundle, api, [*found, *(pod for _, pod in pods)])
        for folder, resource in resources.items():
            bundle.add(f"{folder}/streamconsumer.json", allow_list.streamconsumer_document(resource))
            await bundle.add_response(f"{folder}/status.json", _status_document(api, resource))
            await bundle.add_response(f"{folder}/doctor.json", diagnose_resource(api, resource, context))
            namespace, selector = resource["metadata"]["namespace"], f"{names.LABEL_CONSUMER}={folder.split('/')[1]}"
            await bundle.add_response(f"{folder}/deployments.json", _deployment_documents(api, namespace, selector))
            about = {pod["metadata"]["name"] for of, pod in pods if of == folder}
            await bundle.add_response(f"{folder}/events.json", _event_documents(api, resource, about))
        await bundle.add_response("operator/deployments.json", _deployment_documents(api, None, OPERATOR_SELECTOR))
        await _add_metrics(bundle, pods, resources, context)
        if options["logs"] and unknown:
            bundle.omit("logs", f"they may hold the unknown values of {', '.join(sorted(unknown))}")
        elif options["logs"]:
            await _add_logs(bundle, api, pods)
        version = await bundle.fetch("version of Kubernetes", api.version())
        bundle.add("versions.json", {"streamconsumer": __version__, "kubernetes": version})
    return bundle


async def _read_secrets(bundle: Bundle, client: KubeClient, manifests: Sequence[Manifest]) -> Collection[str]:
    """Have the bundle remove the values of all named Secrets. Returns the Secrets whose values are unknown."""
    values, unknown = dict[str, bytes](), dict[str, str]()
    for namespace, name, optional in {
        (each["metadata"]["namespace"], *of) for each in manifests for of in secret_references(each)
    }:
        secret = f"Secret {namespace}/{name}"
        if not NAME_PATTERN.fullmatch(name):  # it would be another path at the API server
            unknown[secret] = "not a name of a Secret"
            continue
        try:
            data = await client.get_secret(namespace, name) or {}
        except PermissionDenied as error:
            unknown[secret] = str(error)
            continue
        if not data and not optional:
            unknown[secret] = "not found, or empty"
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
    """The names of the Secrets that a StreamConsumer or a pod names, and whether each is optional.

    Only the kubelet reads imagePullSecrets: no log has their values.
    """
    if isinstance(manifest, list):
        for each in manifest:
            yield from secret_references(each)
    for field, inner in manifest.items() if isinstance(manifest, dict) else ():
        yield from secret_references(inner)
        if isinstance(inner, dict) and field.lower().endswith(("secretref", "secretkeyref", "secret")):
            found = [inner[key] for key in ("name", "secretName") if isinstance(inner.get(key), str)]
            yield from ((name, inner.get("optional") is True) for name in found)


async def _list_objects(
    client: KubeClient, version: str, kind: str, namespace: str | None, selector: str
) -> list[Manifest]:
    return [each async for each in client.list(version, kind, namespace, selector)]


async def _status_document(client: KubeClient, resource: Manifest) -> Any:
    facts = await connection.collect_facts(client, resource)
    return status_item(facts, derive_findings(facts))


async def _deployment_documents(client: KubeClient, namespace: str | None, selector: str) -> Any:
    return [
        allow_list.deployment_document(each)
        for each in await _list_objects(client, "apps/v1", "Deployment", namespace, selector)
    ]


async def _event_documents(client: KubeClient, resource: Manifest, pods: set[str]) -> Any:
    namespace, name = resource["metadata"]["namespace"], resource["metadata"]["name"]
    found = await connection.list_events(client, namespace, {name, f"{name}-consumer", *pods})
    return [allow_list.event_document(each) for each in found]


async def _add_metrics(bundle: Bundle, pods: PodsWithFolder, resources: Collection[str], context: str | None) -> None:
    at_once = asyncio.Semaphore(MAX_CONCURRENT_PODS)

    async def add(folder: str, pod: Manifest) -> None:
        file = f"{folder}/metrics/{pod['metadata']['name']}.json"
        async with at_once:
            said, complaint = await _fetch_metrics(pod, context)
        with suppress(ValueError):
            if samples := [*allow_list.samples(said.decode(), resources)]:
                bundle.add(file, samples)
                return
        bundle.omit(file, complaint)

    await asyncio.gather(*(add(*each) for each in pods))


async def _fetch_metrics(pod: Manifest, context: str | None) -> tuple[bytes, str]:
    """The metrics in Prometheus' format, and the reason if there are none."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == "http":
                command = ("python", "-c", GET_METRICS.format(port=int(port["containerPort"])))
                answer = await run_in_pod(pod, container["name"], command, context)
                return (b"", answer) if isinstance(answer, str) else answer
    return b"", "no container has a port named http"


async def _add_logs(bundle: Bundle, client: KubeClient, pods: PodsWithFolder) -> None:
    for folder, pod in pods:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        states = pod.get("status", {}).get("containerStatuses", [])
        restarted = {each["name"] for each in states if each.get("restartCount")}
        for container in (each["name"] for each in pod["spec"]["containers"]):
            for previous in (False, True) if container in restarted else (False,):
                file = f"{folder}/logs/{name}-{container}{'-previous' if previous else ''}.log"
                log = client.pod_log(namespace, name, container, lines=MAX_LOG_LINES, previous=previous)
                await bundle.add_response(file, _last_lines(log))


async def _last_lines(request: Awaitable[str]) -> str:
    """The last whole lines of a log, within LONGEST_LOG."""
    log = await request
    return log if len(log) <= MAX_LOG_LENGTH else log[-MAX_LOG_LENGTH:].partition("\n")[2]
