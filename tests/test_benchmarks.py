"""Statistics and report of `make bench`. The measured values are not checked."""

from pathlib import Path

from benchmarks.figures import percentile, ratio
from benchmarks.results import Goal, Section, write_section
from benchmarks.workloads.lost_group import count_events

REPORT = """# Benchmark results

before
<!-- begin idle -->
old
<!-- end idle -->
after
"""


def section(name: str, cell: str) -> Section:
    return Section(name, "one round.", ["contender"], [[cell]])


def test_write_section_replaces_the_table_and_keeps_the_text_around_it(tmp_path: Path) -> None:
    report = tmp_path / "RESULTS.md"
    report.write_text(REPORT)
    write_section(section("idle", "pod"), report)
    written = report.read_text()
    assert "old" not in written
    assert "| contender |\n| --- |\n| pod |" in written
    assert written.startswith("# Benchmark results\n\nbefore\n<!-- begin idle -->\n")
    assert written.endswith("\n<!-- end idle -->\nafter\n")


def test_write_section_is_idempotent(tmp_path: Path) -> None:
    report = tmp_path / "RESULTS.md"
    report.write_text(REPORT)
    write_section(section("idle", "pod"), report)
    first = report.read_text()
    write_section(section("idle", "pod"), report)
    assert report.read_text() == first


def test_write_section_appends_markers_when_the_report_has_none(tmp_path: Path) -> None:
    report = tmp_path / "RESULTS.md"
    report.write_text(REPORT)
    write_section(section("stop", "pod"), report)
    assert report.read_text().startswith(REPORT)
    assert report.read_text().endswith("| pod |\n<!-- end stop -->\n")


def test_goal_is_checked_with_the_printed_digits() -> None:
    assert Goal("commands", "at most", 0.02, 0.02004, 3).is_met
    assert not Goal("commands", "at most", 0.02, 0.0206, 3).is_met
    assert Goal("ratio", "at least", 0.8, 0.8).is_met
    assert not Goal("delay", "under", 2, 2.0).is_met


def test_ratio_is_taken_within_each_round() -> None:
    """In the second round all contenders ran at half the speed. The ratio of the medians would be 0.9."""
    assert ratio([100, 50, 90], [200, 100, 100]) == 0.5


def test_percentile_is_a_measured_value() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)
    assert percentile([7.0], 99) == 7


IDS = {"1-0", "2-0"}
FIRST_POD = "event 1.0 started 1-0\nevent 1.1 ended 1-0\nevent 1.2 started 2-0\nother output\n"


def test_message_counts_as_run_again_when_it_starts_after_its_end() -> None:
    totals = count_events([FIRST_POD, "event 1.3 started 1-0\nevent 1.4 ended 1-0\n"], IDS, None)
    assert (totals["again"], totals["twice"], totals["lost"]) == (1, 0, 1)


def test_message_counts_as_run_in_two_pods_when_both_run_it() -> None:
    totals = count_events(
        [FIRST_POD + "event 1.4 cancelled 2-0\n", "event 1.3 started 2-0\nevent 1.5 ended 2-0\n"], IDS, None
    )
    assert (totals["again"], totals["twice"], totals["cancelled"], totals["lost"]) == (0, 1, 1, 0)


def test_message_of_a_killed_pod_does_not_count_as_running() -> None:
    totals = count_events([FIRST_POD, "event 1.4 started 2-0\n"], IDS, 1.3)
    assert (totals["again"], totals["twice"], totals["cancelled"], totals["lost"]) == (0, 0, 0, 1)
