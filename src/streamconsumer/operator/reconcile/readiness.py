"""From what the cluster holds to what is said of it. Pure: a Deployment and its pods in, a Verdict out."""

import re
from collections.abc import Iterable
from typing import Any

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, Effective, Readiness, Reason, StreamReason
from streamconsumer.operator.manifests import Manifest

_TERMINATION_MESSAGE = re.compile(r"^(HandlerUnusable|InvalidSettings): (.*)", re.DOTALL)
_IMAGE_REASONS = {
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
}
_CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}

PodProblem = tuple[Reason, str]


def evaluate_readiness(
    consumer: StreamConsumer,
    deployment: Manifest | None,
    pods: Iterable[Manifest],
    stream_conditions: Iterable[ConditionState] = (),
) -> Readiness:
    """Ready when as many pods read as are wanted, all of the newest kind; otherwise the most telling reason. `seen`:
    what the operator sees in Redis."""
    if deployment is None:
        return Readiness(
            ready=False,
            reason=Reason.PODS_STARTING,
            message="The Deployment is being created.",
            reconciling=True,
        )
    spec, status = deployment.get("spec", {}), deployment.get("status", {})
    wanted = spec.get("replicas", 1)
    counts = {key: status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")}
    current = is_observed(deployment)
    if current and set(counts.values()) == {wanted}:
        return _steady_readiness(consumer, wanted)
    progress = f"{counts['availableReplicas']} of {wanted} pods ready, {counts['updatedReplicas']} of the newest kind."
    refused = _redis_problem(pods, stream_conditions)
    if current and (trouble := _find_problem(status, pods)):  # what went before an edit is not held against it
        reason, message = trouble
        if reason is Reason.ROLLOUT_TIMED_OUT:  # which says that it lasts, and not why
            message += refused
        stalled = reason is not Reason.UNSCHEDULABLE
        return Readiness(ready=False, reason=reason, message=message, reconciling=not stalled, stalled=stalled)
    if counts["availableReplicas"] >= wanted:
        return Readiness(ready=True, reason=Reason.ROLLING_OUT, message=progress + refused, reconciling=True)
    if refused:  # pods wait for Redis without end, and read as soon as it lets them: nothing has to be started again
        return Readiness(ready=False, reason=Reason.REDIS_UNUSABLE, message=progress + refused, reconciling=True)
    return Readiness(ready=False, reason=Reason.PODS_STARTING, message=progress + _log_hint(pods), reconciling=True)


def is_observed(deployment: Manifest | None) -> bool:
    """Whether its controller has seen what was written last: until then its counts are of what went before."""
    if deployment is None:
        return False
    return bool(
        deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    )


def _redis_problem(pods: Iterable[Manifest], stream_conditions: Iterable[ConditionState]) -> str:
    """What keeps a pod that runs from reading, as the operator sees it: it comes to the server with the same words and
    Secrets. A pod that runs has no termination log, and may write nowhere at the Kubernetes API."""
    why = next(
        (fact.message for fact in stream_conditions if fact.status != "True" and fact.reason in _BLOCKING_REASONS), ""
    )
    name = _unready_pod(pods)
    return f" Pod {name} runs and cannot read yet: {why}" if name and why else ""


_BLOCKING_REASONS = {
    StreamReason.UNREACHABLE,
    StreamReason.CREDENTIALS_REFUSED,
    StreamReason.TLS_FAILED,
    StreamReason.SERVER_NOT_READY,
    StreamReason.SECRET_MISSING,
    StreamReason.INVALID_SETTINGS,
    StreamReason.NOT_A_STREAM,
}


def _log_hint(pods: Iterable[Manifest]) -> str:
    """The pod to ask where the operator does not see what keeps it, such as a right that it lacks."""
    name = _unready_pod(pods)
    return f" Pod {name} runs and cannot read yet; kubectl logs {name} says why." if name else ""


def _unready_pod(pods: Iterable[Manifest]) -> str:
    """A pod that runs and does not get ready."""
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"]:
            continue
        for container in pod.get("status", {}).get("containerStatuses", []):
            if container.get("started") and not container.get("ready"):
                return str(pod["metadata"]["name"])
    return ""


def effective(deployment: Manifest) -> Effective:
    """As the Deployment has it: this is what its pods run with."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value") for each in container.get("env", [])}
    return Effective(
        image=container["image"],
        image_pull_policy=container.get("imagePullPolicy"),
        telemetry_endpoint=variables.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
    )


def has_started(pod: Manifest) -> bool:
    """Whether a container of it was ever started."""
    return str(pod.get("status", {}).get("phase", "Pending")) != "Pending"


def mounted_config_maps(pods: Iterable[Manifest]) -> set[str]:
    """The ConfigMaps that running pods hold: a container of theirs that is restarted reads its source again."""
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    volumes = [volume for pod in running for volume in pod.get("spec", {}).get("volumes", [])]
    return {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}


def _steady_readiness(consumer: StreamConsumer, desired: int) -> Readiness:
    if consumer.spec.suspend:
        message = "Suspended: no pods run, the group keeps its place. suspend: false goes on."
        return Readiness(ready=True, reason=Reason.SUSPENDED, message=message)
    if desired == 0:
        return Readiness(
            ready=True, reason=Reason.SCALED_TO_ZERO, message="No pods are wanted; the group keeps its place."
        )
    reads = f"{desired} {'pod reads' if desired == 1 else 'pods read'} {consumer.spec.stream!r}"
    return Readiness(ready=True, reason=Reason.ALL_PODS_READY, message=f"{reads} as {consumer.spec.consumer_group!r}.")


def _find_problem(status: Manifest, pods: Iterable[Manifest]) -> PodProblem | None:
    """What keeps pods from being ready, the cause nearest to the user's own doing first."""
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    found = [trouble for pod in staying if (trouble := _pod_problem(pod))]
    found += [trouble for condition in status.get("conditions", []) if (trouble := _condition_problem(condition))]
    order = list(Reason)
    return min(found, key=lambda trouble: _PRIORITY.get(trouble[0], order.index(trouble[0]) + 10), default=None)


_PRIORITY = {
    Reason.HANDLER_UNUSABLE: 0,
    Reason.INVALID_SETTINGS: 1,
    Reason.IMAGE_UNAVAILABLE: 2,
    Reason.POD_INVALID: 3,
    Reason.POD_CRASHING: 4,
}


def _condition_problem(condition: dict[str, Any]) -> PodProblem | None:
    message = condition.get("message", "")
    match condition.get("type"), condition.get("status"), condition.get("reason"):
        case "ReplicaFailure", "True", _:
            return Reason.POD_CREATION_FAILED, message
        case "Progressing", "False", "ProgressDeadlineExceeded":
            return Reason.ROLLOUT_TIMED_OUT, message
    return None


def _pod_problem(pod: Manifest) -> PodProblem | None:
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Reason.UNSCHEDULABLE, f"Pod {name}: {condition.get('message', '')}"
    for container in status.get("containerStatuses", []):
        if trouble := _container_problem(container):
            reason, message = trouble
            return reason, f"Pod {name}: {message}"
    return None


def _container_problem(container: dict[str, Any]) -> PodProblem | None:
    if container.get("ready"):
        return None
    waiting = container.get("state", {}).get("waiting", {})
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    if waiting.get("reason") in _IMAGE_REASONS:
        return Reason.IMAGE_UNAVAILABLE, waiting.get("message") or waiting["reason"]
    if words := _TERMINATION_MESSAGE.match(ended.get("message") or ""):
        return Reason(words[1]), words[2].strip()
    if waiting.get("reason") in _CONFIG_REASONS:  # never started: a Secret or one of its keys is missing, for example
        return Reason.POD_INVALID, waiting.get("message") or waiting["reason"]
    if ended.get("exitCode") or waiting.get("reason") == "CrashLoopBackOff":
        return Reason.POD_CRASHING, _exit_message(ended, waiting)
    return None


def _exit_message(terminated: dict[str, Any], waiting: dict[str, Any]) -> str:
    if not terminated:
        return str(waiting.get("message") or waiting["reason"])
    words = terminated.get("message") or terminated.get("reason") or "no message"
    return f"exited with code {terminated.get('exitCode')} ({words.strip()}); see kubectl logs --previous"
