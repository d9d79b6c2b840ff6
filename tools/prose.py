"""Checks the wording of docstrings, comments, messages and documents against a list of forbidden words and openings.

    python -m tools.prose            list each violation, exit 1 if there are any
    python -m tools.prose --count    the number of violations per file

Vale was tried first. Vale reads Markdown, comments and the docstrings of functions and classes. Vale is not used,
because it reads neither the docstrings of attributes nor the strings in logs, errors, `--help` and the CRD, and because
it needs Go.

The checker reads every file that git knows. Text in backticks and code blocks is not checked. A line that quotes a
denylisted word on purpose has `prose: quotation` in a comment.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

WORDS = {
    r"told|tells?|telling": "logs, reports, returns, shows",
    r"nobody|somebody|anybody|whoever|whomever|whom": "the consumer, the pod, the user",
    r"anew": "again",
    r"beside": "next to, in addition to, in a companion key",
    r"shall": "must, or the present tense",
    r"mend(?:s|ed|ing)?": "fix",
    r"begun": "started",
    r"amiss": "wrong",
    r"stands? in": "is stored in",
    r"so many": "the number",  # prose: quotation
    r"so long(?! as)": "the duration",  # prose: quotation
    r"any more": "no longer",  # prose: quotation
    r"at once": "immediately, at a time",  # prose: quotation
    r"what becomes of": "how … is handled",  # prose: quotation
    r"to be said": "is called",  # prose: quotation
    r"for want of": "because … is missing",  # prose: quotation
    r"signs? of life": "heartbeat",
    r"(?:one|a) breath": "immediately",
    r"he|him|his": "the user, they",
}
"""Pattern of the denylisted words, and the words to use instead."""

OPENINGS = ("what", "who", "whom", "whose", "those", "one", "so", "of", "for", "by")
"""Words that a docstring must not start with, because the subject of the sentence would be missing."""

ALLOWED = "prose: quotation"

_WORD = re.compile("|".join(f"(?P<w{number}>\\b(?:{words})\\b)" for number, words in enumerate(WORDS)), re.IGNORECASE)
_ADVICE = list(WORDS.values())
_OPENING = re.compile(rf"\W*({'|'.join(OPENINGS)})\b", re.IGNORECASE)
_BACKTICKS = re.compile(r"(`+).+?\1")
_FENCE = re.compile(r"^\s*(```|~~~)")

_STRINGS_IN = ("src/", "tools/", "benchmarks/", "examples/")
"""Folders whose strings are checked as messages. Strings in tests are not checked, because they may quote anything."""

_SKIPPED = ("locks/", "tests/charts/previous/", "tests/operator/golden/", "templates/crds.yaml", "k8s/crds/")
"""Recorded or generated files, which are not checked. The text of a generated file is checked in its source."""


class Text(NamedTuple):
    """A piece of prose."""

    line: int
    text: str
    is_docstring: bool = False


class Violation(NamedTuple):
    """A word or an opening that the style guide forbids."""

    line: int
    found: str
    advice: str


def violations(source: str, texts: Callable[[str], Iterator[Text]]) -> list[Violation]:
    """Return the violations in a file's source, in the order of lines."""
    allowed = {number for number, line in enumerate(source.splitlines(), 1) if ALLOWED in line}
    found = {each for text in texts(source) for each in _in_text(text)}
    return sorted(each for each in found if each.line not in allowed)


def _in_text(text: Text) -> Iterator[Violation]:
    prose = _BACKTICKS.sub(lambda match: re.sub(r"[^\n]", "`", match[0]), text.text)
    for match in _WORD.finditer(prose):
        advice = _ADVICE[int((match.lastgroup or "w0")[1:])]
        yield Violation(text.line + prose.count("\n", 0, match.start()), f"the word '{match[0].lower()}'", advice)
    if text.is_docstring and (opening := _OPENING.match(prose)):
        yield Violation(text.line, f"the opening '{opening[1]}'", "name the object, or start with a verb")


def markdown(source: str) -> Iterator[Text]:
    """Yield the lines of a Markdown document outside of code blocks."""
    fence = ""
    for number, line in enumerate(source.splitlines(), 1):
        if border := _FENCE.match(line):
            fence = "" if fence else border[1]
        elif not fence:
            yield Text(number, line)


def plain(source: str) -> Iterator[Text]:
    """Yield all lines of a file whose whole text is read by people."""
    yield from (Text(number, line) for number, line in enumerate(source.splitlines(), 1))


def python(source: str) -> Iterator[Text]:
    """Yield the docstrings and the comments of a Python module."""
    yield from _docstrings(ast.parse(source))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string)


def python_with_messages(source: str) -> Iterator[Text]:
    """Yield the docstrings and the comments of a Python module, and the strings that contain a space."""
    yield from python(source)
    tree = ast.parse(source)
    documenting = {id(node.value) for node in _documenting(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documenting:
            yield Text(node.lineno, node.value if " " in node.value else "")


def _docstrings(tree: ast.AST) -> Iterator[Text]:
    for node in _documenting(tree):
        assert isinstance(node.value, ast.Constant)
        yield Text(node.lineno, str(node.value.value), is_docstring=True)


def _documenting(tree: ast.AST) -> Iterator[ast.Expr]:
    """Yield the statements that consist of a string: docstrings, and strings below attributes and constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def texts_of(path: str) -> Callable[[str], Iterator[Text]] | None:
    """Return the function that finds the prose of a file. Returns None if the file contains no prose."""
    name = path.rpartition("/")[2]
    if any(skipped in path for skipped in _SKIPPED):
        return None
    if path.endswith(".py"):
        return python_with_messages if path.startswith(_STRINGS_IN) else python
    if path.endswith(".md"):
        return markdown
    if path.endswith((".yaml", ".yml", ".tpl", ".txt", ".sh", ".lua")) or name in {"Makefile", "Dockerfile"}:
        return plain
    return None


def main() -> int:
    """Check the files that git knows. Returns the exit code, which is 1 if there is a violation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", action="store_true", help="print the number of violations per file")
    parser.add_argument("paths", nargs="*", help="files or folders; default: all")
    options = parser.parse_args()
    listed = subprocess.run(["git", "ls-files", *options.paths], cwd=ROOT, capture_output=True, text=True, check=True)
    counts: Counter[str] = Counter()
    for path in listed.stdout.splitlines():
        if (texts := texts_of(path)) is None or not (ROOT / path).is_file():
            continue
        for line, found, advice in violations((ROOT / path).read_text(), texts):
            counts[path] += 1
            if not options.count:
                print(f"{path}:{line}: {found}; write: {advice}")
    for path, count in counts.most_common() if options.count else ():
        print(f"{count:5} {path}")
    print(f"{counts.total()} violations in {len(counts)} files", file=sys.stderr)
    return int(bool(counts))


if __name__ == "__main__":
    sys.exit(main())
