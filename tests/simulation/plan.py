"""Plan of one simulation: pods, messages and faults, all derived from one seed.

A plan is data, so that the minimiser can remove parts of it and a regression case can be stored.
"""

from dataclasses import asdict, dataclass, replace
from random import Random
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
    "process_exit",
    "thread",
    "hung_thread",
    "mixed",
]
"""Behaviour of a handler, see `handlers`."""

HANDLER_KINDS: tuple[HandlerKind, ...] = HandlerKind.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class PodPlan:
    """One pod."""

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


@dataclass(frozen=True)
class MessagePlan:
    """One entry that the producer adds."""

    number: int
    at: int
    """Virtual microseconds after the start of the simulation."""
    key: str = ""
    """Value of the field `key`, which is the ordering key."""
    entry_id: str = "*"


@dataclass(frozen=True)
class FaultPlan:
    """One fault. `faults` describes the kinds."""

    kind: str
    at: int
    """Virtual microseconds after the start of the simulation."""
    duration: int = 0
    """Virtual microseconds until the fault ends. Unused by faults that happen at one moment."""
    pod: str = ""
    """Name of the pod that the fault affects. Empty for a fault of the server."""
    amount: int = 0
    """Size of the fault, such as a delay in microseconds or a number of bytes."""

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
    """Time after the last fault and the last message within which every entry must be settled."""

    @property
    def quiet_from(self) -> int:
        """Time from which no fault is active and no message is added."""
        ends = [fault.end for fault in self.faults] + [message.at for message in self.messages]
        return max([*ends, *(pod.start_at for pod in self.pods)], default=0)

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
        )

    def without(self, part: Literal["pods", "messages", "faults"], index: int) -> Self:
        """Return the plan without one pod, one message or one fault."""
        items = getattr(self, part)
        return replace(self, **{part: items[:index] + items[index + 1 :]})


def generate(seed: int, fault_kinds: tuple[str, ...]) -> Plan:
    """Return the plan of a seed. `fault_kinds` are the kinds from which the plan chooses."""
    random = Random(seed)
    handler = random.choice(HANDLER_KINDS)
    timeout = random.choice([None, None, 1.0, 5.0])
    style: dict[str, Any] = {
        "handler": handler,
        "concurrency": random.choice([1, 1, 2, 4, 16]),
        "is_batch": random.random() < 0.2,
        "has_ordering_key": random.random() < 0.2,
        "max_deliveries": random.choice([1, 2, 5]),
        "timeout_seconds": 1.0 if handler == "hung_thread" else timeout,
    }
    if style["is_batch"]:
        style["has_ordering_key"] = False
    duration = random.choice([5, 20, 60]) * SECOND
    names = [f"pod-{letter}" for letter in "abcd"[: random.choice([1, 2, 2, 3, 4])]]
    pods = tuple(PodPlan(name, random.randrange(0, 2 * SECOND), **style) for name in names)
    count = random.choice([1, 3, 10, 30])
    messages = tuple(
        MessagePlan(number, random.randrange(0, duration), key=random.choice("xyz")) for number in range(count)
    )
    faults = tuple(
        FaultPlan(
            random.choice(fault_kinds),
            at=random.randrange(0, duration),
            duration=random.choice([SECOND // 20, SECOND // 2, 3 * SECOND, 8 * SECOND, 20 * SECOND]),
            pod=random.choice(names),
            amount=random.choice([1, 10, 200, 1_000, 50_000, 400_000, 800_000, 1_100_000]),
        )
        for _ in range(random.choice([0, 1, 2, 3, 6, 10]))
    )
    return Plan(seed, pods, messages, tuple(sorted(faults, key=lambda fault: fault.at)))
