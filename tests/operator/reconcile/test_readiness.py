"""The readiness of a StreamConsumer, from statuses as the kubelet and the controllers of Kubernetes 1.37 write them."""

from typing import Any

import pytest

from streamconsumer.model.status import ConditionState, Readiness, Reason, StreamReason
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile.readiness import evaluate_readiness
from tests.model.examples import consumer


def deployment(
    desired: int = 1,
    *,
    replicas: int = 1,
    updated: int | None = None,
    available: int = 0,
    generation: int = 2,
    observed: int = 2,
    conditions: tuple[dict[str, str], ...] = (),
) -> Manifest:
    counts = {
        "replicas": replicas,
        "updatedReplicas": replicas if updated is None else updated,
        "readyReplicas": available,
        "availableReplicas": available,
        "unavailableReplicas": max(desired - available, 0),
    }
    status = {name: count for name, count in counts.items() if count}  # the API server omits zeros
    return {
        "kind": "Deployment",
        "metadata": {"name": "orders-consumer", "generation": generation},
        "spec": {"replicas": desired},
        "status": {"observedGeneration": observed, "conditions": list(conditions), **status},
    }


def pod(
    state: dict[str, Any],
    last: dict[str, Any] | None = None,
    *,
    ready: bool = False,
    deleted: bool = False,
) -> Manifest:
    container = {
        "name": "processor",
        "image": "shop:1.4",
        "imageID": "",
        "ready": ready,
        "restartCount": 1 if last else 0,
        "started": False,
        "state": state,
        "lastState": last or {},
    }
    metadata: dict[str, Any] = {"name": "orders-consumer-66c9f7d7b-x2x7k", "namespace": "shop"}
    if deleted:
        metadata |= {"deletionTimestamp": "2026-11-24T12:00:30Z", "deletionGracePeriodSeconds": 30}
    return {"kind": "Pod", "metadata": metadata, "status": {"phase": "Pending", "containerStatuses": [container]}}


def started_pod(
    processor_ready: bool = False, sidecar_ready: bool | None = None, *, is_native: bool = False
) -> Manifest:
    """Return a pod whose containers have started. `sidecar_ready` adds a sidecar, which is an init container if
    `is_native` is set."""
    status: dict[str, Any] = {"phase": "Running"}

    def add(field: str, name: str, ready: bool) -> None:
        container = {"name": name, "started": True, "ready": ready, "state": RUNNING}
        status.setdefault(field, []).append(container)

    if sidecar_ready is not None:
        add("initContainerStatuses" if is_native else "containerStatuses", "proxy", sidecar_ready)
    add("containerStatuses", "processor", processor_ready)
    return {**pod(RUNNING), "status": status}


def init_container(state: dict[str, Any], last: dict[str, Any] | None = None) -> Manifest:
    """Return a pod whose init container `certificates` has this state."""
    container = {"name": "certificates", "ready": False, "started": False, "state": state, "lastState": last or {}}
    blocked = pod(waiting("PodInitializing"))
    return {**blocked, "status": {**blocked["status"], "initContainerStatuses": [container]}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def ended(code: int = 1, reason: str = "Error", message: str = "") -> dict[str, Any]:
    times = {"startedAt": "2026-11-24T12:00:00Z", "finishedAt": "2026-11-24T12:00:01Z"}
    extra = {"message": message} if message else {}
    return {"terminated": {"exitCode": code, "reason": reason, "containerID": "containerd://1", **times, **extra}}


BACK_OFF = waiting("CrashLoopBackOff", "back-off 10s restarting failed container=processor pod=orders-consumer")
RUNNING = {"running": {"startedAt": "2026-11-24T12:00:00Z"}}
UNSCHEDULABLE: Manifest = {
    "kind": "Pod",
    "metadata": {"name": "orders-consumer-66c9f7d7b-x2x7k"},
    "status": {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/3 nodes are available: 3 Insufficient memory.",
            }
        ],
    },
}
QUOTA = {
    "type": "ReplicaFailure",
    "status": "True",
    "reason": "FailedCreate",
    "message": 'pods "orders-consumer-x" is forbidden: exceeded quota: compute',
}
TOO_LONG = {
    "type": "Progressing",
    "status": "False",
    "reason": "ProgressDeadlineExceeded",
    "message": 'ReplicaSet "orders-consumer-66c9f7d7b" has timed out progressing.',
}


def evaluate(live: Manifest | None, *pods: Manifest, **spec: Any) -> Readiness:
    return evaluate_readiness(consumer(**spec), live, pods)


def outcome(readiness: Readiness) -> str:
    """Return the result of kstatus."""
    return "stalled" if readiness.stalled else "reconciling" if readiness.reconciling else "settled"


