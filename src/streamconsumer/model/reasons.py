"""Meaning of every condition type and reason, and the action that the user can take.

The CLI's findings and docs/reference.md use the same table, so that both give the same advice. A test fails if a reason
is missing from the table. The table is separate from `status.py`, because the operator does not need the texts.
"""

from dataclasses import dataclass
from enum import StrEnum

from streamconsumer.model.status import Reason, ScalingReason, StreamReason

CONDITION_MEANINGS = {
    "Ready": "True if the desired number of pods read the stream, or if no pods are desired.",
    "Reconciling": "True while the operator or Kubernetes works towards the spec. Wait until the condition is False.",
    "Stalled": "True if waiting does not help, because the spec, a Secret, the image or the cluster must be changed.",
    "Suspended": "True if `spec.suspend` is true and all pods have stopped.",
    "RedisReachable": "True if the operator can query Redis. Unknown if the operator is not allowed to get the "
    "Secrets that `spec.redis` names. Ready does not depend on this condition, because pods can work even if the "
    "operator has no access to Redis.",
    "GroupReady": "True if the consumer group exists. Unknown if the operator cannot query the group.",
    "Degraded": "True if there are new dead letters, or if an entry is stuck. Unknown if the operator has no data.",
    "ScalingActive": "False if the backlog is unknown, so that the operator does not scale down. The condition exists "
    "only if `spec.autoscaling` is set.",
    "ScalingLimited": "True if `maxReplicas` or a policy prevents the operator from setting the number of "
    "pods that the backlog requires. The condition exists only if `spec.autoscaling` is set.",
}
"""Meaning of each condition type, in the order of `CONDITIONS`."""


@dataclass(frozen=True)
class ReasonInfo:
    """Meaning of a reason, and the action for the user."""

    meaning: str
    action: str | None = None
    """Action in Markdown. None if the reason describes a normal state, in which the user need not act."""


