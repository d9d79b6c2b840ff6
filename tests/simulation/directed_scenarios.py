"""Short scenarios that lead to await points of the engine. The coverage adds faults at these points.

The name of a scenario and a number make a seed, such as `drain:5`. The number varies the scenario.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.simulation.plan import SECOND, EntryValue, FaultPlan, MessagePlan, Plan, PodPlan

Make = Callable[[int, Random], Plan]

Choose = Callable[[Random], FaultPlan]
"""Function that chooses when a fault starts, how long it lasts, and which pod it affects."""

_PODS = ("pod-a", "pod-b")

SETTLE_WITHIN = 90 * SECOND


def _scenario(
    handlers: str,
    *,
    seconds: float = 15,
    messages: int = 40,
    number_step: int = 1,
    faults: Sequence[Choose] = (),
    values: Sequence[EntryValue] = (),
    **style: Any,
) -> Make:
    """Return a scenario: two pods start one after the other, and messages arrive for some seconds.

    `handlers`, `values` and each list in `style` contain choices. `number_step` is the distance between the numbers of
    two messages, which decide what the handlers do.
    """

    def make(seed: int, random: Random) -> Plan:
        chosen = {name: random.choice(value) if isinstance(value, list) else value for name, value in style.items()}
        chosen = {"concurrency": random.choice([1, 2, 4]), **chosen, "handler": random.choice(handlers.split())}
        pods = (PodPlan(_PODS[0], 0, **chosen), PodPlan(_PODS[1], random.randrange(SECOND, 3 * SECOND), **chosen))
        times = sorted(random.randrange(0, round(seconds * SECOND)) for _ in range(messages))
        plans = tuple(
            MessagePlan(number * number_step, at, random.choice("xy"), value=random.choice(["", *values]))
            for number, at in enumerate(times)
        )
        started = tuple(sorted((choose(random) for choose in faults), key=lambda fault: fault.at))
        return Plan(seed, pods, plans, started, SETTLE_WITHIN)

    return make


def _fault(
    kind: str, pod: str = "", *, begin: float = 2, end: float = 5, seconds: float = 0, amount: int = 0, point: str = ""
) -> Choose:
    """Return a function that starts a fault between two times.

    If `point` is set, the fault starts when a task of the process `pod` is next suspended at this await point."""

    def choose(random: Random) -> FaultPlan:
        at = round(random.uniform(begin, end) * SECOND)
        length = seconds or random.choice([0.5, 2.0])
        return FaultPlan(kind, at, round(length * SECOND), pod or random.choice(_PODS), amount, point)

    return choose


_CLAIM = "pipeline/recovery_loop.py:RecoveryLoop._claim_page:2"
_OPEN = "consumer/redis_consumer.py:RedisConsumer.open"
_PREFLIGHT, _FIND_GROUP = f"{_OPEN}:1", f"{_OPEN}:2"
"""Await points at which faults of the scenarios start."""

_SLOW_B = _fault("slow", "pod-b", begin=3.1, end=3.3, seconds=60, amount=300_000)
_NARROW_B = _fault("slow_down", "pod-b", begin=5.001, end=5.001, seconds=30, amount=400_000)
_CLOCK_JUMP = _fault("clock_jump", begin=4, end=6, seconds=40, amount=700 * SECOND)
_SLOW = [_fault("slow", pod, begin=3.1, end=4, seconds=30, amount=150_000) for pod in _PODS]
_REMOVED_A = _fault("removed", "pod-a", begin=3.9, end=3.9)
_LONG: dict[str, Any] = {"seconds": 40, "messages": 90}


def _often(kind: str, pod: str = "", *, amount: int = 0) -> list[Choose]:
    """Return functions that start a fault many times while the messages of a long scenario arrive."""
    return [_fault(kind, pod, begin=2, end=40, amount=amount)] * 8


DIRECTED: dict[str, Make] = {
    "plain": _scenario("instant slow mixed failing effects"),
    "timeout": _scenario("slow stubborn thread", timeout_seconds=1.0),
    "hung_threads": _scenario(
        "hung_thread", timeout_seconds=1.0, concurrency=1, max_deliveries=[1, 5], is_batch=[False, True], seconds=25
    ),
    "no_threads": _scenario(
        "hung_thread",
        timeout_seconds=1.0,
        concurrency=1,
        max_deliveries=[1, 2],
        is_batch=[False, True],
        seconds=6,
        messages=9,
        number_step=5,
    ),
    "batch": _scenario("mixed failing rejecting deferring", is_batch=True, max_deliveries=[2, 5]),
    "parked": _scenario(
        "steady failing",
        values=["huge"] * 9,
        messages=70,
        seconds=0.01,
        faults=[_fault("slow_down", "pod-a", begin=1, end=2, seconds=25, amount=20_000)],
        has_ordering_key=True,
        concurrency=4,
    ),
    "parked_unreadable": _scenario(
        "steady failing",
        values=["huge"] * 9,
        messages=70,
        seconds=0.01,
        faults=[_fault("reply_limit", "pod-a", begin=2.5, end=3, seconds=20, amount=1500)],
        has_ordering_key=True,
        concurrency=4,
    ),
    "ordered": _scenario("mixed failing deferring rejecting", has_ordering_key=True),
    "retries": _scenario("failing deferring steady"),
    "dead_letters": _scenario("rejecting failing", max_deliveries=[1, 2], is_batch=[False, True]),
    "effects": _scenario("effects conflicting_effects", max_deliveries=2),
    "drain": _scenario("slow mixed steady effects failing", faults=_often("sigterm"), **_LONG),
    "drain_batch": _scenario("slow failing", faults=_often("sigterm"), is_batch=True, **_LONG),
    "drain_timeout": _scenario("stubborn thread", faults=_often("sigterm"), drain_seconds=1.0, **_LONG),
    "drain_claim": _scenario(
        "slow",
        values=["huge"],
        faults=[_REMOVED_A, _NARROW_B, _fault("sigterm", "pod-b~0", begin=4, end=4, point=_CLAIM)],
        concurrency=4,
        drain_seconds=1.0,
    ),
    "drain_claim_slowly": _scenario(
        "slow",
        faults=[_REMOVED_A, _SLOW_B, _fault("sigterm", "pod-b~0", begin=3, end=3, point=_CLAIM)],
        concurrency=4,
    ),
    "drain_acks": _scenario(
        "slow",
        faults=[
            *(_fault("slow", pod, begin=3, end=4, seconds=30, amount=700_000) for pod in _PODS),
            *_often("sigterm"),
        ],
        concurrency=4,
        seconds=25,
    ),
    "drain_slowly": _scenario("instant slow", faults=[*_often("slow", amount=300_000), *_often("sigterm")], **_LONG),
    "release": _scenario("steady slow", faults=[*_SLOW, *_often("sigterm")], concurrency=1, **_LONG),
    "restart": _scenario("slow mixed failing", faults=_often("restart_listening"), **_LONG),
    "group_lost": _scenario("slow mixed deferring", faults=_often("group_destroyed"), **_LONG),
    "new_stream": _scenario(
        "slow mixed deferring",
        faults=[*_often("stream_recreated"), *_often("stream_deleted"), *_SLOW],
        **_LONG,
    ),
    "group_lost_at_start": _scenario(
        "slow",
        faults=[
            _fault("slow", "pod-b~0", begin=0, end=0, seconds=20, amount=200_000, point=_PREFLIGHT),
            _fault("group_destroyed", "pod-b~0", begin=0, end=0, point=_FIND_GROUP),
            *[_fault("consumer_deleted", "pod-a", begin=2, end=6)] * 4,
        ],
        concurrency=4,
    ),
    "dead_pod": _scenario("slow mixed effects", faults=_often("crash"), **_LONG),
    "dead_batch": _scenario("slow mixed", faults=[*_SLOW, *_often("crash")], is_batch=True, **_LONG),
    "dead_suspects": _scenario(
        "instant slow effects", faults=[*_SLOW, *_often("crash")], max_deliveries=[1, 2], **_LONG
    ),
    "lost_node": _scenario("slow effects", faults=[_fault("node_loss")], seconds=40),
    "expired": _scenario("instant", faults=[*_SLOW, _CLOCK_JUMP, *_often("crash")], **_LONG),
    "other_program": _scenario("slow deferring", faults=[_fault("foreign_claim", begin=1)], seconds=45),
    "two_claims": _scenario("deferring", faults=[_SLOW_B], seconds=50, messages=50),
    "cut_claim": _scenario(
        "slow",
        values=["huge"],
        faults=[_REMOVED_A, _NARROW_B, *[_fault("cut", "pod-b", begin=6, end=12)] * 3],
        concurrency=4,
    ),
    "claim_and_replay": _scenario(
        "slow",
        values=["huge"],
        faults=[_REMOVED_A, _fault("container_restart", "pod-b", begin=4, end=4), _NARROW_B],
        concurrency=4,
    ),
    "refused": _scenario("slow effects mixed", faults=_often("eval_refused"), **_LONG),
    "refused_restart": _scenario(
        "instant slow",
        faults=[
            _fault("eval_refused", begin=4, end=4, seconds=3),
            *(_fault("restart_listening", pod, begin=4.1, end=5) for pod in _PODS),
        ],
    ),
    "idle": _scenario(
        "instant",
        seconds=3,
        messages=5,
        faults=[_SLOW_B, *[_fault("cut", pod, begin=6, end=40) for pod in _PODS] * 4],
    ),
    "server_down": _scenario("slow mixed effects", faults=_often("server_down"), **_LONG),
    "slow_failover": _scenario(
        "deferring rejecting",
        faults=[_SLOW_B, *_often("failover")],
        **_LONG,
    ),
    "late_replies": _scenario("slow", faults=[_fault("partition_down", begin=2, end=40, seconds=9)] * 4, **_LONG),
    "full_memory": _scenario("rejecting failing effects", faults=_often("out_of_memory"), **_LONG),
    "cut_replies": _scenario("mixed steady", faults=[*_often("cut_in_reply", amount=5), *_often("cut")], **_LONG),
    "retention": _scenario("instant slow", retention="acknowledged", seconds=25),
    "retention_by_age": _scenario("slow deferring", retention="max_age", faults=_often("crash"), seconds=60),
    "traced": _scenario(
        "slow failing deferring", is_traced=True, is_batch=[False, True], faults=_often("crash"), **_LONG
    ),
    "values": _scenario(
        "instant slow",
        values=["long", "binary"],
        max_entry_bytes=1024,
        is_batch=[False, True],
        faults=[_fault("crash", pod) for pod in _PODS],
    ),
    "huge_values": _scenario(
        "instant slow", values=["huge"], faults=[_fault("slow_down", pod, seconds=9, amount=400_000) for pod in _PODS]
    ),
    "unreadable": _scenario(
        "slow",
        values=["long"],
        faults=[_fault("reply_limit", pod, seconds=20, amount=1500) for pod in _PODS],
        seconds=9,
    ),
    "own": _scenario("instant slow mixed", manager=["own", "own_delegating"]),
    "own_drain": _scenario(
        "instant slow",
        manager=["own", "own_delegating"],
        faults=[*_often("sigterm"), *_often("restart_listening")],
        **_LONG,
    ),
    "twins": _scenario("slow instant", faults=[_fault("twin", begin=2, end=40, seconds=6)] * 8, **_LONG),
    "name_lost": _scenario(
        "instant slow",
        faults=[
            _fault("twin", "pod-a", begin=2, end=2.5, seconds=25),
            _fault("freeze", "pod-a", begin=4, end=4, seconds=5),
            _fault("cut", "pod-a", begin=4.1, end=4.1),
            _fault("slow", "pod-a", begin=4.2, end=4.2, seconds=60, amount=400_000),
        ],
    ),
    "own_group_lost": _scenario(
        "instant slow", manager=["own", "own_delegating"], faults=_often("group_destroyed"), **_LONG
    ),
    "own_batch": _scenario("instant slow mixed", manager="own_delegating", is_batch=True),
}
"""Functions that make the plan of a scenario, by its name."""
