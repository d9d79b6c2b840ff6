"""A fresh checkout works for users whose git and pip have settings of their own."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def variable_in_recipes(name: str) -> str:
    """Return the value of an environment variable in the recipes of the Makefile."""
    command = ["make", "--no-print-directory", "-f", "Makefile", "-f", "-", "show"]
    recipe = f'show:\n\t@printf %s "$${name}"\n'
    return subprocess.run(command, cwd=ROOT, input=recipe, capture_output=True, text=True, check=True).stdout


def test_pip_installs_into_the_virtual_environment_whatever_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PIP_USER, or `user = true` in pip.conf, pip refuses to install into a virtual environment."""
    monkeypatch.setenv("PIP_USER", "1")
    assert variable_in_recipes("PIP_USER") == "0"


def test_processes_of_tests_share_their_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert variable_in_recipes("PYTHONDONTWRITEBYTECODE") == ""


def test_git_checks_out_line_feeds_with_autocrlf(tmp_path: Path) -> None:
    """make and sh fail at the first carriage return. Windows' git writes them by default, also for WSL."""
    git = ["git", "-c", "core.autocrlf=true", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    attributes, script = ROOT / ".gitattributes", tmp_path / "script"
    (tmp_path / ".gitattributes").write_text(attributes.read_text() if attributes.exists() else "")
    script.write_text("true\n")
    for arguments in (["init", "--quiet"], ["add", "."]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True, capture_output=True)
    script.unlink()
    subprocess.run([*git, "checkout", "--", "script"], cwd=tmp_path, check=True)
    assert script.read_bytes() == b"true\n"
