"""Number of entries that a read requests, and limits that follow from the memory of the container."""

from pathlib import Path

import pytest

from streamconsumer.processor.consumer.memory_limit import MAX_READ_BYTES, MemoryLimits, _cgroup_limits, memory_limits
from streamconsumer.processor.consumer.read_size import MAX_CLAIM_BYTES, MIN_BYTES, RESTORE_SECONDS, ReadSize

MEBIBYTE = 1024 * 1024
MAX_ENTRY_BYTES = 16 * MEBIBYTE


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def size(clock: Clock) -> ReadSize:
    return ReadSize(MemoryLimits(MAX_READ_BYTES, MAX_READ_BYTES, MAX_READ_BYTES), clock)


def test_count_doubles_after_each_full_read(size: ReadSize) -> None:
    for requested, expected in ((10, 20), (20, 40), (40, 80)):
        size.on_received(requested, 100 * requested, 1000)
        assert size.max_count == expected


def test_count_follows_the_size_of_received_entries(size: ReadSize) -> None:
    size.on_received(10, 10 * MEBIBYTE, 100)
    assert size.max_count == 20
    size.on_received(4, 64 * MEBIBYTE, 100)
    assert size.max_count == 2


def test_refused_reads_halve_the_count_down_to_one(size: ReadSize) -> None:
    counts = []
    for _ in range(6):
        size.on_refused(size.max_count)
        counts.append(size.max_count)
    assert counts == [5, 2, 1, 1, 1, 1]
    assert size.target_bytes == MAX_READ_BYTES


def test_reads_stay_below_half_of_a_size_that_was_cut_until_the_time_is_over(size: ReadSize, clock: Clock) -> None:
    size.on_received(4, 4 * 300_000, 100)
    size.on_cut(8)
    assert size.target_bytes == 8 * 300_000 // 2
    size.on_received(4, 4 * 300_000, 100)
    assert size.max_count == 4
    clock.now += RESTORE_SECONDS + 1
    assert size.target_bytes == MAX_READ_BYTES


def test_cut_of_small_entries_is_an_outage_and_limits_no_bytes(size: ReadSize) -> None:
    size.on_received(10, 1000, 100)
    size.on_cut(10)
    assert (size.max_count, size.target_bytes) == (5, MAX_READ_BYTES)


def test_claims_shrink_to_the_minimum(size: ReadSize) -> None:
    assert size.claim_bytes == MAX_CLAIM_BYTES
    steps = 0
    while size.shrink():
        steps += 1
    assert (size.claim_bytes, steps) == (MIN_BYTES, 4)


@pytest.mark.parametrize(
    ("memory", "max_entry_bytes", "expected"),
    [(256, 16, (16, 21)), (512, 16, (32, 32)), (8192, 16, (32, 32)), (8192, 100, (32, 200)), (64, 16, (4, 5))],
)
def test_limits_follow_from_the_memory(memory: int, max_entry_bytes: int, expected: tuple[int, int]) -> None:
    limits = memory_limits(max_entry_bytes * MEBIBYTE, memory * MEBIBYTE)
    assert (limits.read_bytes // MEBIBYTE, limits.reply_bytes // MEBIBYTE) == expected


def test_an_entry_at_the_default_limit_fits_into_the_default_memory() -> None:
    assert memory_limits(MAX_ENTRY_BYTES, 256 * MEBIBYTE).reply_bytes > MAX_ENTRY_BYTES


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "268435456\n"}, [268435456]),
        ("0::/pod/container\n", {"pod/memory.max": "300\n", "pod/container/memory.max": "max\n"}, [300]),
        ("4:cpu,memory:/pod\n0::/\n", {"memory/memory.limit_in_bytes": "200\n"}, [200]),
        ("4:memory:/pod\n", {"memory/pod/memory.limit_in_bytes": "100", "memory/memory.limit_in_bytes": "9"}, [100, 9]),
        ("4:memory:/elsewhere\n", {}, []),
        ("", {}, []),
    ],
)
def test_limits_of_all_containing_groups_are_read(
    tmp_path: Path, membership: str, files: dict[str, str], expected: list[int]
) -> None:
    (tmp_path / "self").write_text(membership)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert _cgroup_limits(tmp_path / "self", tmp_path / "root") == expected
