"""The rooms, the one way the arrows go, and how long anything may get."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "streamconsumer"

HERE = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}

LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
"""The house's limits, in lines: what one can hold in one's head. A file that outgrows them holds two things."""


def test_every_arrow_goes_the_right_way() -> None:
    """The contracts of import-linter in pyproject.toml, kept by what is imported now."""
    program = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run(
        [program, "--no-cache", "--no-logo"], cwd=ROOT, env=HERE, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " 0 broken." in ran.stdout


CLUSTER = ("kopf", "kubernetes", "aiohttp")
POD = ("redis", "opentelemetry")


@pytest.mark.parametrize(
    ("room", "strangers"),
    [
        ("streamconsumer", (*CLUSTER, *POD, "click", "pydantic")),
        ("streamconsumer.model.crd", (*CLUSTER, *POD, "click", "asyncio")),
        ("streamconsumer.cli", (*CLUSTER, *POD)),
        ("streamconsumer.cli.cluster", (*CLUSTER, *POD)),
        ("streamconsumer.cli.cluster.findings", (*CLUSTER, *POD)),
        ("streamconsumer.cli.cluster.work", ("kopf", "rich")),
        ("streamconsumer.cli.doctor.findings", (*CLUSTER, *POD)),
        ("streamconsumer.cli.doctor.pod", ("kopf", "kubernetes", "rich")),
        ("streamconsumer.cli.report.redact", (*CLUSTER, *POD)),
        ("streamconsumer.cli.report.documents", (*CLUSTER, *POD)),
        ("streamconsumer.cli.report.collect", ("kopf", "rich")),
        ("streamconsumer.cli.render", (*CLUSTER, *POD)),
        ("streamconsumer.cli.dead_letters", (*CLUSTER, *POD)),
        ("streamconsumer.cli.dead_letters.work", (*CLUSTER, "rich")),
        ("streamconsumer.cli.group", (*CLUSTER, *POD)),
        ("streamconsumer.cli.group.work", (*CLUSTER, "rich")),
        ("streamconsumer.processor", CLUSTER),
        ("streamconsumer.processor.main", CLUSTER),
        ("streamconsumer.operator", (*CLUSTER, *POD)),
        ("streamconsumer.operator.manifests", (*CLUSTER, *POD)),
        ("streamconsumer.operator.cluster", POD),
        ("streamconsumer.server.keys", (*CLUSTER, *POD)),
        ("streamconsumer.server.topology", CLUSTER),
    ],
)
def test_a_room_loads_only_what_it_needs(room: str, strangers: tuple[str, ...]) -> None:
    """A pod starts without kopf and kubernetes installed, and what needs no redis does without it."""
    program = f"import sys, {room}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", program], env=HERE, capture_output=True, text=True, check=True)
    assert not set(strangers) & set(ran.stdout.split())


MODULES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_at_most_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= LONGEST_MODULE


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """The name and the length of every function of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("module", MODULES)
def test_a_function_has_at_most_60_lines(module: str) -> None:
    assert {name: length for name, length in functions(MODULES[module]) if length > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))
