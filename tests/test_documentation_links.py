"""The relative links, the anchors and the paths in all Markdown files lead to existing files and headings."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "charts", "examples", "benchmarks", "k8s", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])

CODE_BLOCK = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+).+?\1")
LINK = re.compile(r"\]\(([^()\s]+)\)")
LINK_IN_HEADING = re.compile(r"\[([^\[\]]*)\]\([^()\s]+\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#* *$", re.MULTILINE)
PATH = re.compile(r"`((?:src|tests|docs|charts|k8s|examples|benchmarks|tools|locks)/[\w./-]+)`")
NO_ANCHOR_CHARACTER = re.compile(r"[^\w\- ]")


def links(markdown: str) -> Iterator[str]:
    """Yield the targets of the links to files of the repository, in the order of the text."""
    for target in LINK.findall(CODE.sub("", CODE_BLOCK.sub("", markdown))):
        if "://" not in target and not target.startswith("mailto:"):
            yield target


def anchors(markdown: str) -> set[str]:
    """Return the anchors that a code host gives to the headings. A repeated heading gets a number."""
    counts: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(CODE_BLOCK.sub("", markdown)):
        text = LINK_IN_HEADING.sub(r"\1", heading)
        anchor = NO_ANCHOR_CHARACTER.sub("", text).lower().replace(" ", "-")
        found.add(f"{anchor}-{counts[anchor]}" if counts[anchor] else anchor)
        counts[anchor] += 1
    return found


def broken_links(page: Path) -> list[str]:
    return [target for target in links(page.read_text()) if not leads_somewhere(page, target)]


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = unquote(target).partition("#")
    linked = page.parent / path if path else page
    return linked.exists() and (not anchor or anchor in anchors(linked.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_has_no_broken_link(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_names_only_existing_files(page: Path) -> None:
    assert [path for path in PATH.findall(page.read_text()) if not (ROOT / path).exists()] == []


def test_index_links_every_page_of_the_documentation() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in links(index.read_text())}
    assert {page for page in index.parent.glob("*.md") if page != index} - linked == set()


def test_missing_file_and_missing_heading_are_reported(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text(
        "# Title\n\n## `group delete`, twice\n\n## Cost\n\n## Cost\n\n```sh\n# Comment\n```\n"
    )
    page = tmp_path / "page.md"
    page.write_text(
        "[file](other.md) [file](missing.md) [heading](other.md#group-delete-twice) [repeated](other.md#cost-1)\n"
        "[missing heading](other.md#costs) [comment](other.md#comment) [own](#here) ![picture](missing.png)\n"
        "[site](https://example.com/missing.md) `[code](missing.md)`\n\n# Here\n\n```\n[code](missing.md)\n```\n"
    )
    assert broken_links(page) == ["missing.md", "other.md#costs", "other.md#comment", "missing.png"]
