"""Statistics of noisy measurements: medians with minimum and maximum, and ratios within one round."""

import statistics
from collections.abc import Sequence


def median(values: Sequence[float], digits: int = 0) -> str:
    """Format the median. Several values add the minimum and the maximum in brackets."""
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) < 2 else f"{text} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratio(values: Sequence[float], references: Sequence[float]) -> float:
    """Return the median of the ratios of all rounds. A slow minute affects both values of a round and cancels out."""
    return statistics.median(a / b for a, b in zip(values, references, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is at least as large as `percent` percent of all values."""
    ranked = sorted(values)
    return ranked[max(0, -int(-len(ranked) * percent // 100) - 1)]


def rounds_text(number: int) -> str:
    """Describe the number of rounds."""
    return "one round" if number == 1 else f"{number} interleaved rounds; medians, with minimum and maximum in brackets"
