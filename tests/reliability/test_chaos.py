"""A few seconds of the chaos test of `make chaos`."""

import random
from pathlib import Path

from tests.reliability.chaos import run


def test_ledgers_balance_after_a_few_seconds_of_chaos(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chaos, accounts = run(1000, 3, seed, tmp_path)
    assert chaos.faults.total() > 20
    assert all(account.acknowledged for account in accounts)
