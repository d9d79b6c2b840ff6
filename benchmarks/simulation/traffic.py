"""Traffic patterns: arrival times and handling times of messages. Random numbers are seeded, so each call repeats."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

RECORDED = Path(__file__).parent / "requests_in_five_minutes.txt"
"""Request counts of an AWS load balancer in 288 intervals of five minutes, from 10 April 2014. Source:
`elb_request_count_8c0756.csv` of the Numenta Anomaly Benchmark (MIT, github.com/numenta/NAB)."""
FIVE_MINUTES = 300
HOUR = 3600


@dataclass
class Message:
    """Entry of the simulated stream."""

    added: int
    """Second at which the entry was added."""
    work_seconds: float
    is_poison: bool = False
    """True if every attempt fails."""
    attempts: int = 0
    left_seconds: float = 0.0
    """Remaining seconds of the running attempt."""


@dataclass(frozen=True)
class Traffic:
    """Traffic pattern with its duration."""

    name: str
    seconds: int
    arrivals: Callable[[], Iterator[list[Message]]]
    """Returns an iterator over the entries of each second."""
    max_deliveries: int = 10
    drain_seconds: int = 25


def steady() -> Traffic:
    """Return a pattern with 50 messages per second for one hour."""
    return _by_rate("steady", HOUR, lambda _: 50.0, 0.05)


def bursty() -> Traffic:
    """Return a pattern with 3,000 messages every ten minutes and none in between."""
    return Traffic("bursty", 2 * HOUR, lambda: (_burst(now) for now in itertools.count()))


def _burst(now: int) -> list[Message]:
    return [Message(now, 0.05) for _ in range(3000)] if now % 600 == 60 else []


def daily() -> Traffic:
    """Return a day with almost no messages at night and 40 per second at noon."""
    return _by_rate("daily", 24 * HOUR, lambda now: 20 - 20 * math.cos(2 * math.pi * now / (24 * HOUR)), 0.1)


def recorded() -> Traffic:
    """Return a recorded day. Each request becomes ten messages that take one second."""
    counts = [int(line) for line in RECORDED.read_text().split()]
    return _by_rate("recorded", 24 * HOUR, lambda now: 10 * counts[now // FIVE_MINUTES] / FIVE_MINUTES, 1.0)


def poison() -> Traffic:
    """Return half an hour with 20 messages per second, of which 1 % fail until they are dead-lettered."""
    return _by_rate("poison", HOUR // 2, lambda _: 20.0, 0.05, poison_ratio=0.01)


def slow() -> Traffic:
    """Return a pattern with one message every 20 minutes. Its handler takes more than six minutes."""
    return Traffic(
        "slow handler",
        2 * HOUR,
        lambda: ([Message(now, 400.0)] if now % 1200 == 30 else [] for now in itertools.count()),
    )


ALL_TRAFFIC = (steady, bursty, daily, recorded, poison, slow)


def _by_rate(
    name: str, seconds: int, rate: Callable[[int], float], work_seconds: float, poison_ratio: float = 0.0
) -> Traffic:
    def arrivals() -> Iterator[list[Message]]:
        rng = random.Random(name)
        for now in range(seconds):
            yield [Message(now, work_seconds, rng.random() < poison_ratio) for _ in range(_poisson(rng, rate(now)))]

    return Traffic(name, seconds, arrivals)


def _poisson(rng: random.Random, mean: float) -> int:
    """Return a Poisson-distributed number."""
    limit, product, number = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        number += 1
    return number
