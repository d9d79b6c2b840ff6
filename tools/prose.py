"""Checks the wording of docstrings, comments, messages and documents against a list of forbidden words and openings.

    python -m tools.prose            list each violation, exit 1 if there are any
    python -m tools.prose --count    the number of violations per file

Vale was tried first. Vale reads Markdown, comments and the docstrings of functions and classes. Vale is not used,
because it reads neither the docstrings of attributes nor the strings in logs, errors, `--help` and the CRD, and because
it needs Go.

The checker reads every file that git knows. Text in backticks and code blocks is not checked. A line that quotes a
denylisted word on purpose has `prose: quotation` in a comment. A phrase is found even if it continues on the next line;
its first line counts.
"""

import argparse
import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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

_GAP = r"(?:[ \t]+|[ \t]*\n[ \t]*(?:#+|>|--)?[ \t]*)"
"""The gap between two words of a phrase: spaces, or a line break and the mark of a comment or a quotation."""

_PATTERNS = [f"\\b(?:{words.replace(' ', _GAP)})\\b" for words in WORDS]
_WORD = re.compile("|".join(f"(?P<w{number}>{words})" for number, words in enumerate(_PATTERNS)), re.IGNORECASE)
_ADVICE = list(WORDS.values())
_OPENING = re.compile(rf"\W*({'|'.join(OPENINGS)})\b", re.IGNORECASE)
_BACKTICKS = re.compile(r"(`+).+?\1")
_FENCE = re.compile(r"\s*(?P<marks>`{3,}(?!.*`)|~{3,})(?P<rest>.*)")

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
    allowed = {number for number, line in enumerate(source.split("\n"), 1) if ALLOWED in line}
    found = {each for text in texts(source) for each in _in_text(text)}
    return sorted(each for each in found if each.line not in allowed)


def _in_text(text: Text) -> Iterator[Violation]:
    prose = _BACKTICKS.sub(lambda match: re.sub(r"[^\n]", "`", match[0]), text.text)
    for match in _WORD.finditer(prose):
        advice = _ADVICE[int((match.lastgroup or "w0")[1:])]
        found = re.sub(_GAP, " ", match[0].lower())
        yield Violation(text.line + prose.count("\n", 0, match.start()), f"the word '{found}'", advice)
    if text.is_docstring and (opening := _OPENING.match(prose)):
        yield Violation(text.line, f"the opening '{opening[1]}'", "name the object, or start with a verb")


def markdown(source: str) -> Iterator[Text]:
    """Yield a Markdown document with empty lines in place of its code blocks."""
    fence, lines = "", []
    for line in source.split("\n"):
        border = _FENCE.match(line)
        is_code = bool(fence or border)
        if border and not fence:
            fence = border["marks"]
        elif border and border["marks"].startswith(fence) and not border["rest"].strip():
            fence = ""
        lines.append("" if is_code else line)
    yield Text(1, "\n".join(lines))


def plain(source: str) -> Iterator[Text]:
    """Yield a file whose whole text is read by people."""
    yield Text(1, source)


def python(source: str) -> Iterator[Text]:
    """Yield the docstrings and the comments of a Python module."""
    yield from _docstrings(ast.parse(source))
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string
    if comments:
        yield Text(1, "\n".join(comments.get(line, "") for line in range(1, max(comments) + 1)))


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


def _listed(paths: Iterable[str]) -> list[str]:
    """Return the paths of the files that git knows. Exits with git's own error if git cannot list them."""
    # Without -z, git quotes names with non-ASCII characters, and the checker would not find such a file.
    listed = subprocess.run(["git", "ls-files", "-z", *paths], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if listed.returncode:
        sys.exit(f"{ROOT}: git ls-files failed; the checker needs a git checkout that git trusts")
    return [os.fsdecode(path) for path in listed.stdout.split(b"\0") if path]


def _in_file(path: Path, texts: Callable[[str], Iterator[Text]]) -> list[Violation]:
    try:
        return violations(path.read_text(encoding="utf-8"), texts)
    except UnicodeDecodeError as error:
        return [Violation(path.read_bytes().count(b"\n", 0, error.start) + 1, "a byte that is not UTF-8", "UTF-8")]
    except SyntaxError as error:
        return [Violation(error.lineno or 1, f"a syntax error ({error.msg})", "valid Python")]


def main() -> int:
    """Check the files that git knows. Returns the exit code, which is 1 if there is a violation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", action="store_true", help="print the number of violations per file")
    parser.add_argument("paths", nargs="*", help="files or folders; default: all")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for path in _listed(options.paths):
        if (texts := texts_of(path)) is None or not (ROOT / path).is_file():
            continue
        for line, found, advice in _in_file(ROOT / path, texts):
            counts[path] += 1
            if not options.count:
                print(f"{path}:{line}: {found}; write: {advice}")
    for path, count in counts.most_common() if options.count else ():
        print(f"{count:5} {path}")
    print(f"{counts.total()} violations in {len(counts)} files", file=sys.stderr)
    return int(bool(counts))


if __name__ == "__main__":
    sys.exit(main())
