"""Checks the cluster with the permissions of the caller, and runs the checks of a pod through `kubectl exec`."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from streamconsumer.cli.doctor.facts import ClusterFacts, Diagnosis, OperatorFacts, PodCheckResult, SecretAccess
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
from streamconsumer.cli.status.findings import derive_findings
from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.kube.api import ApiError
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests.redis_secrets import secret_files
from streamconsumer.operator.rbac import SERVICE_ACCOUNT_PREFIX, grant_command
from streamconsumer.operator.reconcile.config_hash import referenced_objects
from streamconsumer.operator.settings import PREFIX, split_namespaces

OPERATOR_SELECTOR = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=streamconsumer"
"""Label selector for the operator's Deployment. The chart and the manifests in k8s/ set these labels."""

CRD_API_GROUP = "apiextensions.k8s.io"
DOCTOR_COMMAND = ("streamconsumer", "doctor", "--from-environment", "-o", "json")


async def diagnose(options: Mapping[str, Any]) -> Diagnosis:
    """Check the StreamConsumer that the options name.

    Raises InvalidSettings if the kubeconfig is unusable or the StreamConsumer does not exist. Raises BackendUnavailable
    if the Kubernetes API does not answer or rejects a request.
    """
    async with kube_client(options["context"]) as client:
        (manifest,) = await list_consumers(client, namespace_of(options), options["name"])
        return await diagnose_resource(client, manifest, options["context"])


async def diagnose_resource(client: KubeClient, manifest: Manifest, context: str | None) -> Diagnosis:
    """Check the cluster, and check one pod of the StreamConsumer through `kubectl exec`."""
    cluster = await _collect_cluster_facts(client, manifest)
    if not cluster.permissions["list pods"]:
        findings = derive_findings(from_manifests(manifest, []))
        return Diagnosis(
            cluster=evaluate_cluster(cluster, [*findings, skipped("you are not allowed to list its pods")])
        )
    facts, pods = await asyncio.gather(collect_facts(client, manifest), list_pods(client, manifest))
    result = await _check_in_pod(pods, context)
    findings = derive_findings(facts)
    if isinstance(result, str):
        return Diagnosis(cluster=evaluate_cluster(cluster, [*findings, skipped(result)]))
    return Diagnosis(cluster=evaluate_cluster(cluster, findings), pod=result)


async def _collect_cluster_facts(client: KubeClient, manifest: Manifest) -> ClusterFacts:
    namespace = manifest["metadata"]["namespace"]
    operators = await _list_operators(client)
    requests = [permission.split(" ") for permission in PERMISSIONS]
    granted = await asyncio.gather(*(client.can_i(verb, resource, namespace) for verb, resource in requests))
    return ClusterFacts(
        operators=operators,
        secret_namespace=namespace,
        secret_access=await _secret_access(client, manifest, operators) if _names_secrets(manifest) else [],
        missing_fields=await _missing_fields(client),
        permissions=dict(zip(PERMISSIONS, granted, strict=True)),
    )


async def _list_operators(client: KubeClient) -> list[OperatorFacts] | None:
    if not await client.can_i("list", "deployments.apps", None):
        return None
    return [_operator_facts(each) async for each in client.list("apps/v1", "Deployment", None, OPERATOR_SELECTOR)]


def _operator_facts(deployment: Manifest) -> OperatorFacts:
    metadata, spec = deployment["metadata"], deployment["spec"]
    pod = spec["template"]["spec"]
    variables = {each["name"]: each.get("value", "") for each in pod["containers"][0].get("env", [])}
    return OperatorFacts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        image=pod["containers"][0]["image"],
        service_account=pod.get("serviceAccountName", "default"),
        watch_namespaces=split_namespaces(variables.get(f"{PREFIX}WATCH_NAMESPACES", "")),
        desired=spec.get("replicas", 1),
        ready=deployment.get("status", {}).get("readyReplicas", 0),
    )


def _names_secrets(manifest: Manifest) -> bool:
    """Return True if the StreamConsumer is valid and refers to at least one Secret that the operator must read."""
    try:
        consumer = StreamConsumer.parse(manifest)
    except InvalidResource:
        return False
    names_in_env = any(kind == "Secret" for kind, _ in referenced_objects(consumer.spec))
    return names_in_env or any(secret_files(consumer.spec.redis))


