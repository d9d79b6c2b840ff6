"""The outcomes of the operator's own applies.

An admission controller can change fields that the operator applies, for example the registry of an image. The API
server returns the stored object. The operator remembers which applied fields differ in this object. As long as the live
object has these differences and no others, another apply would change nothing.
"""

from dataclasses import dataclass, field

from streamconsumer.operator.reconcile.drift import Differences


@dataclass
class AppliedOutcomes:
    """The outcome of the last apply of each child of one StreamConsumer. `child` is the kind and the name of the child,
    and `applied_hash` identifies the applied manifest."""

    _outcomes: dict[str, tuple[str, Differences]] = field(default_factory=dict)

    def record(self, child: str, applied_hash: str, overridden: Differences) -> Differences:
        """Remember the outcome of an apply. Returns the overridden fields if the previous outcome did not have the same
        overridden fields, and otherwise an empty dict."""
        _, previous = self._outcomes.get(child, ("", {}))
        self._outcomes[child] = applied_hash, overridden
        return {} if previous.keys() == overridden.keys() else overridden

    def is_known(self, child: str, applied_hash: str) -> bool:
        """Return True if the outcome of an apply of this manifest is remembered."""
        return child in self._outcomes and self._outcomes[child][0] == applied_hash

    def is_outcome(self, child: str, applied_hash: str, found: Differences) -> bool:
        """Return True if the live object, which differs from the manifest as found, is the outcome of the last
        apply."""
        return self._outcomes.get(child) == (applied_hash, found)
