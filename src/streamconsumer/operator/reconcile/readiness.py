"""From what the cluster holds to what is said of it. Pure: a Deployment and its pods in, a Verdict out."""

import re
from collections.abc import Iterable
from typing import Any

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import Effective, Fact, Reason, StreamReason, Verdict
from streamconsumer.operator.manifests import Manifest

_OWN_WORDS = re.compile(r"^(HandlerUnusable|InvalidSettings): (.*)", re.DOTALL)
_IMAGE_REASONS = {
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
}
_CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}

Trouble = tuple[Reason, str]


def verdict(
    consumer: StreamConsumer, deployment: Manifest | None, pods: Iterable[Manifest], seen: Iterable[Fact] = ()
) -> Verdict:
    """Ready when as many pods read as are wanted, all of the newest kind; otherwise the most telling reason. `seen`:
    what the operator sees in Redis."""
    if deployment is None:
        return Verdict(
            ready=False,
            reason=Reason.PODS_STARTING,
            message="The Deployment is being created.",
            reconciling=True,
        )
    spec, status = deployment.get("spec", {}), deployment.get("status", {})
    wanted = spec.get("replicas", 1)
    counts = {key: status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")}
    current = answered(deployment)
    if current and set(counts.values()) == {wanted}:
        return _settled(consumer, wanted)
    progress = f"{counts['availableReplicas']} of {wanted} pods ready, {counts['updatedReplicas']} of the newest kind."
    refused = _refused(pods, seen)
    if current and (trouble := _trouble(status, pods)):  # what went before an edit is not held against it
        reason, message = trouble
        if reason is Reason.ROLLOUT_TIMED_OUT:  # which says that it lasts, and not why
            message += refused
        stalled = reason is not Reason.UNSCHEDULABLE
        return Verdict(ready=False, reason=reason, message=message, reconciling=not stalled, stalled=stalled)
    if counts["availableReplicas"] >= wanted:
        return Verdict(ready=True, reason=Reason.ROLLING_OUT, message=progress + refused, reconciling=True)
    if refused:  # pods wait for Redis without end, and read as soon as it lets them: nothing has to be started again
        return Verdict(ready=False, reason=Reason.REDIS_UNUSABLE, message=progress + refused, reconciling=True)
    return Verdict(ready=False, reason=Reason.PODS_STARTING, message=progress + _who_knows(pods), reconciling=True)


def answered(deployment: Manifest | None) -> bool:
    """Whether its controller has seen what was written last: until then its counts are of what went before."""
    if deployment is None:
        return False
    return bool(
        deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    )


def _refused(pods: Iterable[Manifest], seen: Iterable[Fact]) -> str:
    """What keeps a pod that runs from reading, as the operator sees it: it comes to the server with the same words and
    Secrets. A pod that runs has no termination log, and may write nowhere at the Kubernetes API."""
    why = next((fact.message for fact in seen if fact.status != "True" and fact.reason in _KEEPS_PODS_FROM_READING), "")
    name = _waits(pods)
    return f" Pod {name} runs and cannot read yet: {why}" if name and why else ""


_KEEPS_PODS_FROM_READING = {
    StreamReason.UNREACHABLE,
    StreamReason.CREDENTIALS_REFUSED,
    StreamReason.TLS_FAILED,
    StreamReason.SERVER_NOT_READY,
    StreamReason.SECRET_MISSING,
    StreamReason.INVALID_SETTINGS,
    StreamReason.NOT_A_STREAM,
}


def _who_knows(pods: Iterable[Manifest]) -> str:
    """The pod to ask where the operator does not see what keeps it, such as a right that it lacks."""
    name = _waits(pods)
    return f" Pod {name} runs and cannot read yet; kubectl logs {name} says why." if name else ""


def _waits(pods: Iterable[Manifest]) -> str:
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


def ran(pod: Manifest) -> bool:
    """Whether a container of it was ever started."""
    return str(pod.get("status", {}).get("phase", "Pending")) != "Pending"


def mounted(pods: Iterable[Manifest]) -> set[str]:
    """The ConfigMaps that running pods hold: a container of theirs that is restarted reads its source again."""
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    volumes = [volume for pod in running for volume in pod.get("spec", {}).get("volumes", [])]
    return {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}


def _settled(consumer: StreamConsumer, wanted: int) -> Verdict:
    if consumer.spec.suspend:
        message = "Suspended: no pods run, the group keeps its place. suspend: false goes on."
        return Verdict(ready=True, reason=Reason.SUSPENDED, message=message)
    if wanted == 0:
        return Verdict(
            ready=True, reason=Reason.SCALED_TO_ZERO, message="No pods are wanted; the group keeps its place."
        )
    reads = f"{wanted} {'pod reads' if wanted == 1 else 'pods read'} {consumer.spec.stream!r}"
    return Verdict(ready=True, reason=Reason.ALL_PODS_READY, message=f"{reads} as {consumer.spec.consumer_group!r}.")


def _trouble(status: Manifest, pods: Iterable[Manifest]) -> Trouble | None:
    """What keeps pods from being ready, the cause nearest to the user's own doing first."""
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    found = [trouble for pod in staying if (trouble := _trouble_of(pod))]
    found += [trouble for condition in status.get("conditions", []) if (trouble := _trouble_in(condition))]
    order = list(Reason)
    return min(found, key=lambda trouble: _URGENCY.get(trouble[0], order.index(trouble[0]) + 10), default=None)


_URGENCY = {
    Reason.HANDLER_UNUSABLE: 0,
    Reason.INVALID_SETTINGS: 1,
    Reason.IMAGE_UNAVAILABLE: 2,
    Reason.POD_INVALID: 3,
    Reason.POD_CRASHING: 4,
}


def _trouble_in(condition: dict[str, Any]) -> Trouble | None:
    message = condition.get("message", "")
    match condition.get("type"), condition.get("status"), condition.get("reason"):
        case "ReplicaFailure", "True", _:
            return Reason.PODS_REFUSED, message
        case "Progressing", "False", "ProgressDeadlineExceeded":
            return Reason.ROLLOUT_TIMED_OUT, message
    return None


def _trouble_of(pod: Manifest) -> Trouble | None:
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Reason.UNSCHEDULABLE, f"Pod {name}: {condition.get('message', '')}"
    for container in status.get("containerStatuses", []):
        if trouble := _trouble_of_container(container):
            reason, message = trouble
            return reason, f"Pod {name}: {message}"
    return None


def _trouble_of_container(container: dict[str, Any]) -> Trouble | None:
    if container.get("ready"):
        return None
    waiting = container.get("state", {}).get("waiting", {})
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    if waiting.get("reason") in _IMAGE_REASONS:
        return Reason.IMAGE_UNAVAILABLE, waiting.get("message") or waiting["reason"]
    if words := _OWN_WORDS.match(ended.get("message") or ""):
        return Reason(words[1]), words[2].strip()
    if waiting.get("reason") in _CONFIG_REASONS:  # never started: a Secret or one of its keys is missing, for example
        return Reason.POD_INVALID, waiting.get("message") or waiting["reason"]
    if ended.get("exitCode") or waiting.get("reason") == "CrashLoopBackOff":
        return Reason.POD_CRASHING, _last_words(ended, waiting)
    return None


def _last_words(ended: dict[str, Any], waiting: dict[str, Any]) -> str:
    if not ended:
        return str(waiting.get("message") or waiting["reason"])
    words = ended.get("message") or ended.get("reason") or "no message"
    return f"exited with code {ended.get('exitCode')} ({words.strip()}); see kubectl logs --previous"
