"""Programs of the test bench: where they are found, how they are built, and which tests can use them."""

import re
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.cluster.__main__ import main as commands
from tests.cluster.errors import MissingTool

pytest_plugins = ["pytester"]

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def program_that_says(folder: Path, name: str, said: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without programs, and no KUBEBUILDER_ASSETS."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "said", "taken"),
    [
        ("etcd", "etcd Version: 3.4.23", False),
        ("etcd", "etcd Version: 3.6.1", True),
        ("kubectl", "Client Version: v1.32.4", False),
        ("kubectl", "Client Version: v1.37.0", True),
        ("kube-apiserver", "Kubernetes v1.37.9", True),
        ("helm3", "v4.3.1+g1", False),
    ],
)
@pytest.mark.usefixtures("empty_cache")
def test_a_program_on_path_is_used_only_in_the_pinned_minor_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str, taken: bool
) -> None:
    binary = binaries.BINARIES[name]
    program = program_that_says(tmp_path, binary.program or name, said)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert binaries.locate(binary) == (program if taken else None)


def test_kubebuilder_assets_take_precedence_over_path_and_cache(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd = binaries.BINARIES["etcd"]
    etcd.cached.parent.mkdir(parents=True)
    etcd.cached.touch()
    assert binaries.locate(etcd) == etcd.cached
    (tmp_path / "path").mkdir()
    on_path = program_that_says(tmp_path / "path", "etcd", "etcd Version: 3.6.1")
    monkeypatch.setenv("PATH", str(tmp_path / "path"), prepend=":")
    assert binaries.locate(etcd) == on_path
    named = program_that_says(tmp_path, "etcd", "etcd Version: 3.4.0")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert binaries.locate(etcd) == named


def test_a_missing_folder_of_kubebuilder_assets_is_an_error(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the error, a typing mistake would cost a build of a quarter of an hour."""
    monkeypatch.setenv("KUBEBUILDER_ASSETS", "~/envtest")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert commands(["build", "etcd"]) == 1
    assert "KUBEBUILDER_ASSETS=~/envtest: found no such folder" in capsys.readouterr().err


def test_without_go_the_error_names_the_package_to_install(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="install Go"):
        binaries.build_missing(["etcd"])


def fake_go(folder: Path, script: str) -> None:
    """Put a `go` into the folder that runs this shell script instead of a compiler."""
    go = folder / "go"
    go.write_text(f"#!/bin/sh\n{script}\n")
    go.chmod(0o755)


BUILDS = 'while [ "$1" != -o ]; do shift; done; echo program > "$2"'


def test_builds_show_their_number_and_the_time_they_took(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, BUILDS)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    lines: list[str] = []
    binaries.build_missing(["etcd", "helm", "etcd"], lines.append)
    assert [line.partition(" v")[0].partition(": ")[0] for line in lines[1:]] == [
        "[1/2] etcd",
        "[1/2] etcd",
        "[2/2] helm",
        "[2/2] helm",
    ]
    assert lines[-1].startswith("[2/2] helm: built in 0 s")
    assert binaries.BINARIES["helm"].cached.read_text() == "program\n"
    binaries.build_missing(["etcd", "helm"], lines.append)
    assert len(lines) == 5, "nothing is built twice"


def test_a_build_is_for_this_machine_whatever_the_shell_cross_compiles_for(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, f'test -z "$GOOS$GOARCH$GOFLAGS" || exit 1; {BUILDS}')
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    for name, foreign in {"GOOS": "darwin", "GOARCH": "arm64", "GOFLAGS": "-mod=vendor"}.items():
        monkeypatch.setenv(name, foreign)
    assert binaries.build(binaries.BINARIES["pause"]).exists()


def test_a_failed_build_is_reported_with_the_end_of_its_output(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_go(tmp_path, "seq 1000; echo undefined: Etcd >&2; exit 2")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert commands(["build", "etcd"]) == 1
    output = capsys.readouterr().err
    assert "build error: etcd v3" in output
    assert output.endswith("\n1000\nundefined: Etcd\n")
    assert "\n900\n" not in output
    assert not list(binaries.BINARIES["etcd"].cached.parent.glob("*etcd.[0-9]*")), "no unfinished program remains"


def test_an_unknown_program_cannot_be_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands(["build", "etcdd"]) == 1
    assert "found no program etcdd" in capsys.readouterr().err


def test_the_readme_names_only_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("build", "up"):
        with pytest.raises(SystemExit):
            commands([command, "--help"])
    pytests_own = {"--dist"}
    named = set(re.findall(r"`(--[a-z-]+)", (Path(__file__).parent / "README.md").read_text()))
    assert named - pytests_own - set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) == set()


# -- markers -----------------------------------------------------------------------------------------------------------


LACKS_A_TOOL = """
from tests.cluster.errors import MissingTool
def test_needing_a_tool():
    raise MissingTool("a screwdriver is needed: buy one")
"""


def run_tests(pytester: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    return pytester.runpytest_inprocess("-p", "tests.cluster.fixtures", "-p", "no:asyncio", *arguments)


def test_a_missing_tool_skips_loudly_on_a_developers_machine(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    ran = run_tests(pytester, LACKS_A_TOOL)
    ran.assert_outcomes(skipped=1)
    ran.stdout.fnmatch_lines(["*tests not run because a tool is missing*", "1 not run: a screwdriver*"])


def test_a_missing_tool_fails_in_ci(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    run_tests(pytester, LACKS_A_TOOL).assert_outcomes(failed=1)


@pytest.mark.parametrize("selection", re.findall(r"\$\(PYTEST\) .*-m '([^']+)'", MAKEFILE.read_text()))
def test_the_markers_of_make_are_known_to_a_single_file(pytester: pytest.Pytester, selection: str) -> None:
    ran = run_tests(pytester, "def test_passes(): pass", "--strict-markers", "-m", selection)
    ran.assert_outcomes(passed=int(selection.startswith("not")), deselected=int(not selection.startswith("not")))


FINDS_PROGRAMS = """
import pytest
from tests.cluster.binaries import find, find_installed

def test_that_finds_etcd():
    find("etcd")

def test_that_finds_promtool():
    find_installed("promtool", "prometheus")

@pytest.mark.cluster
def test_with_marker():
    find("etcd")

def test_with_fixture(kubectl):
    pass
"""


def test_only_marked_tests_find_built_programs(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program_that_says(tmp_path, "etcd", "")
    program_that_says(tmp_path, "kubectl", "")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setitem(binaries.TARGETS, "test-cluster", ("etcd",))
    binaries.forget()
    ran = run_tests(pytester, FINDS_PROGRAMS)
    binaries.forget()
    ran.assert_outcomes(failed=2, passed=2)
    ran.stdout.fnmatch_lines(["*test_that_finds_etcd needs etcd, which `make test` does not have*"])
    ran = run_tests(pytester, FINDS_PROGRAMS, "-m", "not cluster", "--collect-only", "-q")
    ran.stdout.no_fnmatch_line("*test_with_*")


def test_a_failed_build_ends_the_session_before_the_first_test(
    pytester: pytest.Pytester, tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, "echo undefined: Kubectl; exit 2")
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = run_tests(pytester, "def test_with_fixture(kubectl): pass\ndef test_without(): pass")
    assert ran.ret != pytest.ExitCode.OK
    ran.assert_outcomes()
    assert "build error: kubectl" in ran.stdout.str() + ran.stderr.str()
    assert "undefined: Kubectl" in ran.stdout.str() + ran.stderr.str()
