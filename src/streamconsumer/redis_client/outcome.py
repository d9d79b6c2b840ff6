"""Outcomes of the scripts that start or settle an entry."""

from enum import StrEnum
from typing import Any

from streamconsumer.redis_client import replies


class Outcome(StrEnum):
    """Outcome of a script for one entry."""

    DONE = "done"
    """The script made the change, or an earlier call whose reply was lost had already made the change."""

    LOST = "lost"
    """Another consumer owns the entry, or has settled it."""

    TRIMMED = "trimmed"
    """The stream no longer contains the entry, so that the entry cannot become pending again."""


_OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}


def parse_outcome(reply: Any, subject: str) -> Outcome:
    """Parse the outcome that a script returned."""
    return _OUTCOMES[replies.one_of(reply, subject, tuple(_OUTCOMES))]
