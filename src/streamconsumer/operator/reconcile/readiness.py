"""The readiness of a StreamConsumer, computed from its Deployment, its pods and the conditions of its stream.

The functions in this module have no side effects.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, Effective, Readiness, Reason, StreamReason
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.env import ENDPOINT_VARIABLE

_TERMINATION_MESSAGE = re.compile(r"^(HandlerUnusable|InvalidSettings): (.*)", re.DOTALL)
_IMAGE_REASONS = {
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
}
_CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_IMAGE_USER_PROBLEM = re.compile(r"has non-numeric user|image will run as root")
"""Messages of the kubelet about an image whose USER cannot run with `runAsNonRoot: true`."""

PodProblem = tuple[Reason, str]
"""The reason and the message for a problem of a pod."""


def evaluate_readiness(
    consumer: StreamConsumer,
    deployment: Manifest | None,
    pods: Iterable[Manifest],
    stream_conditions: Iterable[ConditionState] = (),
) -> Readiness:
    """Return the readiness, with the most specific reason. If all desired pods are available, and no problem is found,
    the StreamConsumer is ready.

    `stream_conditions` are the conditions that the operator observes in Redis."""
    if deployment is None:
        return Readiness(
            ready=False,
            reason=Reason.PODS_STARTING,
            message="The Deployment is being created.",
            reconciling=True,
        )
    spec, status = deployment.get("spec", {}), deployment.get("status", {})
    desired = spec.get("replicas", 1)
    counts = {key: status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")}
    is_current = is_observed(deployment)
    if is_current and set(counts.values()) == {desired}:
        return _steady_readiness(consumer, desired)
    progress = f"{counts['availableReplicas']} of {desired} pods ready, {counts['updatedReplicas']} updated."
    if spec.get("paused"):
        progress += f" {_paused_hint(deployment)}"
    redis_problem = _redis_problem(pods, stream_conditions)
    if is_current and (problem := _find_problem(status, pods)):  # ignore problems from before the last edit
        reason, message = problem
        if reason is Reason.ROLLOUT_TIMED_OUT:  # Kubernetes' message contains the duration but not the cause
            message += redis_problem
        stalled = reason is not Reason.UNSCHEDULABLE
        return Readiness(ready=False, reason=reason, message=message, reconciling=not stalled, stalled=stalled)
    if counts["availableReplicas"] >= desired:
        return Readiness(ready=True, reason=Reason.ROLLING_OUT, message=progress + redis_problem, reconciling=True)
    if redis_problem:  # not stalled, because pods retry without limit until Redis is usable
        return Readiness(ready=False, reason=Reason.REDIS_UNUSABLE, message=progress + redis_problem, reconciling=True)
    return Readiness(ready=False, reason=Reason.PODS_STARTING, message=progress + _log_hint(pods), reconciling=True)


def is_observed(deployment: Manifest | None) -> bool:
    """Return True if the Deployment controller has seen the last write of the Deployment. Until the Deployment
    controller has seen the write, the status of the Deployment describes the previous spec."""
    if deployment is None:
        return False
    return bool(
        deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    )


def _paused_hint(deployment: Manifest) -> str:
    name, namespace = deployment["metadata"]["name"], deployment["metadata"].get("namespace", "")
    command = f"kubectl rollout resume deployment/{name} --namespace {namespace}"
    return f"The rollout is paused, because spec.paused of Deployment {name} is true. To continue, run `{command}`."


def _redis_problem(pods: Iterable[Manifest], stream_conditions: Iterable[ConditionState]) -> str:
    """Describe the Redis problem that keeps a running pod from being ready. Returns an empty string if there is no such
    problem.

    The operator uses the same settings and Secrets as the pod, so a Redis problem of the pod also affects the operator.
    The pod cannot report the problem, because a running pod has no termination message and no permissions in the
    Kubernetes API."""
    blocking = (each for each in stream_conditions if each.status != "True" and each.reason in _BLOCKING_REASONS)
    message = next((condition.message for condition in blocking), "")
    unready = _unready_container(pods)
    if not message or unready is None or unready.name != names.CONTAINER:
        return ""
    return f" Pod {unready.pod} is running but not ready: {message}"


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
    """Return a reference to the log of an unready pod, or an empty string if no running pod is unready. The log may
    show problems that the operator cannot see, such as a missing permission in Redis."""
    unready = _unready_container(pods)
    if unready is None:
        return ""
    if unready.name == names.CONTAINER:
        return f" Pod {unready.pod} is running but not ready; see kubectl logs {unready.pod}."
    return (
        f" Container {unready.name} of pod {unready.pod} is running but not ready; "
        f"see kubectl logs {unready.pod} -c {unready.name}."
    )


class _Container(NamedTuple):
    pod: str
    name: str


def _unready_container(pods: Iterable[Manifest]) -> _Container | None:
    """Return a running container that is not ready, or None if there is no such container. The container of the
    processor has priority. Other containers are sidecars that another client has added."""
    unready = [
        _Container(str(pod["metadata"]["name"]), str(container.get("name")))
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for container in _container_statuses(pod)
        if container.get("started") and not container.get("ready") and _is_running(container)
    ]
    return min(unready, key=lambda each: each.name != names.CONTAINER, default=None)


def _container_statuses(pod: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the statuses of the init containers, which include native sidecars, and then those of the containers."""
    status = pod.get("status", {})
    for field in ("initContainerStatuses", "containerStatuses"):
        yield from status.get(field, [])


