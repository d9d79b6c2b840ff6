"""Code that is mutated: the Lua scripts, and the modules that hold leases, liveness and claiming."""

import gc
import importlib
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

LUA_FOLDER = "redis_client/lua"
"""Folder whose scripts are mutated."""


@dataclass(frozen=True)
class Script:
    """A file with a Lua script or a library function."""

    path: str
    name: str
    text: str

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
        line = 1 + script.text.count("\n", 0, edit.start)
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
    """Return the scripts and the library functions."""
    paths = sorted((PACKAGE / LUA_FOLDER).rglob("*.lua"))
    return tuple(Script(str(path.relative_to(PACKAGE)), path.stem.upper(), path.read_text()) for path in paths)


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
