"""The layout of the source: libraries of each module, file names, and the length of modules and functions."""

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


CLUSTER = ("kopf", "kubernetes", "aiohttp")
POD = ("redis", "opentelemetry")


CHAINS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "without the cluster": [
        ("streamconsumer", (*CLUSTER, *POD, "click", "pydantic")),
        ("streamconsumer.model.crd", (*CLUSTER, *POD, "click", "asyncio")),
        ("streamconsumer.cli", (*CLUSTER, *POD)),
        ("streamconsumer.cli.status", (*CLUSTER, *POD)),
        ("streamconsumer.cli.status.findings", (*CLUSTER, *POD)),
        ("streamconsumer.cli.doctor.findings", (*CLUSTER, *POD)),
        ("streamconsumer.cli.report.redact", (*CLUSTER, *POD)),
        ("streamconsumer.cli.report.allow_list", (*CLUSTER, *POD)),
        ("streamconsumer.cli.render", (*CLUSTER, *POD)),
        ("streamconsumer.cli.dead_letters", (*CLUSTER, *POD)),
        ("streamconsumer.cli.group", (*CLUSTER, *POD)),
        ("streamconsumer.operator", (*CLUSTER, *POD)),
        ("streamconsumer.operator.manifests", (*CLUSTER, *POD)),
        ("streamconsumer.redis_client.keys", (*CLUSTER, *POD)),
        ("streamconsumer.cli.dead_letters.run", (*CLUSTER, "rich")),
        ("streamconsumer.cli.group.run", (*CLUSTER, "rich")),
        ("streamconsumer.redis_client.topology", CLUSTER),
        ("streamconsumer.processor", CLUSTER),
        ("streamconsumer.processor.main", CLUSTER),
        ("streamconsumer.cli.doctor.pod_checks", ("kopf", "kubernetes", "rich")),
    ],
    "with the cluster": [
        ("streamconsumer.operator.kube.client", POD),
        ("streamconsumer.cli.status.run", ("kopf", "rich")),
        ("streamconsumer.cli.report.run", ("kopf", "rich")),
    ],
}
"""Modules in the order in which one process imports them, each with the libraries that are not loaded by then.

An import removes no library from a process, so a library that is not loaded after a module is not loaded by it alone.
"""

IMPORT_EACH = """\
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    print(*{name.partition('.')[0] for name in sys.modules})
"""


@pytest.mark.parametrize("chain", CHAINS)
def test_a_module_loads_only_the_libraries_that_it_needs(chain: str) -> None:
    """A pod starts without kopf and kubernetes, and a command that needs no Redis starts without redis-py."""
    modules = [module for module, _ in CHAINS[chain]]
    command = [sys.executable, "-c", IMPORT_EACH, *modules]
    ran = subprocess.run(command, env=HERE, capture_output=True, text=True, check=True)
    loaded = [set(line.split()) for line in ran.stdout.splitlines()]
    assert len(loaded) == len(modules)
    needless = {
        module: found
        for (module, excluded), by_then in zip(CHAINS[chain], loaded, strict=True)
        if (found := by_then & set(excluded))
    }
    assert needless == {}, f"{next(iter(needless))} loads the libraries; a later module only inherits them"


MODULES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}


def test_no_module_has_more_than_400_lines() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > MAX_MODULE_LINES} == {}


def test_a_file_name_occurs_twice_only_with_one_meaning() -> None:
    counts = Counter(path.name for path in MODULES.values())
    assert {name for name, count in counts.items() if count > 1} == set(REPEATED_NAMES)


@pytest.mark.parametrize("package", ["processor", "operator"])
def test_the_top_level_of_a_package_can_be_read_as_a_table_of_contents(package: str) -> None:
    entries = [path for path in (SOURCE / package).iterdir() if path.name not in {"__init__.py", "__pycache__"}]
    assert len(entries) <= MAX_TOP_LEVEL, sorted(path.name for path in entries)


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of lines of every function of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def test_every_module_has_a_docstring_and_no_function_of_more_than_60_lines() -> None:
    undocumented, long = [], []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            undocumented.append(module)
        long += [(module, name, length) for name, length in functions(tree) if length > MAX_FUNCTION_LINES]
    assert undocumented == []
    assert long == []


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w./-]+(?:\.py|/))`", text))
    assert [path for path in sorted(named) if not any((folder / path).exists() for folder in (SOURCE, ROOT))] == []


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = [name for name in MODULES if not name.endswith(("__init__.py", "__main__.py"))]
    assert [name for name in modules if f"`{name}`" not in text] == []