TABLE: dict[str, tuple[Manifest | None, list[Manifest], Reason, bool, str]] = {
    "no Deployment yet": (None, [], Reason.PODS_STARTING, False, "reconciling"),
    "a Deployment without a controller": (
        {"metadata": {"generation": 1}, "spec": {"replicas": 1}},
        [],
        Reason.PODS_STARTING,
        False,
        "reconciling",
    ),
    "all pods ready": (deployment(available=1), [pod(RUNNING, ready=True)], Reason.ALL_PODS_READY, True, "settled"),
    "no pods desired": (deployment(0, replicas=0), [], Reason.SCALED_TO_ZERO, True, "settled"),
    "pods starting": (deployment(), [pod(waiting("ContainerCreating"))], Reason.PODS_STARTING, False, "reconciling"),
    "a pod that runs and does not read yet": (deployment(), [pod(RUNNING)], Reason.PODS_STARTING, False, "reconciling"),
    "a rollout under way": (
        deployment(2, replicas=3, updated=1, available=2),
        [],
        Reason.ROLLING_OUT,
        True,
        "reconciling",
    ),
    "a generation that no controller has observed": (
        deployment(available=1, generation=3),
        [],
        Reason.ROLLING_OUT,
        True,
        "reconciling",
    ),
    "an image that is not replicas": (
        deployment(),
        [pod(waiting("ImagePullBackOff", 'Back-off pulling image "shop:1.4": not found'))],
        Reason.IMAGE_UNAVAILABLE,
        False,
        "stalled",
    ),
    "an image that cannot be named": (
        deployment(),
        [pod(waiting("InvalidImageName", 'couldn\'t parse image name "Shop:1.4"'))],
        Reason.IMAGE_UNAVAILABLE,
        False,
        "stalled",
    ),
    "no node for the pod": (deployment(), [UNSCHEDULABLE], Reason.UNSCHEDULABLE, False, "reconciling"),
    "a handler that cannot be imported": (
        deployment(),
        [pod(BACK_OFF, ended(message="HandlerUnusable: shop.orders: no module named 'shop'\n"))],
        Reason.HANDLER_UNUSABLE,
        False,
        "stalled",
    ),
    "a handler that could not be imported just now": (
        deployment(),
        [pod(ended(message="HandlerUnusable: shop.orders: no module named 'shop'"))],
        Reason.HANDLER_UNUSABLE,
        False,
        "stalled",
    ),
    "settings that the pod rejects": (
        deployment(),
        [pod(BACK_OFF, ended(message="InvalidSettings: STREAMCONSUMER_REDIS_URL is missing; it is required"))],
        Reason.INVALID_SETTINGS,
        False,
        "stalled",
    ),
    "a pod that crashes": (
        deployment(),
        [pod(BACK_OFF, ended(code=137, reason="OOMKilled"))],
        Reason.POD_CRASHING,
        False,
        "stalled",
    ),
    "a missing Secret": (
        deployment(),
        [pod(waiting("CreateContainerConfigError", 'secret "redis" not found'))],
        Reason.POD_INVALID,
        False,
        "stalled",
    ),
    "a quota that is used up": (
        deployment(replicas=0, conditions=(QUOTA,)),
        [],
        Reason.POD_CREATION_FAILED,
        False,
        "stalled",
    ),
    "a rollout that took too long": (
        deployment(conditions=(TOO_LONG,)),
        [],
        Reason.ROLLOUT_TIMED_OUT,
        False,
        "stalled",
    ),
    "a terminating old pod that has crashed": (
        deployment(),
        [pod(BACK_OFF, ended(), deleted=True), pod(waiting("ContainerCreating"))],
        Reason.PODS_STARTING,
        False,
        "reconciling",
    ),
    "a fix that the Deployment controller has not seen yet": (
        deployment(generation=3, conditions=(TOO_LONG,)),
        [pod(BACK_OFF, ended(message="HandlerUnusable: no module named 'shop'"))],
        Reason.PODS_STARTING,
        False,
        "reconciling",
    ),
    "a pod that is ready after a crash": (
        deployment(available=1),
        [pod(RUNNING, ended(code=137, reason="OOMKilled"), ready=True)],
        Reason.ALL_PODS_READY,
        True,
        "settled",
    ),
    "a stopped pod that exited with code 0": (
        deployment(),
        [pod(ended(0, "Completed"))],
        Reason.PODS_STARTING,
        False,
        "reconciling",
    ),
    "running pods of a Deployment that is scaled to zero": (
        deployment(0, replicas=1, available=1),
        [],
        Reason.ROLLING_OUT,
        True,
        "reconciling",
    ),
}


