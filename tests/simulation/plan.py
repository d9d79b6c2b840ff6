"""Plan of one simulation: pods, messages and faults. `scenarios` derives all of them from one seed.

A plan is data, so that the minimiser can remove parts of it and a regression case can be stored.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

SECOND = 1_000_000
"""Microseconds."""

HandlerKind = Literal[
    "instant",
    "slow",
    "failing",
    "deferring",
    "rejecting",
    "effects",
    "stubborn",
    "self_cancelling",
    "late_cancel",
    "process_exit",
    "base_exception",
    "grouped_reject",
    "thread",
    "hung_thread",
    "mixed",
    "long",
    "steady",
    "due_together",
    "deferring_long",
    "failing_head",
    "probe",
    "conflicting_effects",
]
"""Behaviour of a handler, see `handlers`."""

HANDLER_KINDS: tuple[HandlerKind, ...] = HandlerKind.__args__[:-6]  # type: ignore[attr-defined]
"""Handlers of ordinary plans. The scenarios use the others."""

EntryValue = Literal["", "long", "huge", "binary"]
"""Value of the field `text` of an entry: empty, longer than some pods accept, longer than one piece of a reply, or no
valid UTF-8."""

ManagerKind = Literal["", "own", "own_delegating", "own_blocking", "own_cancelled", "own_busy_group", "own_odd_item"]
"""Stream manager of a pod. Empty for a StreamManager, see `own_manager`."""


@dataclass(frozen=True)
class PodPlan:
    """Plan of a pod."""

    name: str
    start_at: int
    """Virtual microseconds after the start of the simulation."""
    handler: HandlerKind = "instant"
    concurrency: int = 1
    is_batch: bool = False
    has_ordering_key: bool = False
    max_deliveries: int = 5
    timeout_seconds: float | None = None
    clock_drift: float = 1.0
    """Speed of the pod's clock. 1.0 is the speed of the virtual time."""
    drain_seconds: float = 5.0
    manager: ManagerKind = ""
    retention: Literal["", "acknowledged", "max_age"] = ""
    is_traced: bool = False
    """True if each attempt has a span."""
    max_entry_bytes: int = 16_777_216


@dataclass(frozen=True)
class MessagePlan:
    """Entry that the producer adds."""

    number: int
    at: int
    """Virtual microseconds after the start of the simulation."""
    key: str = ""
    """Value of the field `key`, which is the ordering key."""
    entry_id: str = "*"
    count: int = 1
    """Number of entries. Their messages have consecutive numbers."""
    value: EntryValue = ""


@dataclass(frozen=True)
class FaultPlan:
    """Plan of a fault. `faults` and `foreign_faults` describe the kinds."""

    kind: str
    at: int
    """Virtual microseconds after the start of the simulation."""
    duration: int = 0
    """Virtual microseconds until the fault ends. Unused by faults that happen at one moment."""
    pod: str = ""
    """Name of the pod that the fault affects. Empty for a fault of the server."""
    amount: int = 0
    """Size of the fault, such as a delay in microseconds or a number of bytes."""
    point: str = ""
    """Name of an await point. The fault starts at the first time from `at` on at which a task of the pod is suspended
    there. Empty for a fault that starts at `at`."""

    @property
    def end(self) -> int:
        """Time at which the fault ends."""
        return self.at + self.duration


@dataclass(frozen=True)
class Plan:
    """Everything that a simulation does, in addition to the engine."""

    seed: int
    pods: tuple[PodPlan, ...]
    messages: tuple[MessagePlan, ...]
    faults: tuple[FaultPlan, ...]
    settle_within: int = 180 * SECOND
    """Time after the last fault and the last message within which every entry must be settled, in addition to the
    longest run of a handler."""
    take_over_seconds: float = 12.0
    """Time without a fault within which another pod claims the entries of a process whose connections it has seen."""
    has_probes: bool = False
    """True if the simulation checks at the end that all slots of all pods are usable."""
    scenario: str = ""
    """Name of the scenario from which the plan was made. Empty for a plan without one."""

    @property
    def quiet_from(self) -> int:
        """Time from which no fault is active and no message is added."""
        ends = [fault.end for fault in self.faults] + [message.at for message in self.messages]
        return max([*ends, *(pod.start_at for pod in self.pods)], default=0)

    @property
    def clock_jump_seconds(self) -> float:
        """Time by which the server's clock is set back at the ends of all faults."""
        jumps = (max(each.duration, each.amount) for each in self.faults if each.kind == "clock_jump")
        return sum(jumps) / SECOND

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Create a plan from JSON values."""
        return cls(
            values["seed"],
            tuple(PodPlan(**each) for each in values["pods"]),
            tuple(MessagePlan(**each) for each in values["messages"]),
            tuple(FaultPlan(**each) for each in values["faults"]),
            values.get("settle_within", 180 * SECOND),
            take_over_seconds=values.get("take_over_seconds", 12.0),
            has_probes=values.get("has_probes", False),
            scenario=values.get("scenario", ""),
        )

    def without(self, part: Literal["pods", "messages", "faults"], index: int) -> Self:
        """Return the plan without one pod, one message or one fault."""
        items = getattr(self, part)
        return replace(self, **{part: items[:index] + items[index + 1 :]})
