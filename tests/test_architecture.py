"""The layout of the source: import layers, file names, and the length of modules and functions."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "streamconsumer"

HERE = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
"""A file or function that outgrows its limit has two concerns."""

MAX_TOP_LEVEL = 15
"""The number of modules and packages directly in `processor` and in `operator`."""

REPEATED_NAMES = {
    "__init__.py": "the package",
    "main.py": "the start of a process: operator, processor",
    "health.py": "the HTTP probes of a process: operator, processor",
    "metrics.py": "the Prometheus metrics of a process: operator, processor",
    "run.py": "the implementation of a command",
    "facts.py": "the input of a command's findings",
    "findings.py": "the problems that a command reports",
}
"""The file names that occur more than once, each with its one meaning."""


def test_imports_follow_the_layers() -> None:
    """Runs the contracts of import-linter in pyproject.toml."""
    program = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run(
        [program, "--no-cache", "--no-logo"], cwd=ROOT, env=HERE, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " 0 broken." in ran.stdout


CLUSTER = ("kopf", "kubernetes", "aiohttp")
POD = ("redis", "opentelemetry")


@pytest.mark.parametrize(
    ("module", "excluded"),
    [
        ("streamconsumer", (*CLUSTER, *POD, "click", "pydantic")),
        ("streamconsumer.model.crd", (*CLUSTER, *POD, "click", "asyncio")),
        ("streamconsumer.cli", (*CLUSTER, *POD)),
        ("streamconsumer.cli.status", (*CLUSTER, *POD)),
        ("streamconsumer.cli.status.findings", (*CLUSTER, *POD)),
        ("streamconsumer.cli.status.run", ("kopf", "rich")),
        ("streamconsumer.cli.doctor.findings", (*CLUSTER, *POD)),
        ("streamconsumer.cli.doctor.pod_checks", ("kopf", "kubernetes", "rich")),
        ("streamconsumer.cli.report.redact", (*CLUSTER, *POD)),
        ("streamconsumer.cli.report.allow_list", (*CLUSTER, *POD)),
        ("streamconsumer.cli.report.run", ("kopf", "rich")),
        ("streamconsumer.cli.render", (*CLUSTER, *POD)),
        ("streamconsumer.cli.dead_letters", (*CLUSTER, *POD)),
        ("streamconsumer.cli.dead_letters.run", (*CLUSTER, "rich")),
        ("streamconsumer.cli.group", (*CLUSTER, *POD)),
        ("streamconsumer.cli.group.run", (*CLUSTER, "rich")),
        ("streamconsumer.processor", CLUSTER),
        ("streamconsumer.processor.main", CLUSTER),
        ("streamconsumer.operator", (*CLUSTER, *POD)),
        ("streamconsumer.operator.manifests", (*CLUSTER, *POD)),
        ("streamconsumer.operator.kube.client", POD),
        ("streamconsumer.redis_client.keys", (*CLUSTER, *POD)),
        ("streamconsumer.redis_client.topology", CLUSTER),
    ],
)
def test_a_module_loads_only_the_libraries_that_it_needs(module: str, excluded: tuple[str, ...]) -> None:
    """A pod starts without kopf and kubernetes, and a command that needs no Redis starts without redis-py."""
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", program], env=HERE, capture_output=True, text=True, check=True)
    assert not set(excluded) & set(ran.stdout.split())


MODULES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_at_most_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_MODULE_LINES


def test_a_file_name_occurs_twice_only_with_one_meaning() -> None:
    counts = Counter(path.name for path in MODULES.values())
    assert {name for name, count in counts.items() if count > 1} == set(REPEATED_NAMES)


@pytest.mark.parametrize("package", ["processor", "operator"])
def test_the_top_level_of_a_package_can_be_read_as_a_table_of_contents(package: str) -> None:
    entries = [path for path in (SOURCE / package).iterdir() if path.name not in {"__init__.py", "__pycache__"}]
    assert len(entries) <= MAX_TOP_LEVEL, sorted(path.name for path in entries)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of lines of every function of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("module", MODULES)
def test_a_function_has_at_most_60_lines(module: str) -> None:
    assert {name: length for name, length in functions(MODULES[module]) if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_docstring(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w./-]+(?:\.py|/))`", text))
    assert [path for path in sorted(named) if not any((folder / path).exists() for folder in (SOURCE, ROOT))] == []


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = [name for name in MODULES if not name.endswith(("__init__.py", "__main__.py"))]
    assert [name for name in modules if f"`{name}`" not in text] == []
