"""Short scenarios that lead to await points of the engine. The coverage adds faults at these points.

The name of a scenario and a number make a seed, such as `drain:5`. The number varies the scenario.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.plan import SECOND, FaultPlan, MessagePlan, Plan, PodPlan

Make = Callable[[int, Random], Plan]

SETTLE_WITHIN = 120 * SECOND


def _scenario(
    handlers: str,
    *,
    seconds: int = 6,
    messages: int = 16,
    faults: Callable[[Random], tuple[FaultPlan, ...]] = lambda _random: (),
    values: str = "",
    **style: Any,
) -> Make:
    """Return a scenario: two pods start one after the other, and messages arrive for some seconds.

    `handlers`, `values` and each list in `style` contain choices.
    """

    def make(seed: int, random: Random) -> Plan:
        chosen = {name: random.choice(value) if isinstance(value, list) else value for name, value in style.items()}
        chosen = {"concurrency": random.choice([1, 2, 4]), **chosen, "handler": random.choice(handlers.split())}
        pods = (PodPlan("pod-a", 0, **chosen), PodPlan("pod-b", random.randrange(SECOND, 3 * SECOND), **chosen))
        times = sorted(random.randrange(0, seconds * SECOND) for _ in range(messages))
        plans = tuple(
            MessagePlan(number, at, random.choice("xy"), value=random.choice(["", *values.split()]))  # type: ignore[arg-type]
            for number, at in enumerate(times)
        )
        started = tuple(sorted(faults(random), key=lambda fault: fault.at))
        return Plan(seed, pods, plans, started, SETTLE_WITHIN)

    return make


def _fault(*kinds: str, begin: float = 2, end: float = 5, amount: int = 0) -> Callable[[Random], tuple[FaultPlan, ...]]:
    """Return a function that chooses when these faults start, and how long they last."""

    def choose(random: Random) -> tuple[FaultPlan, ...]:
        at = round(random.uniform(begin, end) * SECOND)
        times = [at + index * random.randrange(SECOND) for index in range(len(kinds))]
        lengths = [random.choice([SECOND // 2, 2 * SECOND]) for _ in kinds]
        pods = [random.choice(["pod-a", "pod-b"]) for _ in kinds]
        return tuple(
            FaultPlan(kind, begin, length, pod, amount)
            for kind, begin, length, pod in zip(kinds, times, lengths, pods, strict=True)
        )

    return choose


DIRECTED: dict[str, Make] = {
    "plain": _scenario("instant slow mixed failing effects"),
    "timeout": _scenario("slow stubborn thread", timeout_seconds=1.0),
    "batch": _scenario("mixed failing rejecting deferring", is_batch=True, max_deliveries=[2, 5]),
    "ordered": _scenario("mixed failing deferring rejecting", has_ordering_key=True),
    "retries": _scenario("failing deferring steady", messages=30),
    "dead_letters": _scenario("rejecting failing", max_deliveries=[1, 2], is_batch=[False, True]),
    "effects": _scenario("effects", messages=24),
    "drain": _scenario("slow mixed steady effects failing", faults=_fault("sigterm"), messages=24),
    "drain_batch": _scenario("slow failing", faults=_fault("sigterm"), messages=30, is_batch=True),
    "drain_timeout": _scenario("stubborn thread", faults=_fault("sigterm"), drain_seconds=1.0),
    "restart": _scenario("slow mixed failing", faults=_fault("restart_listening"), messages=24),
    "group_lost": _scenario("slow mixed deferring", faults=_fault("group_destroyed"), messages=24),
    "dead_pod": _scenario("slow mixed effects", faults=_fault("crash"), messages=24),
    "dead_batch": _scenario("slow mixed", faults=_fault("crash", "crash"), is_batch=True, messages=24),
    "dead_suspects": _scenario("slow effects", faults=_fault("crash", "crash", "crash"), max_deliveries=[1, 2]),
    "lost_node": _scenario("slow effects", faults=_fault("node_loss"), seconds=40),
    "other_program": _scenario("slow deferring", faults=_fault("foreign_claim", begin=1), seconds=45, messages=24),
    "refused": _scenario("slow effects mixed", faults=_fault("eval_refused"), messages=24),
    "server_down": _scenario("slow mixed effects", faults=_fault("server_down"), messages=24),
    "full_memory": _scenario("rejecting failing effects", faults=_fault("out_of_memory"), messages=24),
    "cut_replies": _scenario("mixed steady", faults=_fault("cut_in_reply", "cut", amount=5), messages=24),
    "retention": _scenario("instant slow", retention=["acknowledged", "max_age"], seconds=25, messages=30),
    "traced": _scenario("instant slow failing", is_traced=True, is_batch=[False, True]),
    "values": _scenario("instant slow", values="long binary", max_entry_bytes=1024, is_batch=[False, True]),
    "unreadable": _scenario(
        "slow", values="long", faults=_fault("crash", "reply_limit", "reply_limit", amount=1500), seconds=9
    ),
    "own": _scenario("instant slow mixed", manager=["own", "own_delegating"]),
    "own_batch": _scenario("instant slow mixed", manager="own_delegating", is_batch=True),
}
"""Functions that make the plan of a scenario, by its name."""
