"""A few seconds of what `make chaos` does for as long as it is told."""

import random
from pathlib import Path

from tests.reliability.chaos import run


def test_after_a_few_seconds_of_chaos_the_books_balance(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chaos, accounts = run(1000, 3, seed, tmp_path)
    assert chaos.faults.total() > 20
    assert all(account.acknowledged for account in accounts)
