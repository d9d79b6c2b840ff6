"""Mutants of Python functions: finds statements, conditions and operands with `ast`.

Definitions, imports, decorators, default values, docstrings, assertions, and statements outside functions are not
changed. An assertion only narrows a type, and the others would fail at the first import or use.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from tests.mutants.mutant import Edit

_UNCHANGED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass, ast.Assert)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class FunctionEdit:
    """An edit in a function of a module."""

    function: str
    """Qualified name of the outermost function."""
    line: int
    edit: Edit
    statement_lines: tuple[int, ...]
    """Lines of the innermost statement that contains the change, without the statements inside that statement."""


def edits(source: str) -> list[FunctionEdit]:
    """Return all mutants of the functions and methods of a module, in the order of their positions."""
    finder = _Finder(source)
    finder.definitions(ast.parse(source).body, "")
    return sorted(finder.edits, key=lambda each: (each.edit.start, each.edit.end))


class _Finder:
    def __init__(self, source: str) -> None:
        self.source = source
        self.edits: list[FunctionEdit] = []
        self._line_starts = [0]
        for line in source.split("\n"):
            self._line_starts.append(self._line_starts[-1] + len(line) + 1)
        self._lines = source.split("\n")
        self._function = ""
        self._statement: ast.stmt = ast.Pass()

    def definitions(self, body: list[ast.stmt], prefix: str) -> None:
        """Find the mutants of the functions that a module or class defines."""
        for node in body:
            if isinstance(node, ast.ClassDef):
                self.definitions(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, Function):
                self._function = prefix + node.name
                self._block(node.body)

    def _block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._one_statement(statement)

    def _one_statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, Function):
            self._block(node.body)
            return
        if isinstance(node, _UNCHANGED):
            return
        outer, self._statement = self._statement, node
        if not (isinstance(node, ast.AnnAssign) and node.value is None):
            self._add("delete", node, "pass", node)
        if isinstance(node, ast.If | ast.While):
            self._negate(node.test)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                is_test = isinstance(node, ast.If | ast.While) and child is node.test
                self._expression(child, is_condition=is_test)
            elif isinstance(child, ast.withitem):
                self._expression(child.context_expr)
        for block in _blocks(node):
            self._block(block)
        self._statement = outer

    def _expression(self, node: ast.expr, *, is_condition: bool = False) -> None:
        if isinstance(node, ast.BoolOp):
            self._drop_operands(node)
        elif not is_condition and _is_boolean(node):
            self._negate(node)
        conditions: set[int] = set()
        for part in ast.walk(node):
            if part is node:
                continue
            if isinstance(part, ast.BoolOp):
                self._drop_operands(part)
        for part in ast.walk(node):
            if isinstance(part, ast.IfExp):
                self._negate(part.test)
                conditions.add(id(part.test))
            elif isinstance(part, ast.comprehension):
                for condition in part.ifs:
                    self._negate(condition)
                    self._drop_filter(condition)
                    conditions.add(id(condition))
        inside = {id(child) for part in ast.walk(node) if isinstance(part, ast.BoolOp) for child in part.values}
        inside |= {id(part.operand) for part in ast.walk(node) if isinstance(part, ast.UnaryOp)}
        for part in ast.walk(node):
            is_counted = part is node or id(part) in conditions | inside
            if isinstance(part, ast.expr) and _is_boolean(part) and not is_counted:
                self._negate(part)

    # -- edits ---------------------------------------------------------------------------------------------------------

    def _add(self, change: str, node: ast.expr | ast.stmt, new: str, subject: ast.expr | ast.stmt) -> None:
        start, end = self._span(node)
        edit = Edit(
            change,  # type: ignore[arg-type]
            start,
            end,
            new,
            self._text(subject),
            self._span(self._statement)[0],
        )
        self.edits.append(FunctionEdit(self._function, node.lineno, edit, tuple(_own_lines(self._statement))))

    def _negate(self, node: ast.expr) -> None:
        self._add("negate", node, f"(not ({self._text(node)}))", node)

    def _drop_filter(self, node: ast.expr) -> None:
        self._add("drop", node, "True", node)

    def _drop_operands(self, node: ast.BoolOp) -> None:
        operator = " and " if isinstance(node.op, ast.And) else " or "
        for dropped in node.values:
            rest = operator.join(f"({self._text(operand)})" for operand in node.values if operand is not dropped)
            self._add("drop", node, f"({rest})", dropped)

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        """Return the position in the text. Columns count bytes."""
        return self._line_starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self.source[start:end]


def _is_boolean(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(node, name, [])
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def _own_lines(node: ast.stmt) -> range:
    """Return the lines of a statement until its first inner statement, or that one's line for `try`."""
    inner = [statement.lineno for block in _blocks(node) for statement in block]
    if not inner:
        return range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return range(node.lineno, max(min(inner), node.lineno + 1) + isinstance(node, ast.Try))
