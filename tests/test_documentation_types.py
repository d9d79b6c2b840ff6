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

FINDING = re.compile(r"\w\.py:\d+")
"""Each line of a type checker that reports an error, a warning or a note."""

WRONG_ARGUMENT = "from streamconsumer.model.processor_settings import Delivery\n\nDelivery(max_retries=3)\n"

OWN_MANAGER = """\
# A manager may name its parameters as it likes.
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


def run_mypy(folder: Path) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
        "--no-error-summary",
    ]
    environ = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    return _output([*command, f"--cache-dir={ROOT / '.mypy_cache/documentation'}", str(folder)], folder, environ)


def run_pyright(folder: Path) -> list[str]:
    config = {"include": ["."], "typeCheckingMode": "strict", "extraPaths": [str(ROOT / "src")]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    return _output(command, folder, {**os.environ})


def _output(command: list[str], folder: Path, environ: dict[str, str]) -> list[str]:
    """Run a type checker. Returns the lines that name a file and a line number, or all lines if there are none."""
    result = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines() if result.returncode else []
    return [line for line in lines if FINDING.search(line)] or lines


def test_readme_has_python_examples() -> None:
    assert [name for name in examples() if name.startswith("README")]


@pytest.mark.check
@pytest.mark.parametrize("check", [run_mypy, run_pyright])
def test_documentation_examples_pass_a_strict_type_checker(check: Callable[[Path], list[str]], tmp_path: Path) -> None:
    """Checks all files in one run, because a type checker needs seconds to read the package.

    Without WRONG_ARGUMENT, which the checker must report, examples would also pass if the package had no types.
    """
    for name, text in {**examples(), "wrong_argument.py": WRONG_ARGUMENT, "own_manager.py": OWN_MANAGER}.items():
        (tmp_path / name).write_text(text)
    found = check(tmp_path)
    assert [line for line in found if "wrong_argument.py" not in line] == []
    assert "max_retries" in "".join(found)
