"""Runs mutants in forked processes: each process changes its loaded code, and runs tests and then seeds.

A slot is a process that runs one mutant after another, each in a child process of its own.
"""

import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants import targets
from tests.mutants.mutant import Mutant
from tests.mutants.reach import Unit
from tests.mutants.units import run_seeds, run_tests

MUTANT_SECONDS = 10.0
"""Maximum time for one mutant on a machine without other load."""

SEED_SECONDS, TEST_SECONDS = 3.0, 4.5
"""Sum of the usual durations of the seeds that run for one mutant, and of its tests."""

HANG_SHARE, HANG_FACTOR = 0.3, 10.0
"""A mutant whose time is over is caught if its last unit has run for this share of the time, and `HANG_FACTOR` times as
long as without a mutant. Otherwise the machine was slow, and the mutant counts as a survivor."""


@dataclass(frozen=True)
class Verdict:
    """Whether a mutant was caught."""

    is_caught: bool
    reason: str
    """The unit that failed and why, or why the mutant survived."""
    seconds: float


Work = tuple[Mutant | None, Sequence[Unit]]
"""A mutant and the units that may notice it. A control has no mutant, and must survive."""


def plan(mutant: Mutant, units: Iterable[Unit]) -> list[Unit]:
    """Return the units that may notice a mutant, in the order in which they run: tests, then seeds.

    Tests in the test module of the mutated module, or of scripts, come before others, and short units before long ones.
    """
    own_tests = "scripts.py" if mutant.is_script else f"test_{Path(mutant.path).stem}.py"
    reaching = [unit for unit in units if unit.reached & mutant.reached_by]
    seeds = sorted((unit for unit in reaching if unit.seed is not None), key=lambda unit: unit.seconds)
    tests = sorted(
        (unit for unit in reaching if unit.seed is None), key=lambda unit: (own_tests not in unit.name, unit.seconds)
    )
    return [*_within(TEST_SECONDS, tests), *_within(SEED_SECONDS, seeds)]


def _within(seconds: float, units: Sequence[Unit]) -> Iterator[Unit]:
    for unit in units:
        if unit.seconds <= seconds:
            seconds -= unit.seconds
            yield unit


def run(
    work: Sequence[Work], *, slots: int, should_stop: Callable[[int], bool], limit: float = MUTANT_SECONDS
) -> Iterator[tuple[int, Verdict]]:
    """Run mutants, each for at most `limit` seconds. Yields the number of each mutant in `work`, and its verdict.

    `should_stop` is called with the number of started mutants. After it returns True, no further mutant is started.
    """
    read_end, write_end = os.pipe()
    pids = []
    for slot in range(slots):
        if (pid := os.fork()) == 0:
            os.close(read_end)
            for index in range(slot, len(work), slots):
                if should_stop(index):
                    break
                os.write(write_end, json.dumps([index, *vars(run_one(*work[index], limit)).values()]).encode() + b"\n")
            os._exit(0)
        pids.append(pid)
    os.close(write_end)
    with os.fdopen(read_end) as lines:
        for line in lines:
            index, *values = json.loads(line)
            yield index, Verdict(*values)
    for pid in pids:
        os.waitpid(pid, 0)


def run_one(mutant: Mutant | None, units: Sequence[Unit], limit: float = MUTANT_SECONDS) -> Verdict:
    """Run one mutant in a child process."""
    begin = time.monotonic()
    if not units:
        return Verdict(is_caught=False, reason="no seed or test reaches the code", seconds=0.0)
    folder = tempfile.mkdtemp(prefix="mutant-")
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read_end)
        _child(mutant, units, folder, write_end)
    os.close(write_end)
    try:
        is_caught, reason = _watch(read_end, units, begin, limit)
    finally:
        os.close(read_end)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)
    return Verdict(is_caught, reason, round(time.monotonic() - begin, 2))


def _watch(pipe: int, units: Sequence[Unit], begin: float, limit: float) -> tuple[bool, str]:
    """Read what the child reports, until it has a verdict, has ended, or its time is over."""
    unit, unit_begin, buffer = "", time.monotonic(), b""
    while True:
        readable, _, _ = select.select([pipe], [], [], max(0.0, begin + limit - time.monotonic()))
        if not readable:
            usual = next((each.seconds for each in units if each.name == unit), 0.0)
            ran = time.monotonic() - unit_begin
            if ran > max(HANG_SHARE * limit, HANG_FACTOR * usual):
                return True, f"{unit}: no end after {ran:.1f} s"
            return False, f"the time was over after {ran:.1f} s of {unit}"
        data = os.read(pipe, 65_536)
        if not data:
            return True, f"{unit}: the process ended"
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            kind, text = json.loads(line)
            if kind != "unit":
                return kind == "caught", text
            unit, unit_begin = text, time.monotonic()


def _child(mutant: Mutant | None, units: Sequence[Unit], folder: str, pipe: int) -> None:
    """Run the units of one mutant, and end this process."""

    def report(kind: str, text: str) -> None:
        os.write(pipe, json.dumps([kind, text[:1000]]).encode() + b"\n")

    os.setsid()
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    output = os.open(Path(folder) / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        if mutant is not None:
            targets.apply(mutant)
        seeds = [unit.seed for unit in units if unit.seed is not None]
        failure = run_tests([unit.name for unit in units if unit.seed is None], lambda unit: report("unit", unit))
        if failure is None:
            failure = run_seeds(seeds, lambda unit: report("unit", unit))
        if failure is None:
            report("survived", f"{len(seeds)} seeds and {len(units) - len(seeds)} tests passed")
        else:
            report("caught", f"{failure.unit}: {failure.reason}")
    except BaseException as error:  # noqa: BLE001 - the mutant may raise anything
        report("caught", f"raised {error!r}")
    finally:
        os._exit(0)
