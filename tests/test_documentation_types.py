"""Type check of the Python examples in README.md and docs/, as a user's editor or CI runs it: strict, without plugins.

basedpyright is the checker for pyright's rules, because its wheel contains Node.js. The package `pyright` downloads
Node.js and itself at the first run.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

WRONG_ARGUMENT = "from streamconsumer.model.processor_settings import Delivery\n\nDelivery(max_retries=3)\n"

OWN_MANAGER = """\
from streamconsumer.processor import RedisStreamProcessor


class Manager:
    async def create_group(self, stream: str, group: str, start: str = "0") -> bool:
        return True

    async def read_events(
        self, stream: str, group: str, consumer: str, limit: int = 10
    ) -> list[tuple[str, dict[str, str]]]:
        return []

    async def ack_event(self, stream: str, group: str, entry: str) -> int:
        return 1


RedisStreamProcessor(Manager(), "orders", "billing", "worker-1")
"""


def examples() -> dict[str, str]:
    """Return every Python block of the documentation, by page and number."""
    return {
        f"{re.sub(r'[^A-Za-z0-9]', '_', page.stem)}_{number}.py": block
        for page in PAGES
        for number, block in enumerate(CODE_BLOCK.findall(page.read_text()), 1)
    }


def run_mypy(folder: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
    environ = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    return _output([*command, f"--cache-dir={ROOT / '.mypy_cache/documentation'}", str(folder)], folder, environ)


def run_pyright(folder: Path) -> str:
    config = {"include": ["."], "typeCheckingMode": "strict", "extraPaths": [str(ROOT / "src")]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    return _output(command, folder, {**os.environ})


def _output(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    """Run a type checker and return its output, or an empty text if the checker reports no error."""
    result = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr if result.returncode else ""


def test_readme_has_python_examples() -> None:
    assert [name for name in examples() if name.startswith("README")]


@pytest.mark.parametrize("check", [run_mypy, run_pyright])
def test_documentation_examples_pass_a_strict_type_checker(check: Callable[[Path], str], tmp_path: Path) -> None:
    for name, text in examples().items():
        (tmp_path / name).write_text(text)
    assert check(tmp_path) == ""


@pytest.mark.parametrize("check", [run_mypy, run_pyright])
def test_type_checker_reports_a_wrong_argument(check: Callable[[Path], str], tmp_path: Path) -> None:
    """Without this test, examples would also pass if the package had no types."""
    (tmp_path / "wrong.py").write_text(WRONG_ARGUMENT)
    assert "max_retries" in check(tmp_path)


@pytest.mark.parametrize("check", [run_mypy, run_pyright])
def test_a_manager_may_name_its_parameters_as_it_likes(check: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_MANAGER)
    assert check(tmp_path) == ""