async def _secret_access(
    client: KubeClient, manifest: Manifest, operators: list[OperatorFacts] | None
) -> list[SecretAccess]:
    """Return, for each operator that watches the StreamConsumer's namespace, whether the operator is allowed to get
    Secrets. If no operator is known, or the caller is not allowed to check permissions, the result is taken from the
    status of the StreamConsumer."""
    namespace, is_missing = manifest["metadata"]["namespace"], from_manifests(manifest, []).is_missing_secrets
    if not operators:
        command = grant_command(namespace, "", is_cluster_wide=True)
        return [SecretAccess(operator="", granted=False, command=command)] if is_missing else []
    return [
        await _access_of_operator(client, namespace, operator, is_missing=is_missing)
        for operator in operators
        if not operator.watch_namespaces or namespace in operator.watch_namespaces
    ]


async def _access_of_operator(
    client: KubeClient, namespace: str, operator: OperatorFacts, *, is_missing: bool
) -> SecretAccess:
    account = operator.namespace, operator.service_account
    user = f"{SERVICE_ACCOUNT_PREFIX}{':'.join(account)}"
    try:
        granted: bool | None = await client.can_service_account(account, "get", "secrets", namespace)
    except ApiError:
        granted = False if is_missing else None
    command = grant_command(namespace, user, is_cluster_wide=not operator.watch_namespaces)
    return SecretAccess(operator=f"{operator.namespace}/{operator.name}", granted=granted, command=command)


async def _missing_fields(client: KubeClient) -> list[str] | None:
    definition = custom_resource_definition()
    if not await client.can_i("get", f"customresourcedefinitions.{CRD_API_GROUP}", None):
        return None
    installed = await client.get(f"{CRD_API_GROUP}/v1", definition["kind"], None, definition["metadata"]["name"])
    installed_fields = {*_field_paths(installed)} if installed else set()
    return [path for path in _field_paths(definition) if path not in installed_fields]


def _field_paths(definition: Manifest) -> list[str]:
    """Return the paths of all fields in a CustomResourceDefinition, such as `spec.stream`."""
    schemas = [each["schema"] for each in definition["spec"]["versions"] if each["name"] == names.VERSION]
    return [path for schema in schemas for path in _property_paths(schema["openAPIV3Schema"], "")]


def _property_paths(schema: Mapping[str, Any], parent: str) -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        path = f"{parent}.{name}" if parent else name
        yield path
        yield from _property_paths(inner, path)
    if "items" in schema:
        yield from _property_paths(schema["items"], f"{parent}[]")


async def _check_in_pod(pods: Sequence[Manifest], context: str | None) -> PodCheckResult | str:
    """Run the checks in a pod. Returns the result, or the reason why no pod could run the checks."""
    pod = _running_pod(pods)
    if pod is None:
        return "no pod is running"
    output = await run_in_pod(pod, names.CONTAINER, DOCTOR_COMMAND, context)
    if isinstance(output, str):
        return output
    return parse_pod_result(pod["metadata"]["name"], *output)


def parse_pod_result(pod_name: str, document: bytes, last_error: str) -> PodCheckResult | str:
    """Return the result that a pod printed, or the reason why there is no result.

    The pod's image may contain another version of StreamConsumer. Fields that a newer version has added are ignored.
    """
    try:
        result = Diagnosis.model_validate_json(document, extra="ignore").pod
    except ValidationError:
        result = None
    if result is None and _is_json(document):
        return f"pod {pod_name} printed the document of another version; run the version that is in the pod's image"
    return result or f"pod {pod_name} could not run the checks: {last_error}"


def _is_json(document: bytes) -> bool:
    try:
        json.loads(document)
    except ValueError:
        return False
    return True


def _running_pod(pods: Sequence[Manifest]) -> Manifest | None:
    """Return a running pod, preferably a ready pod. Returns None if no pod is running."""
    running = [
        pod
        for pod in pods
        if pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]

    def is_ready(pod: Manifest) -> bool:
        return all(each.get("ready") for each in pod["status"].get("containerStatuses", []))

    return next(iter(sorted(running, key=is_ready, reverse=True)), None)
