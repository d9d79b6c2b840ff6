"""Code that is mutated: the Lua scripts, and the modules that hold leases, liveness and claiming."""

import ast
import gc
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import streamconsumer
from tests.mutants import lua, python_code
from tests.mutants.mutant import Mutant, with_occurrences

PACKAGE = Path(streamconsumer.__file__).parent

MODULES = (
    *(f"processor/consumer/{name}.py" for name in ("leases", "liveness", "claimer", "pending_entries", "heartbeat")),
    *(f"processor/consumer/{name}.py" for name in ("group_snapshot", "ack_buffer", "effects_commit", "replay")),
    "processor/pipeline/recovery_loop.py",
    "processor/dead_letters/writer.py",
)
"""Modules whose functions are mutated."""

SCRIPT_PACKAGES = ("processor", "cli")
"""Packages whose Lua scripts are mutated, including the scripts that they import."""

_LUA = re.compile(r"\bredis\.p?call\(|\blocal function\b")


@dataclass(frozen=True)
class Script:
    """A constant that contains a Lua script, or the common first part of several scripts."""

    path: str
    name: str
    text: str
    """Text without the text of the script with which this script begins."""
    first_line: int
    """Line of the module at which the text begins."""

    def mark(self, offset: int) -> str:
        """Return the mark of a statement."""
        return f"{self.path}:{self.name}:{offset}"


def mutants() -> list[Mutant]:
    """Return all mutants, in the order of their places."""
    found = [mutant for script in scripts() for mutant in _mutants_of_script(script)]
    for path in MODULES:
        found += _mutants_of_module(path)
    return with_occurrences(found)


def _mutants_of_script(script: Script) -> Iterator[Mutant]:
    for edit in lua.edits(script.text):
        line = script.first_line + script.text.count("\n", 0, edit.start)
        marks = frozenset({script.mark(edit.statement)})
        yield Mutant(script.path, script.name, line, edit, script.text, marks, is_script=True)


def _mutants_of_module(path: str) -> Iterator[Mutant]:
    source = (PACKAGE / path).read_text()
    for found in python_code.edits(source):
        marks = frozenset(f"{path}:{line}" for line in found.statement_lines)
        yield Mutant(path, found.function, found.line, found.edit, source, marks)


# -- scripts -----------------------------------------------------------------------------------------------------------


@cache
def scripts() -> tuple[Script, ...]:
    """Return the scripts of `SCRIPT_PACKAGES`, and the scripts that their modules import from other packages."""
    found = {path: list(_scripts_in(path)) for path in _paths() if _LUA.search((PACKAGE / path).read_text())}
    imported = {name for path in _paths(*SCRIPT_PACKAGES) for name in _names((PACKAGE / path).read_text())}
    return tuple(
        script
        for path, each in found.items()
        for script in each
        if path.startswith(SCRIPT_PACKAGES) or script.name in imported & _USED_BY_ENGINE
    )


_USED_BY_ENGINE = {"DELETE_IDLE_CONSUMER"}
"""Scripts of other packages that the engine runs."""


def _paths(*packages: str) -> list[str]:
    paths = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
    return [path for path in paths if not packages or path.startswith(packages)]


def _scripts_in(path: str) -> Iterator[Script]:
    module = module_of(path)
    nodes = [node for node in ast.parse((PACKAGE / path).read_text()).body if isinstance(node, ast.Assign)]
    constants = {node.targets[0].id: node for node in nodes if isinstance(node.targets[0], ast.Name)}
    for name, node in constants.items():
        value = getattr(module, name)
        if not isinstance(value, str) or not _LUA.search(value) or "\n" not in value:
            continue
        own, first_line = value, node.lineno
        if isinstance(node.value, ast.JoinedStr) and isinstance(node.value.values[0], ast.FormattedValue):
            part = node.value.values[0].value
            assert isinstance(part, ast.Name)
            own = value.removeprefix(getattr(module, part.id))
        yield Script(path, name, own, first_line)


def _names(source: str) -> set[str]:
    return {
        alias.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) for alias in node.names
    }


# -- application -------------------------------------------------------------------------------------------------------


def module_of(path: str) -> ModuleType:
    """Import a module of the package by its path."""
    return importlib.import_module("streamconsumer." + path.removesuffix(".py").replace("/", "."))


class NotApplied(Exception):
    """No loaded object contains the code of a mutant."""


def apply(mutant: Mutant) -> None:
    """Change the loaded code of this process. Nothing is written to disk, and no module is imported again."""
    if mutant.is_script:
        replace_scripts({mutant.text: mutant.mutated})
        return
    code = compile(mutant.mutated, str(PACKAGE / mutant.path), "exec")
    _replace_function(mutant, _codes(code))


@cache
def functions() -> list[FunctionType]:
    """Return the functions of `MODULES`. Undoes `gc.freeze`, which hides objects."""
    gc.unfreeze()
    files = {str(PACKAGE / path) for path in MODULES}
    objects = (each for each in gc.get_objects() if type(each) is FunctionType)
    return [function for function in objects if function.__code__.co_filename in files]


def replace_scripts(texts: Mapping[str, str]) -> None:
    """Replace the texts of scripts in all loaded modules."""
    replaced = set()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {"streamconsumer", "tests"}:
            for attribute, value in list(vars(module).items()):
                if isinstance(value, str) and (contained := [old for old in texts if old in value]):
                    for old in contained:
                        value = value.replace(old, texts[old])  # noqa: PLW2901 - several texts may be contained
                    setattr(module, attribute, value)
                    replaced.update(contained)
    if missing := set(texts) - replaced:
        raise NotApplied(f"found {len(missing)} scripts in no module")


def _codes(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """Return the codes of the functions and methods of a module by name and first line."""
    found = {}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found[constant.co_qualname, constant.co_firstlineno] = constant
            found.update(_codes(constant))
    return found


def _replace_function(mutant: Mutant, codes: Mapping[tuple[str, int], CodeType]) -> None:
    file = str(PACKAGE / mutant.path)
    count = 0
    for function in functions():
        old = function.__code__
        new = codes.get((old.co_qualname, old.co_firstlineno))
        if old.co_filename == file and old.co_qualname == mutant.place and new is not None:
            function.__code__ = new
            count += 1
    if not count:
        raise NotApplied(f"{mutant.path}: found no function {mutant.place}")
