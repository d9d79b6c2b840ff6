"""Any order of adding, reading, acknowledging, crashing, claiming, trimming, flushing, destroying, freezing and failing
over, as Hypothesis finds it, against real servers; and after each step the books are looked at.

A failing order is printed and not made smaller: the pods run in their own time, so a shorter one proves nothing.
"""

import itertools
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import RedisError, ResponseError

from tests.cluster.runs import wait_until
from tests.reliability.faults import ServerPair
from tests.reliability.ledger import DELETE, FLUSH, GROUP, TRIM, Account
from tests.reliability.nursery import ForkServer, Pod
from tests.reliability.trial import Scenario

MOST_PODS = 3
KINDS: tuple[dict[str, str], ...] = ({}, {"ms": "300"}, {"fails": "1"}, {"later": "2.1"}, {"poison": "1"})
ANY = st.integers(0, 1000)
"""Which pod or entry; the machine takes it modulo how many there are."""


class Group(RuleBasedStateMachine):
    """One group, its pods, and a stranger who reads as a member of it."""

    nursery: ClassVar[ForkServer]
    accounts: ClassVar[list[Account]] = []

    def __init__(self) -> None:
        super().__init__()
        self.world = ServerPair()
        self.trial = Scenario(self.nursery, self.world.client, self.world.proxy.url, Path(tempfile.mkdtemp()))
        self.ledger = self.trial.ledger
        self.names = (f"pod-{number}" for number in itertools.count())
        self.pods: list[Pod] = []
        self.held: dict[str, str] = {}
        """What the stranger has read and not acknowledged: ids and numbers."""

    # -- what goes right -------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.add(list(KINDS))
        self.start()
        self.start()

    @rule(more=st.integers(1, 4))
    def let_it_run(self, more: int) -> None:
        """Until something more was handled, or a moment has passed."""
        wanted = len(self.ledger.lines("done")) + more
        wait_until(lambda: len(self.ledger.lines("done")) >= wanted, 0.5)

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=8))
    def add(self, kinds: list[dict[str, str]]) -> None:
        for kind in kinds:
            self.ledger.add(self.world.client, kind, replicas=1)

    @precondition(lambda self: len(self.pods) < MOST_PODS)
    @rule()
    def start(self) -> None:
        self.pods.append(self.trial.start_pod(next(self.names)))

    @precondition(lambda self: self.pods)
    @rule(which=ANY)
    def stop(self, which: int) -> None:
        self.pods.pop(which % len(self.pods)).signal(signal.SIGTERM)

    @rule(count=st.integers(1, 5))
    def a_stranger_reads(self, count: int) -> None:
        client: Any = self.world.client
        self.take(lambda: client.xreadgroup(GROUP, "stranger", {self.trial.stream: ">"}, count)[0][1])

    @rule()
    def a_stranger_finishes(self) -> None:
        """It has handled what it holds, says so, and acknowledges."""
        with self.ledger.handled_file.open("a") as lines:
            for message_id, n in self.held.items():
                lines.write(f"done {n} {message_id} stranger 1 0\n")
        if self.held:
            self.world.client.xack(self.trial.stream, GROUP, *self.held)
        self.held = {}

    # -- what goes wrong -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.pods)
    @rule(which=ANY)
    def crash(self, which: int) -> None:
        self.pods.pop(which % len(self.pods)).remove()

    @precondition(lambda self: self.pods)
    @rule(which=ANY)
    def freeze(self, which: int) -> None:
        self.pods[which % len(self.pods)].signal(signal.SIGSTOP)

    @rule()
    def thaw(self) -> None:
        for pod in self.pods:
            pod.signal(signal.SIGCONT)

    @rule()
    def a_stranger_dies(self) -> None:
        self.held = {}

    @rule(count=st.integers(1, 3))
    def a_stranger_claims(self, count: int) -> None:
        """Whoever has them, and however shortly."""
        client, stream = self.world.client, self.trial.stream

        def claim() -> Any:
            pending: Any = client.xpending_range(stream, GROUP, "-", "+", count)
            return client.xclaim(stream, GROUP, "stranger", 0, [each["message_id"] for each in pending])

        self.take(claim)

    def take(self, ask: Any) -> None:
        """What the stranger is given, if there is a group and anything in it."""
        try:
            entries = ask()
        except (RedisError, IndexError, TypeError):
            return
        self.held.update({message_id: fields["n"] for message_id, fields in entries if fields})

    @rule(how=st.sampled_from(["trim", "delete", "delete", "flush", "destroy"]), which=ANY)
    def lose(self, how: str, which: int) -> None:
        entries: Any = self.world.client.xrange(self.trial.stream)
        if how == "destroy":
            self.ledger.destroy_group(self.world.client)
        elif how == "flush":
            self.ledger.remove(self.world.client, FLUSH)
        elif entries:
            chosen = entries[which % len(entries)][0]
            self.ledger.remove(self.world.client, TRIM if how == "trim" else DELETE, chosen)

    @rule(how=st.sampled_from([ServerPair.restart, ServerPair.promote]))
    def the_server_fails(self, how: Callable[[ServerPair], None]) -> None:
        self.world.wait_in_sync()
        how(self.world)

    # -- the books -------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_has_vanished(self) -> None:
        vanished: set[str] = set()
        try:
            vanished = self.ledger.find_lost(self.world.client)
        except ResponseError:  # there is no stream yet
            return
        assert not vanished, f"{vanished}\n{self.trial.pod_logs()}"

    def teardown(self) -> None:
        try:
            self.thaw()
            self.start()
            self.trial.client = self.world.client
            self.accounts.append(self.trial.wait_settled(60))
        finally:
            for pod in self.trial.pods:
                pod.remove()
            self.world.close()


def run_machine(nursery: ForkServer, examples: int, steps: int) -> None:
    Group.nursery = nursery
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Group, settings=chosen)


def test_in_a_few_orders_of_events_the_books_balance(nursery: ForkServer) -> None:
    run_machine(nursery, 2, 12)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_in_any_order_of_events_the_books_balance(nursery: ForkServer) -> None:
    run_machine(nursery, 40, 30)
    for account in Group.accounts:
        print(account)
