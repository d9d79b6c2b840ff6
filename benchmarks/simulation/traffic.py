"""What arrives when, and how long it takes to handle. Each is the same at every call: the dice are seeded."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

RECORDED = Path(__file__).parent / "requests_in_five_minutes.txt"
"""288 counts of requests at a load balancer of AWS in five minutes, from 10 April 2014: `elb_request_count_8c0756.csv`
of the Numenta Anomaly Benchmark (MIT, github.com/numenta/NAB)."""
FIVE_MINUTES = 300
HOUR = 3600


@dataclass
class Message:
    """An entry."""

    added: int
    """The second in which it was added."""
    work_seconds: float
    is_poison: bool = False
    """Fails at every attempt."""
    attempts: int = 0
    left_seconds: float = 0.0
    """Of the attempt that runs."""


@dataclass(frozen=True)
class Traffic:
    """A story."""

    name: str
    seconds: int
    arrivals: Callable[[], Iterator[list[Message]]]
    """What is added in each second, from the first on."""
    max_deliveries: int = 10
    drain_seconds: int = 25


def steady() -> Traffic:
    """Fifty a second for an hour."""
    return _by_rate("steady", HOUR, lambda _: 50.0, 0.05)


def bursty() -> Traffic:
    """Nothing, and every ten minutes three thousand at once."""
    return Traffic("bursty", 2 * HOUR, lambda: (_burst(now) for now in itertools.count()))


def _burst(now: int) -> list[Message]:
    return [Message(now, 0.05) for _ in range(3000)] if now % 600 == 60 else []


def daily() -> Traffic:
    """A day from next to nothing at night to forty a second at noon."""
    return _by_rate("daily", 24 * HOUR, lambda now: 20 - 20 * math.cos(2 * math.pi * now / (24 * HOUR)), 0.1)


def recorded() -> Traffic:
    """A real day, every request ten messages of a second's work."""
    counts = [int(line) for line in RECORDED.read_text().split()]
    return _by_rate("recorded", 24 * HOUR, lambda now: 10 * counts[now // FIVE_MINUTES] / FIVE_MINUTES, 1.0)


def poison() -> Traffic:
    """Twenty a second for half an hour, and one in a hundred fails until it is a dead letter."""
    return _by_rate("poison", HOUR // 2, lambda _: 20.0, 0.05, poison_ratio=0.01)


def slow() -> Traffic:
    """One message every twenty minutes, which takes more than six."""
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
        dice = random.Random(name)
        for now in range(seconds):
            yield [Message(now, work_seconds, dice.random() < poison_ratio) for _ in range(_poisson(dice, rate(now)))]

    return Traffic(name, seconds, arrivals)


def _poisson(dice: random.Random, mean: float) -> int:
    """How many of something that comes `mean` times in the middle."""
    limit, product, number = math.exp(-mean), dice.random(), 0
    while product > limit:
        product *= dice.random()
        number += 1
    return number
