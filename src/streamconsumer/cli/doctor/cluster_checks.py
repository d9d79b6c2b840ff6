"""The cluster, looked at with the rights of whoever asks; and one pod that is asked to look at what it needs."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from streamconsumer.cli.doctor.facts import ClusterFacts, Diagnosis, Operator, PodVerdict
from streamconsumer.cli.doctor.findings import WORTH, not_looked, of_cluster
from streamconsumer.cli.pod_exec import run_in_pod
from streamconsumer.cli.status.collect import Manifest, cluster, facts, namespace_of, pods_of, resources
from streamconsumer.cli.status.facts import of_manifests
from streamconsumer.cli.status.findings import findings as of_resource
from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.operator.kube.client import Cluster

OPERATORS = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=streamconsumer"
"""As the chart and k8s/ label its Deployment."""

EXTENSIONS = "apiextensions.k8s.io"
LOOK = ("streamconsumer", "doctor", "--from-environment", "-o", "json")


async def diagnose(options: Mapping[str, Any]) -> Diagnosis:
    """Raises ServerUnavailable where no API server answers."""
    async with cluster(options["context"]) as found:
        (manifest,) = await resources(found, namespace_of(options), options["name"])
        return await diagnosis(found, manifest, options["context"])


async def diagnosis(found: Cluster, manifest: Manifest, context: str | None) -> Diagnosis:
    """Examine the cluster, and one pod of the StreamConsumer through `kubectl exec`."""
    seen = await _look(found, manifest["metadata"]["namespace"])
    if not seen.rights["list pods"]:
        wrong = of_resource(of_manifests(manifest, []))
        return Diagnosis(cluster=of_cluster(seen, [*wrong, not_looked("you may not list its pods")]))
    resource, pods = await asyncio.gather(facts(found, manifest), pods_of(found, manifest))
    verdict = await _from_a_pod(pods, context)
    wrong = of_resource(resource)
    if isinstance(verdict, str):
        return Diagnosis(cluster=of_cluster(seen, [*wrong, not_looked(verdict)]))
    return Diagnosis(cluster=of_cluster(seen, wrong), pod=verdict)


async def _look(found: Cluster, namespace: str) -> ClusterFacts:
    rights = [right.split(" ") for right in WORTH]
    held = await asyncio.gather(*(found.may(verb, resource, namespace) for verb, resource in rights))
    return ClusterFacts(
        operators=await _operators(found),
        fields_lacking=await _fields_lacking(found),
        rights=dict(zip(WORTH, held, strict=True)),
    )


async def _operators(found: Cluster) -> list[Operator] | None:
    if not await found.may("list", "deployments.apps", None):
        return None
    return [_operator(each) async for each in found.list("apps/v1", "Deployment", None, OPERATORS)]


def _operator(deployment: Manifest) -> Operator:
    metadata, spec = deployment["metadata"], deployment["spec"]
    return Operator(
        namespace=metadata["namespace"],
        name=metadata["name"],
        image=spec["template"]["spec"]["containers"][0]["image"],
        wanted=spec.get("replicas", 1),
        ready=deployment.get("status", {}).get("readyReplicas", 0),
    )


async def _fields_lacking(found: Cluster) -> list[str] | None:
    wanted = custom_resource_definition()
    if not await found.may("get", f"customresourcedefinitions.{EXTENSIONS}", None):
        return None
    there = await found.get(f"{EXTENSIONS}/v1", wanted["kind"], None, wanted["metadata"]["name"])
    known = {*_fields(there)} if there else set()
    return [each for each in _fields(wanted) if each not in known]


def _fields(definition: Manifest) -> list[str]:
    """Of spec and status, as paths."""
    schemas = [each["schema"] for each in definition["spec"]["versions"] if each["name"] == names.VERSION]
    return [path for each in schemas for path in _below(each["openAPIV3Schema"], "")]


def _below(schema: Mapping[str, Any], above: str) -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        path = f"{above}.{name}" if above else name
        yield path
        yield from _below(inner, path)
    if "items" in schema:
        yield from _below(schema["items"], f"{above}[]")


async def _from_a_pod(pods: Sequence[Manifest], context: str | None) -> PodVerdict | str:
    """What a pod says of itself, or why none could be asked."""
    pod = _one_that_runs(pods)
    if pod is None:
        return "no pod runs"
    answer = await run_in_pod(pod, names.CONTAINER, LOOK, context)
    if isinstance(answer, str):
        return answer
    said, complaint = answer
    try:
        verdict = Diagnosis.model_validate_json(said).pod
    except ValidationError:
        verdict = None
    return verdict or f"pod {pod['metadata']['name']} could not be asked: {complaint}"


def _one_that_runs(pods: Sequence[Manifest]) -> Manifest | None:
    """Rather one that is ready."""
    running = [
        each
        for each in pods
        if each.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in each["metadata"]
    ]

    def is_ready(pod: Manifest) -> bool:
        return all(each.get("ready") for each in pod["status"].get("containerStatuses", []))

    return next(iter(sorted(running, key=is_ready, reverse=True)), None)
