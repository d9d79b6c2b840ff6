"""Units that can catch a mutant: simulation seeds, and tests. Each unit passes without a mutant."""

import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.redis_servers import FLAVOURS, REDIS
from tests.simulation.real_server import RealServer
from tests.simulation.seeds import plan_of
from tests.simulation.simulation import simulate

ROOT = Path(__file__).parents[2]

TESTS = (
    *("tests/processor/consumer", "tests/processor/dead_letters", "tests/processor/pipeline"),
    *("tests/processor/test_attempt_counting.py", "tests/processor/test_interrupted_settlement.py"),
    "tests/cli/group/test_deletion.py",
    *(f"tests/redis_client/test_{name}.py" for name in ("entry_state", "lua", "recreated_group", "scripts")),
    *(f"tests/redis_client/test_{name}_scripts.py" for name in ("entry", "claim", "group", "consumer")),
)
"""Tests of the mutated modules and scripts. Tests that run pods as processes are too slow."""

MARKERS = "not cluster and not slow and not e2e and not chaos"

OnUnit = Callable[[str], object]
"""Called with the name of each unit before the unit runs."""


@dataclass(frozen=True)
class Failure:
    """A unit that failed, and the reason."""

    unit: str
    reason: str


def run_seeds(seeds: Sequence[int], on_start: OnUnit) -> Failure | None:
    """Run simulation seeds until the first fails."""
    if not seeds:
        return None
    real = RealServer(REDIS)
    try:
        for seed in seeds:
            on_start(f"seed {seed}")
            if reason := seed_failure(seed, real):
                return Failure(f"seed {seed}", reason)
    finally:
        real.control.close()  # pytest reports a connection that is open when its object is deleted
        real.stop()
    return None


def seed_failure(seed: int, real: RealServer) -> str:
    """Run a seed. Returns the reason of its failure, or an empty text for a success."""
    logging.disable(logging.CRITICAL)
    try:
        result = simulate(plan_of(str(seed)), real)
    except BaseException as error:  # noqa: BLE001 - a handler's KeyboardInterrupt may leave the loop
        return f"raised {error!r}"
    finally:
        logging.disable(logging.NOTSET)
    return "; ".join(sorted({violation.invariant for violation in result.violations}))


class TestReporter:
    """Plugin of pytest that reports the start of each test and the first failure."""

    __test__ = False

    def __init__(self, on_start: OnUnit) -> None:
        self._on_start = on_start
        self.failure: Failure | None = None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._on_start(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.failure is None:
            self.failure = Failure(report.nodeid, f"{report.when} failed")


def run_tests(node_ids: Sequence[str], on_start: OnUnit) -> Failure | None:
    """Run tests until the first fails."""
    if not node_ids:
        return None
    reporter = TestReporter(on_start)
    pytest_main([*node_ids, "--maxfail=1"], reporter)
    return reporter.failure


def pytest_main(arguments: Sequence[str], *plugins: Any) -> int:
    """Run pytest in this process."""
    with _in_root():
        options = ["-q", "-p", "no:cacheprovider", "-m", MARKERS, f"--rootdir={ROOT}"]
        with redirect_stdout(io.StringIO()):
            return int(pytest.main([*options, *arguments], plugins=plugins))


class Collector:
    """Plugin of pytest that selects each test for only one server flavour."""

    def __init__(self) -> None:
        self.node_ids: list[str] = []

    @pytest.hookimpl(trylast=True)  # after the markers have deselected tests
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_test: dict[str, pytest.Item] = {}
        for item in items:
            by_test.setdefault(_FLAVOUR.sub("", item.nodeid), item)
        items[:] = by_test.values()
        self.node_ids = [item.nodeid for item in items]


_FLAVOUR = re.compile("|".join(re.escape(flavour.name) for flavour in FLAVOURS))


def collect_tests() -> list[str]:
    """Import the tests into this process. Returns their node ids."""
    collector = Collector()
    pytest_main([*TESTS, "--collect-only"], collector)
    return collector.node_ids


@contextmanager
def _in_root() -> Iterator[None]:
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(before)
