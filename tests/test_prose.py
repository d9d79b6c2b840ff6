"""The checker of the wording: which texts it reads, and which words it reports."""

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
