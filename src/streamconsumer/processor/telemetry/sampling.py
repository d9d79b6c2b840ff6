"""Sampling decision: whether a span is recorded. The decision depends only on ids and flags, so that the sampler can
make the decision before any attribute is built.

The module implements the samplers of OTEL_TRACES_SAMPLER. The decisions are the same as in the SDK, which takes ten
times as long. A ratio is compared with the lower half of the trace id.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple, Self

log = logging.getLogger(__name__)

_ALL = 1 << 64
_ROOTS = {"always_on": _ALL, "always_off": 0}


class Sampler(NamedTuple):
    """Sampler with a ratio for traces that start in this process. The decision of a remote parent can take precedence
    over the ratio."""

    bound: int = _ALL
    """Sampling ratio as an integer bound: a trace is sampled if the lower half of the trace id is less than this
    number."""

    follows_parent: bool = True
    """True if the sampled flag of a parent takes precedence over the ratio."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG.

        As in the SDK, an unknown value is ignored, and a warning is logged.
        """
        name = (environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on").lower()
        root = name.removeprefix("parentbased_")
        follows = root != name
        if root in _ROOTS:
            return cls(_ROOTS[root], follows)
        if root != "traceidratio":
            log.warning("unsupported OTEL_TRACES_SAMPLER; sampling all traces", extra={"value": name})
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
        """True if the ratio is 0, so that a span can be sampled only if the producer has sampled its trace."""
        return self.bound == 0
