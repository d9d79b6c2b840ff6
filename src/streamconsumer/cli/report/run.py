"""Collects a bundle from the cluster: Secrets first, so that their values are removed from all that follows."""

import asyncio
from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from streamconsumer import __version__
from streamconsumer.cli.doctor.cluster_checks import OPERATORS, diagnosis
from streamconsumer.cli.pod_exec import run_in_pod
from streamconsumer.cli.report import allow_list
from streamconsumer.cli.report.bundle import Bundle
from streamconsumer.cli.report.redact import why_kept
from streamconsumer.cli.status import NAME
from streamconsumer.cli.status import collect as connection
from streamconsumer.cli.status.collect import Manifest
from streamconsumer.cli.status.findings import findings
from streamconsumer.cli.status.run import item
from streamconsumer.errors import NotAllowed
from streamconsumer.model import names
from streamconsumer.operator.kube.client import Cluster

LINES = 2000
"""Lines of each log, counted from its end."""

LONGEST_LOG = 1_000_000
"""Characters of each log, counted from its end. Lines may be of any length."""

LONGEST = 4096
"""Bytes of a value of a Secret. The search for a longer value takes too long."""

PODS_AT_ONCE = 8
"""Pods that are asked for metrics at the same time: each needs a kubectl process."""

GET_METRICS = """
from http.client import HTTPConnection
connection = HTTPConnection("127.0.0.1", {port}, timeout=10)
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""

Pods = Sequence[tuple[str, Manifest]]
"""Each with the folder of its files."""


async def collect(options: Mapping[str, Any]) -> Bundle:
    """Raises ServerUnavailable if the API server does not answer."""
    bundle, context = Bundle(), options["context"]
    async with connection.cluster(context) as api:
        found = await connection.resources(api, connection.namespace_of(options), options["name"])
        resources = {f"{each['metadata']['namespace']}/{each['metadata']['name']}": each for each in found}
        operators = await bundle.ask("operator/pods", _listed(api, "v1", "Pod", None, OPERATORS))
        pods = [("operator", pod) for pod in operators or []]
        for folder, resource in resources.items():
            of_resource = await bundle.ask(f"{folder}/pods", connection.pods_of(api, resource))
            pods += [(folder, pod) for pod in of_resource or []]
        unknown = await _read_secrets(bundle, api, [*found, *(pod for _, pod in pods)])
        for folder, resource in resources.items():
            bundle.add(f"{folder}/streamconsumer.json", allow_list.streamconsumer(resource))
            await bundle.add_answer(f"{folder}/status.json", _status(api, resource))
            await bundle.add_answer(f"{folder}/doctor.json", diagnosis(api, resource, context))
            namespace, selector = resource["metadata"]["namespace"], f"{names.LABEL_CONSUMER}={folder.split('/')[1]}"
            await bundle.add_answer(f"{folder}/deployments.json", _deployments(api, namespace, selector))
            about = {pod["metadata"]["name"] for of, pod in pods if of == folder}
            await bundle.add_answer(f"{folder}/events.json", _events(api, resource, about))
        await bundle.add_answer("operator/deployments.json", _deployments(api, None, OPERATORS))
        await _add_metrics(bundle, pods, resources, context)
        if options["logs"] and unknown:
            bundle.leave_out("logs", f"they may hold the unknown values of {', '.join(sorted(unknown))}")
        elif options["logs"]:
            await _add_logs(bundle, api, pods)
        version = await bundle.ask("version of Kubernetes", api.version())
        bundle.add("versions.json", {"streamconsumer": __version__, "kubernetes": version})
    return bundle


async def _read_secrets(bundle: Bundle, api: Cluster, manifests: Sequence[Manifest]) -> Collection[str]:
    """Have the bundle remove the values of all named Secrets. Returns the Secrets whose values are unknown."""
    values, unknown = dict[str, bytes](), dict[str, str]()
    for namespace, name, optional in {(each["metadata"]["namespace"], *of) for each in manifests for of in named(each)}:
        secret = f"Secret {namespace}/{name}"
        if not NAME.fullmatch(name):  # it would be another path at the API server
            unknown[secret] = "not a name of a Secret"
            continue
        try:
            data = await api.secret(namespace, name) or {}
        except NotAllowed as error:
            unknown[secret] = str(error)
            continue
        if not data and not optional:
            unknown[secret] = "not found, or empty"
        values |= {f"{secret}, key {key}": value for key, value in data.items()}
    too_long = {label: f"longer than {LONGEST} bytes" for label, value in values.items() if len(value) > LONGEST}
    unknown |= {label: reason for label, reason in too_long.items() if not why_kept(values[label])}
    bundle.remove({label: value for label, value in values.items() if label not in unknown})
    for secret, reason in unknown.items():
        bundle.leave_out(secret, reason)
    return unknown


def named(manifest: Any) -> Iterator[tuple[str, bool]]:
    """The names of the Secrets that a StreamConsumer or a pod names, and whether each is optional.

    Only the kubelet reads imagePullSecrets: no log has their values.
    """
    if isinstance(manifest, list):
        for each in manifest:
            yield from named(each)
    for field, inner in manifest.items() if isinstance(manifest, dict) else ():
        yield from named(inner)
        if isinstance(inner, dict) and field.lower().endswith(("secretref", "secretkeyref", "secret")):
            found = [inner[key] for key in ("name", "secretName") if isinstance(inner.get(key), str)]
            yield from ((name, inner.get("optional") is True) for name in found)


async def _listed(api: Cluster, version: str, kind: str, namespace: str | None, selector: str) -> list[Manifest]:
    return [each async for each in api.list(version, kind, namespace, selector)]


async def _status(api: Cluster, resource: Manifest) -> Any:
    facts = await connection.facts(api, resource)
    return item(facts, findings(facts))


async def _deployments(api: Cluster, namespace: str | None, selector: str) -> Any:
    return [allow_list.deployment(each) for each in await _listed(api, "apps/v1", "Deployment", namespace, selector)]


async def _events(api: Cluster, resource: Manifest, pods: set[str]) -> Any:
    namespace, name = resource["metadata"]["namespace"], resource["metadata"]["name"]
    found = await connection.events_of(api, namespace, {name, f"{name}-consumer", *pods})
    return [allow_list.event(each) for each in found]


async def _add_metrics(bundle: Bundle, pods: Pods, resources: Collection[str], context: str | None) -> None:
    at_once = asyncio.Semaphore(PODS_AT_ONCE)

    async def add(folder: str, pod: Manifest) -> None:
        file = f"{folder}/metrics/{pod['metadata']['name']}.json"
        async with at_once:
            said, complaint = await _exposition(pod, context)
        with suppress(ValueError):
            if samples := [*allow_list.samples(said.decode(), resources)]:
                bundle.add(file, samples)
                return
        bundle.leave_out(file, complaint)

    await asyncio.gather(*(add(*each) for each in pods))


async def _exposition(pod: Manifest, context: str | None) -> tuple[bytes, str]:
    """The metrics in Prometheus' format, and the reason if there are none."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == "http":
                command = ("python", "-c", GET_METRICS.format(port=int(port["containerPort"])))
                answer = await run_in_pod(pod, container["name"], command, context)
                return (b"", answer) if isinstance(answer, str) else answer
    return b"", "no container has a port named http"


async def _add_logs(bundle: Bundle, api: Cluster, pods: Pods) -> None:
    for folder, pod in pods:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        states = pod.get("status", {}).get("containerStatuses", [])
        restarted = {each["name"] for each in states if each.get("restartCount")}
        for container in (each["name"] for each in pod["spec"]["containers"]):
            for previous in (False, True) if container in restarted else (False,):
                file = f"{folder}/logs/{name}-{container}{'-previous' if previous else ''}.log"
                log = api.log(namespace, name, container, lines=LINES, previous=previous)
                await bundle.add_answer(file, _end_of(log))


async def _end_of(asked: Awaitable[str]) -> str:
    """The last whole lines of a log, within LONGEST_LOG."""
    log = await asked
    return log if len(log) <= LONGEST_LOG else log[-LONGEST_LOG:].partition("\n")[2]