REASONS: dict[str, ReasonInfo] = {
    Reason.ALL_PODS_READY: ReasonInfo("All desired pods read the stream."),
    Reason.SCALED_TO_ZERO: ReasonInfo("No pods are desired. The group position is kept."),
    Reason.SUSPENDED: ReasonInfo(
        "`spec.suspend` is true and no pods run. The group position is kept.", "to resume, set `spec.suspend` to false"
    ),
    Reason.PODS_STARTING: ReasonInfo(
        "The number of pods that read the stream is below the desired number, or the operator waits until Kubernetes "
        "has deleted objects of a previous StreamConsumer of the same name.",
        "wait; if this persists, check the pods with `kubectl describe` and `kubectl logs`",
    ),
    Reason.ROLLING_OUT: ReasonInfo(
        "Enough pods read the stream, but some pods still have to be replaced after a change.",
        "wait; if this persists, check the new pods with `kubectl describe`",
    ),
    Reason.SETTLED: ReasonInfo("The condition is False. Reconciling, Stalled and Suspended use this reason."),
    Reason.INVALID_SPEC: ReasonInfo(
        "The spec is invalid, although the API server accepted it. Existing pods continue unchanged.",
        "correct the spec as the message describes",
    ),
    Reason.NAME_CONFLICT: ReasonInfo(
        "An object that has another owner already uses the name of a child object, such as the Deployment. The "
        "operator checks again every 5 s.",
        "delete or rename the existing object, or rename the StreamConsumer",
    ),
    Reason.CHILD_REJECTED: ReasonInfo(
        "The API server rejected a child object. The operator tries again every minute.",
        "correct the quota, the admission policy or the field of the spec that the message names",
    ),
    Reason.IMAGE_UNAVAILABLE: ReasonInfo(
        "A node cannot pull the image.", "correct `spec.image`, or set `spec.imagePullSecrets`"
    ),
    Reason.UNSCHEDULABLE: ReasonInfo(
        "No node meets the requirements of a pod.",
        "add nodes, lower `spec.resources`, or correct `spec.nodeSelector` and `spec.tolerations`",
    ),
    Reason.POD_CREATION_FAILED: ReasonInfo(
        "Kubernetes cannot create pods.", "check the quota and the Pod Security level of the namespace"
    ),
    Reason.HANDLER_UNUSABLE: ReasonInfo(
        "The handler cannot be imported or called.",
        "correct `spec.handler`, or build an image that contains the handler",
    ),
    Reason.INVALID_SETTINGS: ReasonInfo(
        "A setting, or the content of a Secret that a setting refers to, is invalid.",
        "correct the setting or the Secret that the message names",
    ),
    Reason.POD_INVALID: ReasonInfo(
        "A container cannot start, for example because a Secret or one of its keys is missing, or because the image "
        "runs as root or as a user without a numeric id.",
        "create the Secret, the ConfigMap or the key that the message names, or set a numeric `USER` in the Dockerfile",
    ),
    Reason.POD_CRASHING: ReasonInfo(
        "A container exited with an error.", "read the log of the previous container with `kubectl logs --previous`"
    ),
    Reason.REDIS_UNUSABLE: ReasonInfo(
        "A pod is running but cannot read the stream, and the operator's own check of Redis shows the cause.",
        "correct `spec.redis`, the Secrets that it refers to or the Redis server, as the message describes",
    ),
    Reason.ROLLOUT_TIMED_OUT: ReasonInfo(
        "A rollout made no progress within `spec.rollout.progressDeadline`.", "check the pods with `kubectl describe`"
    ),
    Reason.RECONCILE_FAILED: ReasonInfo(
        "A request to the API server failed several times in a row, for example because an admission webhook does not "
        "answer. The operator retries. Existing pods continue unchanged.",
        "correct the cause that the message names, such as the webhook",
    ),
    StreamReason.CONNECTED: ReasonInfo("The operator can query Redis."),
    StreamReason.UNREACHABLE: ReasonInfo(
        "Redis does not answer the operator.",
        "check the host and port in `spec.redis`, the Redis server and the NetworkPolicies",
    ),
    StreamReason.DESTINATION_NOT_ALLOWED: ReasonInfo(
        "The operator refuses to connect to the address of Redis, because it is a loopback, link-local, multicast, "
        "reserved or metadata address, or the address of the API server. Pods are not affected.",
        "use another address, or ask an administrator to add the address to the chart value `allowedDestinations`",
    ),
    StreamReason.CREDENTIALS_REFUSED: ReasonInfo(
        "Redis rejects the user or the password.", "correct the user or the password in the Secret"
    ),
    StreamReason.TLS_FAILED: ReasonInfo(
        "The TLS handshake failed.", "correct `spec.redis.tls` or the certificates that it refers to"
    ),
    StreamReason.SERVER_NOT_READY: ReasonInfo(
        "Redis answers but cannot serve commands now. For example, Redis is loading its data or is "
        "a read-only replica.",
        "wait; if this persists, check the Redis server",
    ),
    StreamReason.SECRET_MISSING: ReasonInfo(
        "A Secret or key that `spec.redis` refers to does not exist.",
        "create the Secret or the key that the message names",
    ),
    StreamReason.SECRETS_NOT_READABLE: ReasonInfo(
        "The operator is not allowed to get the Secrets of the namespace. The operator does not poll the stream, does "
        "not create the group, and keeps the number of pods unchanged, but at least 1. Running pods are not affected.",
        "run the `kubectl create rolebinding` command in the message of the condition; the operator uses the "
        "permission within about a minute",
    ),
    StreamReason.GROUP_EXISTS: ReasonInfo("The consumer group exists."),
    StreamReason.GROUP_MISSING: ReasonInfo(
        "The consumer group does not exist yet. The first pod creates the group.",
        "wait for the first pod; if the number of pods is 0, start a pod",
    ),
    StreamReason.NOT_A_STREAM: ReasonInfo(
        "The Redis key contains a value that is not a stream.",
        "set another key in `spec.stream`, or rename the existing key",
    ),
    StreamReason.NO_PERMISSION: ReasonInfo(
        "The ACL user is not allowed to query the stream, or the server does not have a required command.",
        "grant the permission with `ACL SETUSER`, or enable the command; docs/redis.md lists all permissions",
    ),
    StreamReason.UNEXPECTED_REPLY: ReasonInfo(
        "The server's reply is an error that the operator does not know, is too large, or does not have the type or "
        "range that Redis documents.",
        "check that `spec.redis` names a Redis server, and that no proxy changes its replies",
    ),
    StreamReason.HEALTHY: ReasonInfo("There have been no new dead letters for 10 minutes, and no entry is stuck."),
    StreamReason.DEAD_LETTERS_GROWING: ReasonInfo(
        "Messages became dead letters within the last 10 minutes.",
        "read the errors with `kubectl streamconsumer dead-letters list {target}`",
    ),
    StreamReason.PENDING_STUCK: ReasonInfo(
        "The same entry has been the oldest pending entry for 15 minutes, and is not waiting for a retry.",
        "check the pod that owns the entry; set `delivery.timeout` to limit a handler that hangs",
    ),
    ScalingReason.BACKLOG: ReasonInfo("The backlog determines the number of pods."),
    ScalingReason.ARRIVALS: ReasonInfo("The rate of new entries determines the number of pods."),
    ScalingReason.NOTHING_TO_DO: ReasonInfo("There are no unread entries and no pending entries."),
    ScalingReason.BELOW_ACTIVATION: ReasonInfo(
        "There are no pods, and the backlog does not exceed `autoscaling.activation.backlog`."
    ),
    ScalingReason.COOLING_DOWN: ReasonInfo(
        "The last pod is kept until `autoscaling.cooldown` has passed without work."
    ),
    ScalingReason.STABILIZING: ReasonInfo("A `stabilizationWindow` delays the change of the number of pods."),
    ScalingReason.LIMITED_BY_POLICY: ReasonInfo(
        "A policy of `scaleUp` or `scaleDown` limits the change of the number of pods."
    ),
    ScalingReason.LIMITED_BY_MAX: ReasonInfo(
        "The backlog requires more pods than `autoscaling.maxReplicas` allows.",
        "raise `autoscaling.maxReplicas` to reduce the backlog faster",
    ),
    ScalingReason.LIMITED_BY_MIN: ReasonInfo("The backlog requires fewer pods than `autoscaling.minReplicas`."),
    ScalingReason.BACKLOG_UNKNOWN: ReasonInfo(
        "The backlog is unknown. The operator does not scale down.", "restore the operator's access to Redis"
    ),
    ScalingReason.FALLBACK: ReasonInfo(
        "Redis has not answered for `autoscaling.fallback.after`, so `autoscaling.fallback.replicas` applies.",
        "restore the operator's access to Redis",
    ),
    ScalingReason.NOT_LIMITED: ReasonInfo("Neither `maxReplicas` nor a policy limits the number of pods."),
}
"""Meaning and action of every reason, in the order of the enums. The CLI replaces
`{target}` in an action with the command-line options that select the StreamConsumer. `InvalidSettings` and
`SecretsNotReadable` occur in two enums, but each of these reasons has only one entry in the table."""

CONDITIONS_OF_REASONS: tuple[tuple[type[StrEnum], tuple[str, ...]], ...] = (
    (Reason, ("Ready", "Reconciling", "Stalled", "Suspended")),
    (StreamReason, ("RedisReachable", "GroupReady", "Degraded")),
    (ScalingReason, ("ScalingActive", "ScalingLimited")),
)
"""Enums of reasons, each with the condition types that use the enum."""

DEFAULT_ACTION = "wait; if this persists, check the pods with `kubectl describe`"
"""Action for a problem if the table contains no action for its reason, for example because a newer operator has
reported the reason."""


def action_for(reason: str, target: str = "--name NAME") -> str:
    """Return the action for a problem with this reason, as plain text. `target` contains the command-line options that
    name the StreamConsumer."""
    info = REASONS.get(reason)
    action = DEFAULT_ACTION if info is None or info.action is None else info.action
    return action.replace("`", "").replace("{target}", target)
