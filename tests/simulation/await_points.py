"""Await points of the engine: the places at which a task can be suspended while a fault starts."""

import ast
import inspect
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import streamconsumer.processor

ROOT = Path(streamconsumer.processor.__file__).parent
PACKAGES = ("consumer", "pipeline")


@dataclass(frozen=True, order=True)
class AwaitPoint:
    """Place of an `await`, `async with` or `async for` in the source."""

    module: str
    line: int
    column: int
    function: str
    text: str
    number: int
    """Position among the await points of the function, from 1."""

    @property
    def name(self) -> str:
        """Name without the line, so that it stays valid when other code changes."""
        return f"{self.module}:{self.function}:{self.number}"

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.function}: {self.text}"


@cache
def all_points() -> list[AwaitPoint]:
    """Return all await points of the packages in the order of the source."""
    return sorted(set(_positions().values()))


@cache
def _positions() -> dict[tuple[str, int, int], AwaitPoint]:
    """Return the await points by file, line and column of the instruction that suspends the task."""
    positions: dict[tuple[str, int, int], AwaitPoint] = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        source, module = path.read_text(), str(path.relative_to(ROOT))
        counts: Counter[str] = Counter()
        for function, node in _async_nodes(ast.parse(source)):
            text = (ast.get_source_segment(source, node) or "").partition("\n")[0][:60]
            counts[function] += 1
            point = AwaitPoint(module, node.lineno, node.col_offset, function, text, counts[function])
            expressions: list[ast.expr] = []
            if isinstance(node, ast.AsyncWith):
                expressions = [item.context_expr for item in node.items]
            elif isinstance(node, ast.AsyncFor):
                expressions = [node.iter]
            for each in (node, *expressions):
                positions.setdefault((str(path), each.lineno, each.col_offset), point)
    return positions


AsyncNode = ast.Await | ast.AsyncWith | ast.AsyncFor


def _async_nodes(tree: ast.AST, function: str = "") -> Iterator[tuple[str, AsyncNode]]:
    for node in ast.iter_child_nodes(tree):
        name = function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{function}.{node.name}".lstrip(".")
        elif isinstance(node, AsyncNode):
            yield function, node
        yield from _async_nodes(node, name)


def points_of(coroutine: Any) -> list[AwaitPoint]:
    """Return the await points at which a suspended coroutine and the coroutines that it awaits are."""
    points = []
    while inspect.iscoroutine(coroutine):
        frame = coroutine.cr_frame
        if frame is not None and (point := _point_at(frame.f_code, frame.f_lasti)):
            points.append(point)
        coroutine = _awaited(coroutine)
    return points


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return coroutine.cr_await  # type: ignore[attr-defined]


@cache
def _point_at(code: CodeType, instruction: int) -> AwaitPoint | None:
    if not code.co_filename.startswith(str(ROOT)):
        return None
    line, _, column, _ = list(code.co_positions())[max(instruction, 0) // 2]
    if line is None or column is None:
        return None
    return _positions().get((code.co_filename, line, column))
