"""Collects a bundle from the cluster: Secrets first, so that their values are removed from all that follows."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamconsumer import __version__
from streamconsumer.cli.cluster import connection
from streamconsumer.cli.cluster.connection import Manifest
from streamconsumer.cli.cluster.findings import findings
from streamconsumer.cli.cluster.in_pod import run_in_pod
from streamconsumer.cli.doctor.in_cluster import OPERATORS, diagnosis
from streamconsumer.cli.report import fields
from streamconsumer.cli.report.bundle import Bundle
from streamconsumer.cli.report.samples import samples
from streamconsumer.cli.report.secrets import Secrets
from streamconsumer.model import names
from streamconsumer.operator.cluster import Cluster

LINES = 2000
"""Lines of each log, counted from its end."""

PODS_AT_ONCE = 8
"""Pods that are asked for metrics at the same time: each needs a kubectl process."""

GET_METRICS = """
from http.client import HTTPConnection
connection = HTTPConnection("127.0.0.1", {port}, timeout=10)
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""


@dataclass(frozen=True)
class Workload:
    """A StreamConsumer or the operator, with its pods."""

    folder: str
    pods: list[Manifest]
    unknown: dict[str, str]
    """The Secrets that it names and whose values are unknown, with the reason."""


async def collect(options: Mapping[str, Any]) -> Bundle:
    """Raises ServerUnavailable if the API server does not answer."""
    bundle, context = Bundle(), options["context"]
    async with connection.cluster(context) as api:
        found = await connection.resources(api, connection.namespace_of(options), options["name"])
        secrets = Secrets(api)
        workloads = [await _consumer(bundle, api, secrets, each) for each in found]
        operator = await _operator(bundle, api, secrets, workloads)
        bundle.remove(secrets.values)
        for manifest, workload in zip(found, workloads, strict=True):
            await _add_consumer(bundle, api, manifest, workload, context)
        consumers = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in found}
        for workload in (*workloads, operator):
            await _add_metrics(bundle, workload, consumers, context)
            if options["logs"]:
                await _add_logs(bundle, api, workload)
        await _add_operator(bundle, api)
        version = await bundle.unless_refused("version of Kubernetes", api.version())
        bundle.add("versions.json", {"streamconsumer": __version__, "kubernetes": version}, fields.VERSIONS)
    return bundle


async def _consumer(bundle: Bundle, api: Cluster, secrets: Secrets, manifest: Manifest) -> Workload:
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    folder = f"{namespace}/{name}"
    pods = await bundle.unless_refused(f"{folder}/pods", connection.pods_of(api, manifest)) or []
    unknown = await secrets.read(namespace, [manifest, *pods])
    for secret, reason in unknown.items():
        bundle.leave_out(secret, reason)
    return Workload(folder, pods, unknown)


async def _operator(bundle: Bundle, api: Cluster, secrets: Secrets, consumers: list[Workload]) -> Workload:
    """The operator handles the Secrets of all consumers."""
    unknown = {secret: reason for each in consumers for secret, reason in each.unknown.items()}
    pods = await bundle.unless_refused("operator/pods", _listed(api, "v1", "Pod", None, OPERATORS)) or []
    for pod in pods:
        unknown |= await secrets.read(pod["metadata"]["namespace"], [pod])
    return Workload("operator", pods, unknown)


async def _listed(api: Cluster, version: str, kind: str, namespace: str | None, selector: str) -> list[Manifest]:
    return [each async for each in api.list(version, kind, namespace, selector)]


async def _add_consumer(
    bundle: Bundle, api: Cluster, manifest: Manifest, workload: Workload, context: str | None
) -> None:
    namespace, name, folder = manifest["metadata"]["namespace"], manifest["metadata"]["name"], workload.folder
    bundle.add(f"{folder}/streamconsumer.json", manifest, fields.STREAMCONSUMER)
    about = {name, f"{name}-consumer", *(pod["metadata"]["name"] for pod in workload.pods)}
    selector = f"{names.LABEL_CONSUMER}={name}"
    for file, asked, shape in (
        ("status.json", _status(api, manifest), fields.STATUS_OUTPUT),
        ("doctor.json", _doctor(api, manifest, context), fields.DOCTOR_OUTPUT),
        ("events.json", connection.events_of(api, namespace, about), [fields.EVENT]),
        ("deployments.json", _listed(api, "apps/v1", "Deployment", namespace, selector), [fields.DEPLOYMENT]),
    ):
        document = await bundle.unless_refused(f"{folder}/{file}", asked)
        if document is not None:
            bundle.add(f"{folder}/{file}", document, shape)


async def _status(api: Cluster, manifest: Manifest) -> Any:
    facts = await connection.facts(api, manifest)
    found = [each.model_dump(by_alias=True, mode="json") for each in findings(facts)]
    return {**facts.model_dump(by_alias=True, mode="json"), "findings": found}


async def _doctor(api: Cluster, manifest: Manifest, context: str | None) -> Any:
    return (await diagnosis(api, manifest, context)).model_dump(by_alias=True, mode="json")


async def _add_operator(bundle: Bundle, api: Cluster) -> None:
    file, asked = "operator/deployments.json", _listed(api, "apps/v1", "Deployment", None, OPERATORS)
    if (deployments := await bundle.unless_refused(file, asked)) is not None:
        bundle.add(file, deployments, [fields.DEPLOYMENT])


async def _add_metrics(
    bundle: Bundle, workload: Workload, consumers: set[tuple[str, str]], context: str | None
) -> None:
    at_once = asyncio.Semaphore(PODS_AT_ONCE)

    async def add(pod: Manifest) -> None:
        file = f"{workload.folder}/metrics/{pod['metadata']['name']}.json"
        async with at_once:
            answer = await _exposition(pod, context)
        if isinstance(answer, str):
            bundle.leave_out(file, answer)
            return
        said, complaint = answer
        try:
            found = [*samples(said.decode(), consumers)]
        except ValueError:
            found = []
        if found:
            bundle.add(file, found, fields.METRICS)
        else:
            bundle.leave_out(file, complaint)

    await asyncio.gather(*map(add, workload.pods))


async def _exposition(pod: Manifest, context: str | None) -> tuple[bytes, str] | str:
    if pod.get("status", {}).get("phase") != "Running":
        return "the pod is not running"
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == "http":
                command = ("python", "-c", GET_METRICS.format(port=int(port["containerPort"])))
                return await run_in_pod(pod, container["name"], command, context)
    return "no container has a port named http"


async def _add_logs(bundle: Bundle, api: Cluster, workload: Workload) -> None:
    if workload.unknown:
        reasons = "; ".join(f"{secret}: {reason}" for secret, reason in sorted(workload.unknown.items()))
        bundle.leave_out(f"{workload.folder}/logs", f"they may hold values that are unknown here: {reasons}")
        return
    for pod in workload.pods:
        namespace, name, status = pod["metadata"]["namespace"], pod["metadata"]["name"], pod.get("status", {})
        states = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        restarted = {each["name"] for each in states if each.get("restartCount")}
        for container in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]):
            for previous in (False, True) if container["name"] in restarted else (False,):
                file = f"{workload.folder}/logs/{name}-{container['name']}{'-previous' if previous else ''}.log"
                asked = api.log(namespace, name, container["name"], lines=LINES, previous=previous)
                if (log := await bundle.unless_refused(file, asked)) is not None:
                    bundle.add_text(file, log)
