"""Plans from seeds. Most plans choose everything at random. The others vary a scenario that random plans seldom hit."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.simulation.foreign_faults import COMMON_FAULTS
from tests.simulation.plan import HANDLER_KINDS, SECOND, FaultPlan, HandlerKind, MessagePlan, Plan, PodPlan

SCENARIO_SHARE = 0.3
"""Share of the plans that vary a scenario."""

DURATIONS = (SECOND // 20, SECOND // 2, 3 * SECOND, 8 * SECOND, 20 * SECOND)

SHARES = {"no_new_threads": 0.1, "twin": 2.0, "binary_claim": 2.0, "consumer_deleted": 2.0}
"""Shares of the kinds of faults in plans without a scenario, relative to the other kinds. A fault that stops a pod for
good hides other faults. Some kinds show their faults only in few of their runs."""

AMOUNTS = (1, 10, 200, 1_000, 50_000, 400_000, 800_000, 1_100_000)


def generate(seed: int, fault_kinds: tuple[str, ...] = COMMON_FAULTS) -> Plan:
    """Return the plan of a seed. `fault_kinds` are the kinds from which a plan without a scenario chooses."""
    random = Random(seed)
    if fault_kinds == COMMON_FAULTS and random.random() < SCENARIO_SHARE:
        share = random.random()
        scenarios = RARE if share < RARE_SHARE else OCCASIONAL if share < OCCASIONAL_SHARE else FREQUENT
        return random.choice(scenarios)(seed, random)
    return _random_plan(seed, random, fault_kinds)


def generate_intense(seed: int, fault_kinds: tuple[str, ...] = COMMON_FAULTS) -> Plan:
    """Return a plan with at least 20 messages and 5 faults."""
    return _random_plan(seed, Random(f"intense {seed}"), fault_kinds, message_counts=[20, 40], fault_counts=[5, 8, 12])


def _random_plan(
    seed: int,
    random: Random,
    fault_kinds: tuple[str, ...],
    *,
    message_counts: Sequence[int] = (1, 3, 10, 30),
    fault_counts: Sequence[int] = (0, 1, 2, 3, 6, 10),
) -> Plan:
    handler = random.choice(HANDLER_KINDS)
    timeout = random.choice([None, None, 1.0, 5.0])
    is_batch = random.random() < 0.2
    style: dict[str, Any] = {
        "handler": handler,
        "concurrency": random.choice([1, 1, 2, 4, 16]),
        "is_batch": is_batch,
        "has_ordering_key": not is_batch and random.random() < 0.2,
        "max_deliveries": random.choice([1, 2, 5]),
        "timeout_seconds": 1.0 if handler == "hung_thread" else timeout,
    }
    duration = random.choice([5, 20, 60]) * SECOND
    names = [f"pod-{letter}" for letter in "abcd"[: random.choice([1, 2, 2, 3, 4])]]
    pods = tuple(
        PodPlan(name, random.randrange(0, 2 * SECOND), clock_drift=random.choice([1.0, 1.0, 0.999, 1.001]), **style)
        for name in names
    )
    times = sorted(random.randrange(0, duration) for _ in range(random.choice(message_counts)))
    has_own_ids = random.random() < 0.15
    messages = tuple(
        MessagePlan(number, at, random.choice("xyz"), f"{number + 1}-0" if has_own_ids else "*")
        for number, at in enumerate(times)
    )
    faults: list[FaultPlan] = []
    shares = [SHARES.get(kind, 1.0) for kind in fault_kinds]
    for _ in range(random.choice(fault_counts)):
        is_same_moment = bool(faults) and random.random() < 0.2
        at = faults[-1].at if is_same_moment else random.randrange(0, duration)
        kind, length = random.choices(fault_kinds, shares)[0], random.choice(DURATIONS)
        faults.append(FaultPlan(kind, at, length, random.choice(names), random.choice(AMOUNTS)))
    return Plan(
        seed, pods, messages, tuple(sorted(faults, key=lambda fault: fault.at)), has_probes=random.random() < 0.4
    )


# -- scenarios ---------------------------------------------------------------------------------------------------------


def _pods(count: int, handler: HandlerKind, **style: Any) -> tuple[PodPlan, ...]:
    return tuple(PodPlan(f"pod-{number}", 0, handler, **style) for number in range(count))


def _messages(times: list[int], entry_id: str = "*") -> tuple[MessagePlan, ...]:
    return tuple(MessagePlan(number, at, "x", entry_id) for number, at in enumerate(sorted(times)))


def _slow_network(seed: int, random: Random) -> Plan:
    """All pods are slow in both directions while handlers run for long."""
    pods = _pods(random.choice([2, 3]), "long", concurrency=random.choice([2, 4]))
    delay = random.randrange(600_000, 1_300_000)
    at = random.randrange(0, 8 * SECOND)
    faults = tuple(FaultPlan("slow", at, 30 * SECOND, pod.name, delay) for pod in pods)
    return Plan(seed, pods, _messages([random.randrange(0, 5 * SECOND) for _ in range(6)]), faults, scenario="slow")


def _idle_pods_killed(seed: int, random: Random) -> Plan:
    """Most pods are killed while they are idle, and then one that has entries."""
    count = random.choice([12, 20, 30])
    pods = _pods(count, "slow", concurrency=4)
    kill_at = random.randrange(5, 12) * SECOND
    faults = [FaultPlan("removed", kill_at, pod=pod.name) for pod in pods[2:]]
    message_at = kill_at + SECOND
    faults += [FaultPlan("removed", message_at + 200_000, pod=pods[random.choice([0, 1])].name)]
    times = [message_at + random.randrange(100_000) for _ in range(12)]
    return Plan(seed, pods, _messages(times), tuple(faults), scenario="idle_pods_killed")


def _max_clients(seed: int, random: Random) -> Plan:
    """The server has reached `maxclients` from the moment after idle pods have connected."""
    pods = _pods(4, "long", concurrency=random.choice([1, 4]))
    faults = (
        FaultPlan("removed", 1500_000, pod=random.choice(pods).name),
        FaultPlan("max_clients", 7 * SECOND, 60 * SECOND),
    )
    early = [SECOND] * random.choice([1, 2])
    times = early + [random.randrange(8 * SECOND, 12 * SECOND) for _ in range(random.choice([1, 2, 3]))]
    return Plan(seed, pods, _messages(times), faults, scenario="max_clients")


def _backlog(seed: int, random: Random) -> Plan:
    """A pod is killed while all pods are behind."""
    pods = _pods(2, "slow", concurrency=random.choice([1, 2]))
    times = [random.randrange(0, 3 * SECOND) for _ in range(random.choice([40, 60]))]
    faults = (FaultPlan("crash", random.randrange(5, 20) * SECOND, pod=pods[0].name),)
    return Plan(seed, pods, _messages(times), faults, settle_within=400 * SECOND, scenario="backlog")


def _many_due(seed: int, random: Random) -> Plan:
    """A pod is killed while many postponed entries are due."""
    pods = _pods(2, "due_together", concurrency=1)
    at = random.randrange(18_500_000, 20 * SECOND)
    messages = (MessagePlan(0, SECOND, "x", count=600),)
    faults = (FaultPlan("removed", at, pod=pods[0].name),)
    return Plan(seed, pods, messages, faults, scenario="many_due")


def _schedule_lost(seed: int, random: Random) -> Plan:
    """The schedule is lost while many entries are postponed for long."""
    pods = _pods(1, "deferring_long", concurrency=16)
    faults = (FaultPlan("schedule_deleted", random.randrange(8, 20) * SECOND),)
    messages = (MessagePlan(0, SECOND, "x", count=random.choice([400, 500])),)
    return Plan(seed, pods, messages, faults, scenario="schedule_lost")


def _blocked_lane(seed: int, random: Random) -> Plan:
    """The first message of a key fails, and more messages with its key follow than a pod may hold."""
    pods = _pods(random.choice([1, 2]), "failing_head", concurrency=4, has_ordering_key=True)
    messages = [MessagePlan(number, SECOND, "x") for number in range(random.choice([1_100, 1_300]))]
    messages += [MessagePlan(len(messages), 3 * SECOND, "y")]
    return Plan(seed, pods, tuple(messages), (), settle_within=120 * SECOND, scenario="blocked_lane")


def _trimmed_backlog(seed: int, random: Random) -> Plan:
    """A pod dies with many trimmed entries in front of a live one."""
    pods = _pods(random.choice([1, 2, 3]), "instant", concurrency=random.choice([1, 4]))
    amount = random.choice([300, 600])
    faults = (FaultPlan("trimmed_backlog", random.randrange(3, 9) * SECOND, 0, pods[0].name, amount),)
    return Plan(seed, pods, _messages([SECOND] * 3), faults, scenario="trimmed_backlog")


def _group_lost_twice(seed: int, random: Random) -> Plan:
    """The group is destroyed twice within two seconds, and a pod is killed."""
    pods = _pods(random.choice([2, 3]), random.choice(["slow", "deferring"]), concurrency=4)
    at = random.randrange(3, 10) * SECOND
    second, kill = (at + random.randrange(100_000, 2_500_000) for _ in range(2))
    faults = (
        FaultPlan("group_destroyed", at),
        FaultPlan("group_destroyed", second),
        FaultPlan(random.choice(["crash", "removed"]), kill, pod=pods[0].name),
    )
    times = [random.randrange(0, at) for _ in range(20)]
    ordered = tuple(sorted(faults, key=lambda fault: fault.at))
    return Plan(seed, pods, _messages(times), ordered, scenario="group_lost_twice")


def _retries_then_loss(seed: int, random: Random) -> Plan:
    """The group is lost some time after many retries."""
    pods = _pods(2, "deferring", concurrency=16)
    times = [random.randrange(0, 2 * SECOND) for _ in range(600)]
    faults = (FaultPlan("group_destroyed", 60 * SECOND),)
    return Plan(seed, pods, _messages(times), faults, scenario="retries_then_loss")


def _own_ids(seed: int, random: Random) -> Plan:
    """A stream with ids of its producer is deleted and made again while messages are handled."""
    handlers: list[HandlerKind] = ["slow", "effects", "failing", "rejecting"]
    handler = random.choice(handlers)
    pods = _pods(random.choice([1, 2]), handler, concurrency=random.choice([1, 4]))
    messages = tuple(MessagePlan(number, SECOND + number * 150_000, "x", f"{number + 1}-0") for number in range(10))
    faults = (FaultPlan("stream_recreated", random.randrange(SECOND, 4 * SECOND)),)
    return Plan(seed, pods, messages, faults, scenario="own_ids")


def _long_write_pause(seed: int, random: Random) -> Plan:
    """The server pauses writes while handlers run, as a manual failover does."""
    pods = _pods(random.choice([2, 3]), "slow", concurrency=random.choice([1, 4]))
    at = random.randrange(3 * SECOND, 8 * SECOND)
    faults = (FaultPlan("write_pause", at, random.choice([6, 8]) * SECOND),)
    return Plan(seed, pods, _messages([random.randrange(0, at) for _ in range(8)]), faults, scenario="write_pause")


def _foreign_names(seed: int, random: Random) -> Plan:
    """Another program has used very many consumer names."""
    faults = (FaultPlan("many_consumers", SECOND, amount=5_000),)
    return Plan(seed, _pods(2, "instant"), _messages([2 * SECOND] * 5), faults, scenario="foreign_names")


def _own_manager(seed: int, random: Random) -> Plan:
    """The pods use a manager of the user."""
    manager = random.choice(["own", "own_blocking", "own_cancelled", "own_busy_group", "own_odd_item"])
    pods = _pods(2, "instant", manager=manager, concurrency=4)
    times = [SECOND] * 5 + [random.randrange(0, 5 * SECOND) for _ in range(10)]
    return Plan(seed, pods, _messages(times), (), scenario="own_manager")


def _leftover_cancellation(seed: int, random: Random) -> Plan:
    """Handlers leave a timer behind that cancels the task of their slot."""
    pods = _pods(random.choice([1, 2]), "late_cancel", concurrency=4)
    times = [random.randrange(0, 8 * SECOND) for _ in range(random.choice([10, 30]))]
    return Plan(seed, pods, _messages(times), (), has_probes=True, scenario="leftover_cancellation")


def _trimmed_while_handled(seed: int, random: Random) -> Plan:
    """A producer trims the stream while handlers run."""
    handlers: list[HandlerKind] = ["effects", "rejecting", "slow"]
    pods = _pods(random.choice([1, 2]), random.choice(handlers), concurrency=random.choice([1, 4]))
    at = random.randrange(2 * SECOND, 5 * SECOND)
    times = [at - random.randrange(0, 1_500_000) for _ in range(random.choice([3, 10]))]
    return Plan(seed, pods, _messages(times), (FaultPlan("stream_trimmed", at),), scenario="trimmed_while_handled")


def _listening_restarted(seed: int, random: Random) -> Plan:
    """A program restarts its processor while a handler refuses its cancellation."""
    pods = _pods(random.choice([1, 2]), "stubborn", concurrency=random.choice([1, 4]), drain_seconds=1.0)
    at = random.randrange(2 * SECOND, 5 * SECOND)
    times = [at - random.randrange(0, 1_500_000) for _ in range(random.choice([4, 10]))]
    faults = (FaultPlan("restart_listening", at, pod=pods[0].name),)
    return Plan(seed, pods, _messages(times), faults, scenario="listening_restarted")


def _frozen(seed: int, random: Random) -> Plan:
    """A pod with a queue is frozen until a peer has taken its entries."""
    handlers: list[HandlerKind] = ["steady", "slow", "effects"]
    pods = _pods(2, random.choice(handlers), concurrency=random.choice([1, 4]))
    at = random.randrange(2 * SECOND, 5 * SECOND)
    times = [at - random.randrange(0, 800_000) for _ in range(random.choice([20, 60]))]
    kind = random.choice(["freeze", "gil_held", "loop_blocked"])
    faults = (FaultPlan(kind, at, random.choice([8, 15]) * SECOND, pods[0].name),)
    return Plan(seed, pods, _messages(times), faults, scenario="frozen")


def _keyboard_interrupt(seed: int, random: Random) -> Plan:
    """A handler raises KeyboardInterrupt while further messages are ready."""
    style: dict[str, Any] = {"concurrency": random.choice([1, 2, 4]), "is_batch": random.random() < 0.3}
    pods = _pods(random.choice([1, 2]), "process_exit", **style)
    times = [SECOND + random.randrange(0, 20_000) for _ in range(random.choice([10, 30]))]
    return Plan(seed, pods, _messages(times), (), scenario="keyboard_interrupt")


def _threads_overrun(seed: int, random: Random) -> Plan:
    """The thread of a plain function runs longer than the timeout and the delay of the retry."""
    pods = _pods(1, "thread", concurrency=random.choice([2, 4]), timeout_seconds=random.choice([1.0, 5.0]))
    numbers = random.choice([[3], [3, 4, 8], [2, 3, 4, 8], list(range(10))])
    times = sorted(random.randrange(0, 5 * SECOND) for _ in numbers)
    messages = tuple(MessagePlan(number, at, "x") for number, at in zip(numbers, times, strict=True))
    return Plan(seed, pods, messages, (), scenario="threads_overrun")


FREQUENT: tuple[Callable[[int, Random], Plan], ...] = (
    *(_slow_network, _idle_pods_killed, _max_clients, _backlog, _trimmed_backlog, _group_lost_twice, _own_ids),
    *(_long_write_pause, _own_manager, _leftover_cancellation),
)
OCCASIONAL: tuple[Callable[[int, Random], Plan], ...] = (
    *(_trimmed_while_handled, _listening_restarted, _frozen, _keyboard_interrupt, _threads_overrun),
)
RARE: tuple[Callable[[int, Random], Plan], ...] = (
    *(_many_due, _schedule_lost, _blocked_lane, _retries_then_loss, _foreign_names),
)
"""Scenarios that take many messages or much virtual time."""

RARE_SHARE, OCCASIONAL_SHARE = 0.06, 0.35

SCENARIOS = (*FREQUENT, *OCCASIONAL, *RARE)
"""Functions that make the plan of a scenario."""