@pytest.mark.parametrize(("live", "pods", "reason", "ready", "kstatus"), TABLE.values(), ids=TABLE)
def test_an_observed_state_has_a_reason_and_a_kstatus_result(
    live: Manifest | None, pods: list[Manifest], reason: Reason, ready: bool, kstatus: str
) -> None:
    readiness = evaluate(live, *pods)
    assert (readiness.reason, readiness.ready, outcome(readiness)) == (reason, ready, kstatus)
    assert readiness.message


@pytest.mark.parametrize(
    "problem", ["image has non-numeric user (app), cannot verify user is non-root", "image will run as root"]
)
def test_image_whose_user_the_kubelet_refuses_is_reported_with_the_remedy(problem: str) -> None:
    readiness = evaluate(
        deployment(), pod(waiting("CreateContainerConfigError", f"container has runAsNonRoot and {problem}"))
    )
    assert readiness.reason is Reason.POD_INVALID
    assert problem in readiness.message
    assert "Set a numeric USER other than 0 in the Dockerfile of spec.image" in readiness.message


def test_the_table_covers_every_reason_of_this_module() -> None:
    """Other modules set the remaining reasons, apart from RedisUnusable and the reasons without a problem."""
    elsewhere = {Reason.SUSPENDED, Reason.SETTLED, Reason.INVALID_SPEC, Reason.NAME_CONFLICT, Reason.CHILD_REJECTED}
    elsewhere |= {Reason.RECONCILE_FAILED}
    assert {row[2] for row in TABLE.values()} == set(Reason) - elsewhere - {Reason.REDIS_UNUSABLE}


def test_a_suspended_streamconsumer_is_ready_when_its_pods_are_gone() -> None:
    suspended = consumer(suspend=True, replicas=3)
    readiness = evaluate_readiness(suspended, deployment(0, replicas=0), [])
    assert (readiness.reason, readiness.ready, outcome(readiness)) == (Reason.SUSPENDED, True, "settled")
    draining = evaluate_readiness(suspended, deployment(0, replicas=1, available=1), [])
    assert (draining.reason, outcome(draining)) == (Reason.ROLLING_OUT, "reconciling")


@pytest.mark.parametrize("name", TABLE)
def test_a_state_is_never_both_stalled_and_reconciling(name: str) -> None:
    live, pods, *_ = TABLE[name]
    readiness = evaluate(live, *pods)
    assert not (readiness.stalled and readiness.reconciling)
    assert readiness.ready or readiness.stalled or readiness.reconciling


def test_the_ready_message_names_the_stream_and_the_group() -> None:
    assert evaluate(deployment(available=1)).message == "1 pod reads stream 'orders' in group 'billing'."
    assert evaluate(deployment(3, replicas=3, available=3)).message == "3 pods read stream 'orders' in group 'billing'."


def test_the_message_of_a_failed_pod_has_the_pod_name_and_its_termination_message() -> None:
    message = evaluate(deployment(), pod(BACK_OFF, ended(message="HandlerUnusable: no module named 'shop'\n"))).message
    assert message == "Pod orders-consumer-66c9f7d7b-x2x7k: no module named 'shop'"


def test_the_message_of_a_killed_pod_has_the_exit_code_and_a_remedy() -> None:
    message = evaluate(deployment(), pod(BACK_OFF, ended(code=137, reason="OOMKilled"))).message
    assert message.endswith("exited with code 137 (OOMKilled); see kubectl logs --previous")


def test_problems_that_the_user_can_fix_have_priority() -> None:
    crashed = pod(BACK_OFF, ended())
    unusable = pod(BACK_OFF, ended(message="HandlerUnusable: no module named 'shop'"))
    pulling = pod(waiting("ErrImagePull", "not found"))
    readiness = evaluate(
        deployment(4, replicas=4, conditions=(TOO_LONG, QUOTA)), UNSCHEDULABLE, crashed, pulling, unusable
    )
    assert readiness.reason is Reason.HANDLER_UNUSABLE


def test_a_failed_rollout_is_not_ready_while_the_old_pods_still_read() -> None:
    """A user who waits for Ready after an edit waits for the pods of the edited spec."""
    broken = pod(BACK_OFF, ended(message="HandlerUnusable: no module named 'shop'"))
    readiness = evaluate(deployment(2, replicas=3, updated=1, available=2), broken, pod(RUNNING, ready=True))
    assert (readiness.reason, readiness.stalled, readiness.ready) == (Reason.HANDLER_UNUSABLE, True, False)


