"""A network that cuts, delays, halves and swallows, at every command that a processor sends: it loses nothing."""

import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.redis_servers import RedisServer
from tests.reliability.proxy import NetworkFault, Proxy, SingleFault
from tests.reliability.trial import Scenario

NewTrial = Callable[..., Scenario]
AT_ONCE = 12
SAMPLE = 12
LATER = 3

Mishap = tuple[str, NetworkFault, int]
"""A command, what happens to it, at which occurrence."""


def recorded(new_trial: NewTrial, server: RedisServer) -> list[Mishap]:
    """Everything that can happen to any command of a trial."""
    trial = new_trial()
    with Proxy(server.host, server.port) as proxy:
        course(trial, proxy)
        seen = dict(proxy.command_counts)
    return [
        (label, harm, occurrence)
        for label, times in seen.items()
        for occurrence in (1, LATER)
        if times >= occurrence
        for harm in NetworkFault
    ]


def course(trial: Scenario, proxy: Proxy) -> None:
    """One pod goes through all, and another one finishes what it hands back."""
    trial.add_backlog()
    victim = trial.start_pod("pod-a", proxy.url)
    trial.run_until_drained(victim)
    trial.start_pod("pod-b")
    trial.wait_settled()


def survive(trial: Scenario, server: RedisServer, mishap: Mishap) -> bool:
    """Whether the mishap happened at all."""
    once = SingleFault(*mishap)
    with Proxy(server.host, server.port, once) as proxy:
        course(trial, proxy)
    return once.is_done


def all_survived(new_trial: NewTrial, server: RedisServer, mishaps: Iterable[Mishap]) -> int:
    """How many of them happened. Raises AssertionError if one did harm."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {mishap: pool.submit(survive, new_trial(), server, mishap) for mishap in mishaps}
    wrong = [f"{mishap}: {future.exception()}" for mishap, future in futures.items() if future.exception()]
    assert not wrong, "\n\n".join(wrong)
    return sum(future.result() for future in futures.values())


def test_a_sample_of_what_networks_do_to_commands_loses_nothing(new_trial: NewTrial, redis_server: RedisServer) -> None:
    quick = [each for each in recorded(new_trial, redis_server) if each[1] is not NetworkFault.BLACK_HOLE]
    assert all_survived(new_trial, redis_server, random.Random().sample(quick, SAMPLE)) > SAMPLE // 2


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_nothing_that_networks_do_to_a_command_loses_anything(new_trial: NewTrial, redis_server: RedisServer) -> None:
    mishaps = recorded(new_trial, redis_server)
    happened = all_survived(new_trial, redis_server, mishaps)
    print(f"{len({label for label, _, _ in mishaps})} commands, {len(mishaps)} mishaps, {happened} happened")
