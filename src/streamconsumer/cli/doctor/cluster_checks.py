"""The cluster, looked at with the rights of whoever asks; and one pod that is asked to look at what it needs."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from streamconsumer.cli.doctor.facts import ClusterFacts, Diagnosis, OperatorFacts, PodCheckResult
from streamconsumer.cli.doctor.findings import PERMISSIONS, evaluate_cluster, skipped
from streamconsumer.cli.pod_exec import run_in_pod
from streamconsumer.cli.status.collect import (
    Manifest,
    collect_facts,
    kube_client,
    list_consumers,
    list_pods,
    namespace_of,
)
from streamconsumer.cli.status.facts import from_manifests
from streamconsumer.cli.status.findings import derive_findings as of_resource
from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.operator.kube.client import KubeClient

OPERATOR_SELECTOR = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=streamconsumer"
"""As the chart and k8s/ label its Deployment."""

CRD_API_GROUP = "apiextensions.k8s.io"
DOCTOR_COMMAND = ("streamconsumer", "doctor", "--from-environment", "-o", "json")


async def diagnose(options: Mapping[str, Any]) -> Diagnosis:
    """Raises BackendUnavailable where no API server answers."""
    async with kube_client(options["context"]) as found:
        (manifest,) = await list_consumers(found, namespace_of(options), options["name"])
        return await diagnose_resource(found, manifest, options["context"])


async def diagnose_resource(client: KubeClient, manifest: Manifest, context: str | None) -> Diagnosis:
    """Examine the cluster, and one pod of the StreamConsumer through `kubectl exec`."""
    seen = await _collect_cluster_facts(client, manifest["metadata"]["namespace"])
    if not seen.rights["list pods"]:
        wrong = of_resource(from_manifests(manifest, []))
        return Diagnosis(cluster=evaluate_cluster(seen, [*wrong, skipped("you may not list its pods")]))
    resource, pods = await asyncio.gather(collect_facts(client, manifest), list_pods(client, manifest))
    verdict = await _check_in_pod(pods, context)
    wrong = of_resource(resource)
    if isinstance(verdict, str):
        return Diagnosis(cluster=evaluate_cluster(seen, [*wrong, skipped(verdict)]))
    return Diagnosis(cluster=evaluate_cluster(seen, wrong), pod=verdict)


async def _collect_cluster_facts(client: KubeClient, namespace: str) -> ClusterFacts:
    rights = [right.split(" ") for right in PERMISSIONS]
    held = await asyncio.gather(*(client.can_i(verb, resource, namespace) for verb, resource in rights))
    return ClusterFacts(
        operators=await _list_operators(client),
        fields_lacking=await _missing_fields(client),
        rights=dict(zip(PERMISSIONS, held, strict=True)),
    )


async def _list_operators(client: KubeClient) -> list[OperatorFacts] | None:
    if not await client.can_i("list", "deployments.apps", None):
        return None
    return [_operator_facts(each) async for each in client.list("apps/v1", "Deployment", None, OPERATOR_SELECTOR)]


def _operator_facts(deployment: Manifest) -> OperatorFacts:
    metadata, spec = deployment["metadata"], deployment["spec"]
    return OperatorFacts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        image=spec["template"]["spec"]["containers"][0]["image"],
        wanted=spec.get("replicas", 1),
        ready=deployment.get("status", {}).get("readyReplicas", 0),
    )


async def _missing_fields(client: KubeClient) -> list[str] | None:
    wanted = custom_resource_definition()
    if not await client.can_i("get", f"customresourcedefinitions.{CRD_API_GROUP}", None):
        return None
    there = await client.get(f"{CRD_API_GROUP}/v1", wanted["kind"], None, wanted["metadata"]["name"])
    known = {*_field_paths(there)} if there else set()
    return [each for each in _field_paths(wanted) if each not in known]


def _field_paths(definition: Manifest) -> list[str]:
    """Of spec and status, as paths."""
    schemas = [each["schema"] for each in definition["spec"]["versions"] if each["name"] == names.VERSION]
    return [path for each in schemas for path in _property_paths(each["openAPIV3Schema"], "")]


def _property_paths(schema: Mapping[str, Any], parent: str) -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        path = f"{parent}.{name}" if parent else name
        yield path
        yield from _property_paths(inner, path)
    if "items" in schema:
        yield from _property_paths(schema["items"], f"{parent}[]")


async def _check_in_pod(pods: Sequence[Manifest], context: str | None) -> PodCheckResult | str:
    """What a pod says of itself, or why none could be asked."""
    pod = _running_pod(pods)
    if pod is None:
        return "no pod runs"
    answer = await run_in_pod(pod, names.CONTAINER, DOCTOR_COMMAND, context)
    if isinstance(answer, str):
        return answer
    said, complaint = answer
    try:
        verdict = Diagnosis.model_validate_json(said).pod
    except ValidationError:
        verdict = None
    return verdict or f"pod {pod['metadata']['name']} could not be asked: {complaint}"


def _running_pod(pods: Sequence[Manifest]) -> Manifest | None:
    """Rather one that is ready."""
    running = [
        each
        for each in pods
        if each.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in each["metadata"]
    ]

    def is_ready(pod: Manifest) -> bool:
        return all(each.get("ready") for each in pod["status"].get("containerStatuses", []))

    return next(iter(sorted(running, key=is_ready, reverse=True)), None)
