"""Whether a span is wanted, from ids and flags alone: before an attribute is built for it.

What OTEL_TRACES_SAMPLER names, decided as the SDK decides it, which takes ten times as long: the ratio looks at the
lower half of the trace id.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple, Self

log = logging.getLogger(__name__)

_ALL = 1 << 64
_ROOTS = {"always_on": _ALL, "always_off": 0}


class Sampler(NamedTuple):
    """What becomes of a trace that begins here, and whether whoever began one elsewhere has decided."""

    bound: int = _ALL
    """Trace ids whose lower half is below are sampled."""

    follows_parent: bool = True

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Like the SDK: what is not known counts as its default, with a warning."""
        name = (environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on").lower()
        root = name.removeprefix("parentbased_")
        follows = root != name
        if root in _ROOTS:
            return cls(_ROOTS[root], follows)
        if root != "traceidratio":
            log.warning("OTEL_TRACES_SAMPLER is not known here; everything is sampled", extra={"found": name})
            return cls()
        given = environ.get("OTEL_TRACES_SAMPLER_ARG", "1")
        try:
            ratio = float(given)
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            log.warning("OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1; 1 is taken", extra={"found": given})
            ratio = 1.0
        return cls(round(ratio * _ALL), follows)

    def should_sample(self, trace_id: bytes, parent_sampled: bool | None) -> bool:
        """`parent_sampled` is None where there is no parent."""
        if parent_sampled is not None and self.follows_parent:
            return parent_sampled
        return int.from_bytes(trace_id[8:], "big") < self.bound

    @property
    def never_samples(self) -> bool:
        """Whether nothing is sampled but what somebody else has sampled."""
        return self.bound == 0
