"""Network faults at every command that a processor sends: cuts, delays, split data and black holes lose nothing."""

import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.redis_servers import RedisServer
from tests.reliability.proxy import NetworkFault, Proxy, SingleFault
from tests.reliability.scenario import Scenario

NewScenario = Callable[..., Scenario]
CONCURRENCY = 12
SAMPLE = 12
LATER_OCCURRENCE = 3

CommandFault = tuple[str, NetworkFault, int]
"""Label of a command, fault, and number of the occurrence."""


def record_command_faults(new_scenario: NewScenario, server: RedisServer) -> list[CommandFault]:
    """Run a scenario without a fault. Returns every fault that is possible at its commands."""
    scenario = new_scenario()
    with Proxy(server.host, server.port) as proxy:
        run_scenario(scenario, proxy)
        counts = dict(proxy.command_counts)
    return [
        (label, fault, occurrence)
        for label, times in counts.items()
        for occurrence in (1, LATER_OCCURRENCE)
        if times >= occurrence
        for fault in NetworkFault
    ]


def run_scenario(scenario: Scenario, proxy: Proxy) -> None:
    """Run the events with one pod. Another pod finishes the released entries."""
    scenario.add_backlog()
    victim = scenario.start_pod("pod-a", proxy.url)
    scenario.run_until_drained(victim)
    scenario.start_pod("pod-b")
    scenario.wait_settled()


def run_with_fault(scenario: Scenario, server: RedisServer, case: CommandFault) -> bool:
    """Run a scenario with one fault. Returns whether the fault happened."""
    plan = SingleFault(*case)
    with Proxy(server.host, server.port, plan) as proxy:
        run_scenario(scenario, proxy)
    return plan.is_done


def run_faults(new_scenario: NewScenario, server: RedisServer, cases: Iterable[CommandFault]) -> int:
    """Run a scenario with each fault. Returns the number that happened. Raises AssertionError if a scenario failed."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        futures = {case: pool.submit(run_with_fault, new_scenario(), server, case) for case in cases}
    errors = [f"{case}: {future.exception()}" for case, future in futures.items() if future.exception()]
    assert not errors, "\n\n".join(errors)
    return sum(future.result() for future in futures.values())


def test_sampled_network_faults_lose_nothing(new_scenario: NewScenario, redis_server: RedisServer) -> None:
    quick = [
        each for each in record_command_faults(new_scenario, redis_server) if each[1] is not NetworkFault.BLACK_HOLE
    ]
    assert run_faults(new_scenario, redis_server, random.Random().sample(quick, SAMPLE)) > SAMPLE // 2


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_all_network_faults_lose_nothing(new_scenario: NewScenario, redis_server: RedisServer) -> None:
    cases = record_command_faults(new_scenario, redis_server)
    happened = run_faults(new_scenario, redis_server, cases)
    print(f"{len({label for label, _, _ in cases})} commands, {len(cases)} faults, {happened} happened")
