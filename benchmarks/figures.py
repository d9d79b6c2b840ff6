"""The sums. Machines are noisy: medians, the least and the most beside them, and ratios taken within a round."""

import statistics
from collections.abc import Sequence


def median(values: Sequence[float], digits: int = 0) -> str:
    """The median; in brackets the least and the most, where there are several."""
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) < 2 else f"{text} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios: what one round has in common, such as a slow minute, falls out."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that so many percent of all do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -int(-len(ranked) * percent // 100) - 1)]


def rounds_text(number: int) -> str:
    """How often everybody ran."""
    return "one round" if number == 1 else f"{number} interleaved rounds; medians, with minimum and maximum in brackets"
