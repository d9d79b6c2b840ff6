"""The sums and the report of `make bench`; what it measures is not judged here."""

from pathlib import Path

from benchmarks.figures import percentile, ratio
from benchmarks.results import Goal, Section, write_section
from benchmarks.workloads.lost_group import counts

PROSE = """# How fast it is

before
<!-- begin idle -->
old
<!-- end idle -->
after
"""


def section(name: str, cell: str) -> Section:
    return Section(name, "one round.", ["who"], [[cell]])


def test_a_table_replaces_the_old_one_and_the_prose_around_it_stays(tmp_path: Path) -> None:
    report = tmp_path / "RESULTS.md"
    report.write_text(PROSE)
    write_section(section("idle", "pod"), report)
    written = report.read_text()
    assert "old" not in written
    assert "| who |\n| --- |\n| pod |" in written
    assert written.startswith("# How fast it is\n\nbefore\n<!-- begin idle -->\n")
    assert written.endswith("\n<!-- end idle -->\nafter\n")


def test_writing_the_same_twice_changes_nothing(tmp_path: Path) -> None:
    report = tmp_path / "RESULTS.md"
    report.write_text(PROSE)
    write_section(section("idle", "pod"), report)
    once = report.read_text()
    write_section(section("idle", "pod"), report)
    assert report.read_text() == once


def test_a_workload_without_a_place_gets_one_at_the_end(tmp_path: Path) -> None:
    report = tmp_path / "RESULTS.md"
    report.write_text(PROSE)
    write_section(section("stop", "pod"), report)
    assert report.read_text().startswith(PROSE)
    assert report.read_text().endswith("| pod |\n<!-- end stop -->\n")


def test_a_goal_is_judged_as_it_is_printed() -> None:
    assert Goal("commands", "at most", 0.02, 0.02004, 3).is_met
    assert not Goal("commands", "at most", 0.02, 0.0206, 3).is_met
    assert Goal("ratio", "at least", 0.8, 0.8).is_met
    assert not Goal("delay", "under", 2, 2.0).is_met


def test_a_ratio_is_taken_within_each_round() -> None:
    """In the second round everybody ran at half the speed; the medians of the two alone would say 0.9."""
    assert ratio([100, 50, 90], [200, 100, 100]) == 0.5


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)
    assert percentile([7.0], 99) == 7


IDS = {"1-0", "2-0"}
FIRST_POD = "event 1.0 begun 1-0\nevent 1.1 ended 1-0\nevent 1.2 begun 2-0\nother output\n"


def test_a_message_that_starts_after_it_ended_counts_as_run_again() -> None:
    found = counts([FIRST_POD, "event 1.3 begun 1-0\nevent 1.4 ended 1-0\n"], IDS, None)
    assert (found["again"], found["twice"], found["lost"]) == (1, 0, 1)


def test_a_message_that_starts_while_a_peer_runs_it_counts_as_run_in_two_pods() -> None:
    found = counts([FIRST_POD + "event 1.4 cancelled 2-0\n", "event 1.3 begun 2-0\nevent 1.5 ended 2-0\n"], IDS, None)
    assert (found["again"], found["twice"], found["cancelled"], found["lost"]) == (0, 1, 1, 0)


def test_a_message_of_a_killed_pod_runs_in_no_pod() -> None:
    found = counts([FIRST_POD, "event 1.4 begun 2-0\n"], IDS, 1.3)
    assert (found["again"], found["twice"], found["cancelled"], found["lost"]) == (0, 0, 0, 1)