def _is_running(container: dict[str, Any]) -> bool:
    return "running" in container.get("state", {})


def effective(deployment: Manifest) -> Effective | None:
    """Return the effective settings, which are the values in the Deployment. Returns None if the cache does not store
    these values, because another client has made them large."""
    if "template" not in deployment["spec"]:
        return None
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value") for each in container.get("env", [])}
    return Effective(
        image=container["image"],
        image_pull_policy=container.get("imagePullPolicy"),
        telemetry_endpoint=variables.get(ENDPOINT_VARIABLE),
    )


def mounted_config_maps(pods: Iterable[Manifest]) -> set[str]:
    """Return the names of the ConfigMaps that running pods mount. A running pod still needs these ConfigMaps, because a
    restarted container reads the source again."""
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    volumes = [volume for pod in running for volume in pod.get("spec", {}).get("volumes", [])]
    return {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}


def _steady_readiness(consumer: StreamConsumer, desired: int) -> Readiness:
    if consumer.spec.suspend:
        message = "Suspended: no pods are running and the group position is kept. Set spec.suspend to false to resume."
        return Readiness(ready=True, reason=Reason.SUSPENDED, message=message)
    if desired == 0:
        message = "Scaled to zero; the group position is kept."
        return Readiness(ready=True, reason=Reason.SCALED_TO_ZERO, message=message)
    pods_read = f"{desired} {'pod reads' if desired == 1 else 'pods read'}"
    message = f"{pods_read} stream {consumer.spec.stream!r} in group {consumer.spec.consumer_group!r}."
    return Readiness(ready=True, reason=Reason.ALL_PODS_READY, message=message)


def _find_problem(status: Manifest, pods: Iterable[Manifest]) -> PodProblem | None:
    """Return the problem that keeps pods from being ready, or None if no problem is found. Problems that the user can
    fix have priority."""
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    problems = [problem for pod in staying if (problem := _pod_problem(pod))]
    problems += [problem for condition in status.get("conditions", []) if (problem := _condition_problem(condition))]
    order = list(Reason)
    return min(problems, key=lambda problem: _PRIORITY.get(problem[0], order.index(problem[0]) + 10), default=None)


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
    for container in _container_statuses(pod):
        if problem := _container_problem(container):
            reason, message = problem
            place = name if _is_processor(container) else f"{name}, container {container.get('name')}"
            return reason, f"Pod {place}: {message}"
    return None


def _container_problem(container: dict[str, Any]) -> PodProblem | None:
    if container.get("ready"):
        return None
    waiting = container.get("state", {}).get("waiting", {})
    terminated = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    if waiting.get("reason") in _IMAGE_REASONS:
        return Reason.IMAGE_UNAVAILABLE, waiting.get("message") or waiting["reason"]
    if _is_processor(container) and (match := _TERMINATION_MESSAGE.match(terminated.get("message") or "")):
        return Reason(match[1]), match[2].strip()
    if waiting.get("reason") in _CONFIG_REASONS:  # not started: for example, a Secret or a key is missing
        return Reason.POD_INVALID, _config_message(waiting)
    if terminated.get("exitCode") or waiting.get("reason") == "CrashLoopBackOff":
        option = "" if _is_processor(container) else f" -c {container.get('name')}"
        return Reason.POD_CRASHING, _exit_message(terminated, waiting, option)
    return None


def _is_processor(container: dict[str, Any]) -> bool:
    """Return False for the container of a sidecar, and for an init container."""
    return bool(container.get("name") == names.CONTAINER)


def _config_message(waiting: dict[str, Any]) -> str:
    message = str(waiting.get("message") or waiting["reason"])
    if _IMAGE_USER_PROBLEM.search(message):
        message += (
            ". Pods must not run as root, and the kubelet cannot look up the id of a user name. "
            "Set a numeric USER other than 0 in the Dockerfile of spec.image, such as USER 65532."
        )
    return message


def _exit_message(terminated: dict[str, Any], waiting: dict[str, Any], container_option: str) -> str:
    if not terminated:
        return str(waiting.get("message") or waiting["reason"])
    cause = terminated.get("message") or terminated.get("reason") or "no message"
    code = terminated.get("exitCode")
    return f"exited with code {code} ({cause.strip()}); see kubectl logs --previous{container_option}"