STARTED = started_pod()
WRONG_PASSWORD = ConditionState(
    type="RedisReachable",
    status="False",
    reason=StreamReason.CREDENTIALS_REFUSED,
    message="redis:6379: the user name or the password is wrong; correct the Secret",
)


def test_the_redis_problem_of_a_running_pod_is_in_the_message() -> None:
    readiness = evaluate_readiness(consumer(), deployment(), [STARTED], [WRONG_PASSWORD])
    assert (readiness.ready, readiness.reason, outcome(readiness)) == (False, Reason.REDIS_UNUSABLE, "reconciling")
    assert readiness.message.endswith(f"x2x7k is running but not ready: {WRONG_PASSWORD.message}")


def test_the_message_of_a_timed_out_rollout_has_the_redis_problem() -> None:
    readiness = evaluate_readiness(consumer(), deployment(conditions=(TOO_LONG,)), [STARTED], [WRONG_PASSWORD])
    assert readiness.reason is Reason.ROLLOUT_TIMED_OUT
    assert WRONG_PASSWORD.message in readiness.message


def test_a_redis_problem_is_ignored_without_a_running_unready_pod() -> None:
    starting = evaluate_readiness(consumer(), deployment(), [pod(waiting("ContainerCreating"))], [WRONG_PASSWORD])
    assert starting.reason is Reason.PODS_STARTING
    reading = evaluate_readiness(consumer(), deployment(available=1), [pod(RUNNING, ready=True)], [WRONG_PASSWORD])
    assert reading.ready
    missing = ConditionState(
        type="GroupReady", status="False", reason=StreamReason.GROUP_MISSING, message="no group yet"
    )
    waits = evaluate_readiness(consumer(), deployment(), [STARTED], [missing])
    assert waits.reason is Reason.PODS_STARTING
    assert "kubectl logs" in waits.message


@pytest.mark.parametrize(
    ("state", "last", "reason", "text"),
    [
        (waiting("ImagePullBackOff", "not found"), None, Reason.IMAGE_UNAVAILABLE, "container certificates: not found"),
        (
            BACK_OFF,
            ended(code=3),
            Reason.POD_CRASHING,
            "container certificates: exited with code 3 (Error); see kubectl logs --previous -c certificates",
        ),
        (
            waiting("CreateContainerConfigError", 'secret "ca" not found'),
            None,
            Reason.POD_INVALID,
            'container certificates: secret "ca" not found',
        ),
        (
            BACK_OFF,
            ended(message="HandlerUnusable: not a message of the processor"),
            Reason.POD_CRASHING,
            "container certificates: exited with code 1",
        ),
    ],
)
def test_a_failing_init_container_is_named_with_its_problem(
    state: dict[str, Any], last: dict[str, Any] | None, reason: Reason, text: str
) -> None:
    readiness = evaluate(deployment(), init_container(state, last))
    assert (readiness.reason, readiness.stalled) == (reason, True)
    assert text in readiness.message


def test_an_init_container_that_has_completed_is_no_problem() -> None:
    readiness = evaluate(deployment(), init_container(ended(0, "Completed")))
    assert readiness.reason is Reason.PODS_STARTING


@pytest.mark.parametrize("is_native", [False, True])
def test_an_unready_sidecar_beside_a_ready_processor_is_named(is_native: bool) -> None:
    live = started_pod(processor_ready=True, sidecar_ready=False, is_native=is_native)
    readiness = evaluate_readiness(consumer(), deployment(), [live], [WRONG_PASSWORD])
    assert readiness.reason is Reason.PODS_STARTING
    name = "orders-consumer-66c9f7d7b-x2x7k"
    assert f"Container proxy of pod {name} is running but not ready; see kubectl logs {name} -c proxy." in (
        readiness.message
    )
    assert WRONG_PASSWORD.message not in readiness.message


def test_an_unready_processor_has_priority_over_an_unready_sidecar() -> None:
    readiness = evaluate(deployment(), started_pod(sidecar_ready=False))
    assert readiness.message.endswith("see kubectl logs orders-consumer-66c9f7d7b-x2x7k.")


@pytest.mark.parametrize(("updated", "available"), [(0, 1), (0, 0)])
def test_a_paused_rollout_is_named_with_the_command_that_resumes_it(updated: int, available: int) -> None:
    live = deployment(updated=updated, available=available)
    live["spec"]["paused"], live["metadata"]["namespace"] = True, "shop"
    message = evaluate(live).message
    assert "The rollout is paused" in message
    assert "kubectl rollout resume deployment/orders-consumer --namespace shop" in message


def test_a_paused_deployment_without_a_rollout_is_ready() -> None:
    live = deployment(available=1)
    live["spec"]["paused"] = True
    assert evaluate(live).reason is Reason.ALL_PODS_READY
