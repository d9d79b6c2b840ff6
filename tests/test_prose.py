"""The checker of the wording: which texts it reads, and which words it reports."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools import prose

MODULE = '''"""{module}"""

LIMIT = 3
"""{attribute}"""


def check(value: int) -> None:
    """{function}"""
    # {comment}
    log.warning("{log}", extra={{"value": value}})
    raise ValueError(f"{error} {{value}}")
'''

PLAIN = {
    "module": "Checks values.",
    "attribute": "Maximum value.",
    "function": "Raise ValueError if the value is too high.",
    "comment": "The limit is that of the API server.",
    "log": "value is too high",
    "error": "value is too high:",
}


def module(**texts: str) -> str:
    return MODULE.format(**{**PLAIN, **texts})


def found(source: str) -> list[tuple[int, str]]:
    return [(each.line, each.found) for each in prose.violations(source, prose.python_with_messages)]


def test_a_module_in_plain_words_has_no_violation() -> None:
    assert found(module()) == []


@pytest.mark.parametrize(
    ("place", "line"), [("module", 1), ("attribute", 4), ("function", 8), ("comment", 9), ("log", 10), ("error", 11)]
)
def test_a_denylisted_word_is_reported_in_every_kind_of_text(place: str, line: int) -> None:
    assert found(module(**{place: f"{PLAIN[place]} Nobody knows."})) == [(line, "the word 'nobody'")]


@pytest.mark.parametrize("opening", ["What", "Who", "Whose", "Those", "One", "So", "Of", "For", "By"])
@pytest.mark.parametrize(("place", "line"), [("module", 1), ("attribute", 4), ("function", 8)])
def test_a_docstring_without_a_subject_is_reported(place: str, line: int, opening: str) -> None:
    assert found(module(**{place: f"{opening} is checked."})) == [(line, f"the opening '{opening}'")]


def test_the_line_of_a_word_within_a_long_docstring_is_reported() -> None:
    assert found(module(function="Check.\n\n    The value shall be low.\n    ")) == [(10, "the word 'shall'")]


def test_a_line_marked_as_a_quotation_is_allowed() -> None:
    assert found(module(comment='The server answers "told"; prose: quotation')) == []


def test_text_in_backticks_is_not_checked() -> None:
    assert found(module(function="Return `told` unchanged.")) == []


def test_strings_in_tests_are_not_checked() -> None:
    source = module(log="nobody answers")
    assert prose.violations(source, prose.python) == []


def test_markdown_is_checked_outside_of_code_blocks() -> None:
    source = "# Title\n\nThe pod is told.\n\n```\ntold\n```\n\nUse `told`.\n"
    assert [each.line for each in prose.violations(source, prose.markdown)] == [3]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("````md\n```\ntold\n```\ntold\n````\nNobody.\n", [7]),
        ("```\n~~~\ntold\n```\nNobody.\n", [5]),
        ("```sh\n``` told\n```\nNobody.\n", [4]),
        ("```told```\nNobody.\n", [2]),
        ("~~~\ntold\n~~~~\nNobody.\n", [4]),
        ("# Title\r\n\r\n```\r\ntold\r\n```\r\nNobody.\r\n", [6]),
    ],
)
def test_a_code_block_ends_at_its_own_fence(source: str, lines: list[int]) -> None:
    assert [each.line for each in prose.violations(source, prose.markdown)] == lines


@pytest.mark.parametrize(
    ("texts", "source", "lines"),
    [
        (prose.markdown, "Read all at\nonce.\n\n> Read all at\n> once.\n", [1, 4]),
        (prose.plain, "a: 1\n# Read all at\n# once.\n", [2]),
        (prose.plain, "-- Read all at\n-- once.\n", [1]),
        (prose.python, "# Read all at\n# once.\n", [1]),
        (prose.python, 'def read() -> None:\n    """Read all at\n    once.\n    """\n', [2]),
    ],
)
def test_a_phrase_is_found_across_a_line_break(texts: Any, source: str, lines: list[int]) -> None:
    assert [(each.line, each.found) for each in prose.violations(source, texts)] == [
        (line, "the word 'at once'") for line in lines
    ]


def test_words_of_two_paragraphs_are_no_phrase() -> None:
    assert prose.violations("# What to look at\n\nOnce a day, look here.\n", prose.markdown) == []


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty git checkout, which the checker reads."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["prose"])
    return tmp_path


def test_every_file_of_the_checkout_is_checked(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "café.md").write_text("Nobody.\n")
    (checkout / "two\nlines.md").write_text("Nobody.\n")
    (checkout / "latin.md").write_bytes(b"ok\ncaf\xe9\n")
    (checkout / "wrong.py").write_text("def wrong(:\n")
    (checkout / "dead.md").symlink_to("missing.md")
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    assert prose.main() == 1
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "café.md:1: the word 'nobody'; write: the consumer, the pod, the user",
        "latin.md:2: a byte that is not UTF-8; write: UTF-8",
        "lines.md:1: the word 'nobody'; write: the consumer, the pod, the user",
        "two",
        "wrong.py:1: a syntax error (invalid syntax); write: valid Python",
    ]


def test_a_folder_without_git_is_an_error(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (checkout / ".git").rename(checkout / "git")
    with pytest.raises(SystemExit, match="git ls-files failed"):
        prose.main()
    assert "not a git repository" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("src/streamconsumer/errors.py", prose.python_with_messages),
        ("tests/test_prose.py", prose.python),
        ("README.md", prose.markdown),
        ("charts/streamconsumer-operator/values.yaml", prose.plain),
        ("charts/streamconsumer-operator/templates/NOTES.txt", prose.plain),
        ("charts/streamconsumer-operator/templates/crds.yaml", None),
        ("docs/trace.png", None),
    ],
)
def test_a_file_is_read_by_its_kind(path: str, texts: object) -> None:
    assert prose.texts_of(path) is texts


def test_a_description_of_the_crd_is_checked_in_its_model() -> None:
    source = 'class Spec:\n    replicas: int = 1\n    """So many pods."""\n'
    assert found(source) == [(3, "the opening 'So'"), (3, "the word 'so many'")]
