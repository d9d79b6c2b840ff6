"""Mutants of a Lua script: finds statements, conditions and operands with a small parser.

The parser knows the syntax of Lua 5.1 without `goto`. It builds no tree: it records the positions of the parts that can
be changed.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.mutants.mutant import Edit

_TOKEN = re.compile(
    r"""(?P<skip>\s+|--\[(?P<c>=*)\[.*?\](?P=c)\]|--(?!\[=*\[)[^\n]*)
      | (?P<literal>\[(?P<s>=*)\[.*?\](?P=s)\]
                   |"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'
                   |0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<operator>\.\.\.|\.\.|==|~=|<=|>=|[-+*/%^\#<>=(){}\[\];:,.])""",
    re.VERBOSE | re.DOTALL,
)

_COMPARISONS = {"==", "~=", "<", ">", "<=", ">="}
_ARITHMETIC = {"+", "-", "*", "/", "%", "^", ".."}
_BLOCK_ENDS = {"end", "else", "elseif", "until", ""}


class LuaSyntaxError(ValueError):
    """The parser does not understand the script."""


class Token(NamedTuple):
    """A token and its position. The last token has an empty text."""

    text: str
    kind: str
    start: int
    end: int


def tokens(source: str) -> Iterator[Token]:
    """Yield the tokens of a script without spaces and comments."""
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if not match:
            raise LuaSyntaxError(f"found {source[position : position + 20]!r}, expected a token")
        kind = next(name for name in ("skip", "literal", "name", "operator") if match[name] is not None)
        if kind != "skip":
            yield Token(match[0], kind, match.start(), match.end())
        position = match.end()
    yield Token("", "end", position, position)


class Span(NamedTuple):
    """Position of an expression. `is_boolean` is True for a comparison and for `not`."""

    start: int
    end: int
    is_boolean: bool = False


def edits(source: str) -> list[Edit]:
    """Return all mutants of a script, in the order of their positions."""
    parser = _Parser(source)
    parser.block()
    parser.expect("")
    return sorted(parser.edits, key=lambda edit: (edit.start, edit.end))


def statement_starts(source: str) -> list[int]:
    """Return the positions at which statements start."""
    parser = _Parser(source)
    parser.block()
    return parser.starts


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.edits: list[Edit] = []
        self.starts: list[int] = []
        self._tokens = list(tokens(source))
        self._index = 0
        self._statement = 0

    # -- tokens --------------------------------------------------------------------------------------------------------

    @property
    def token(self) -> Token:
        return self._tokens[self._index]

    @property
    def last_end(self) -> int:
        return self._tokens[self._index - 1].end

    def next(self) -> Token:
        self._index += 1
        return self._tokens[self._index - 1]

    def accept(self, *texts: str) -> bool:
        if self.token.text in texts and self.token.kind != "literal":
            self._index += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if self.token.text != text:
            line = self.source.count("\n", 0, self.token.start) + 1
            raise LuaSyntaxError(f"line {line}: found {self.token.text!r}, expected {text!r}")
        if text:
            self._index += 1

    # -- edits ---------------------------------------------------------------------------------------------------------

    def _add(self, change: str, start: int, end: int, new: str, subject: str) -> None:
        self.edits.append(Edit(change, start, end, new, subject, self._statement))  # type: ignore[arg-type]

    def _delete(self, start: int, end: int, replacement: str = "do end") -> None:
        text = self.source[start:end]
        self._add("delete", start, end, replacement + "\n" * text.count("\n"), text)

    def _negate(self, span: Span) -> None:
        text = self.source[span.start : span.end]
        self._add("negate", span.start, span.end, f"(not ({text}))", text)

    def _drop_operands(self, operator: str, operands: list[Span]) -> None:
        start, end = operands[0].start, operands[-1].end
        for dropped in operands:
            rest = f" {operator} ".join(f"({self.source[o.start : o.end]})" for o in operands if o is not dropped)
            subject = f"{self.source[dropped.start : dropped.end]}"
            self._add("drop", start, end, f"({rest})", subject)

    # -- statements ----------------------------------------------------------------------------------------------------

    def block(self) -> None:
        while self.token.text not in _BLOCK_ENDS or self.token.kind == "literal":
            outer, self._statement = self._statement, self.token.start
            self._one_statement()
            self._statement = outer
            self.accept(";")

    def _one_statement(self) -> None:
        start = self.token.start
        self.starts.append(start)
        keyword = self.token.text
        match keyword:
            case "if":
                self._if()
            case "while":
                self.next()
                self.condition()
                self._body("do")
            case "for":
                self._for()
            case "repeat":
                self.next()
                self.block()
                self.expect("until")
                self.condition()
            case "do":
                self._body("do")
            case "function":
                self.next()
                self._name_path()
                self._function_body()
                return  # a deleted definition would fail at its first use
            case "local":
                self._local(start)
                return
            case "return":
                self.next()
                if self.token.text not in _BLOCK_ENDS | {";"} or self.token.kind == "literal":
                    self._expressions()
            case "break":
                self.next()
            case _:
                self._call_or_assignment()
        self._delete(start, self.last_end)

    def _if(self) -> None:
        self.next()
        self.condition()
        self.expect("then")
        self.block()
        while self.accept("elseif"):
            self.condition()
            self.expect("then")
            self.block()
        if self.accept("else"):
            self.block()
        self.expect("end")

    def _for(self) -> None:
        self.next()
        while not self.accept("=", "in"):
            self.next()
        self._expressions()
        self._body("do")

    def _local(self, start: int) -> None:
        """Parse a local declaration. Its mutant keeps the name, and has no value."""
        self.next()
        if self.accept("function"):
            self.next()
            self._function_body()
            return
        self.next()
        while self.accept(","):
            self.next()
        names = self.source[start : self.last_end]
        if self.accept("="):
            self._expressions()
            self._delete(start, self.last_end, names)

    def _body(self, keyword: str) -> None:
        self.expect(keyword)
        self.block()
        self.expect("end")

    def _name_path(self) -> None:
        self.next()
        while self.accept(".", ":"):
            self.next()

    def _function_body(self) -> None:
        self.expect("(")
        while not self.accept(")"):
            self.next()
        self.block()
        self.expect("end")

    def _call_or_assignment(self) -> None:
        self._value()
        while self.accept(","):
            self._value()
        if self.accept("="):
            self._expressions()

    # -- expressions ---------------------------------------------------------------------------------------------------

    def condition(self) -> None:
        """Parse the condition of a statement. Its mutants are its negation, and each of its operands dropped."""
        self._negate(self._or())

    def _expressions(self) -> None:
        self._expression()
        while self.accept(","):
            self._expression()

    def _expression(self) -> None:
        span = self._or()
        if span.is_boolean:
            self._negate(span)

    def _or(self) -> Span:
        return self._chain("or", self._and)

    def _and(self) -> Span:
        return self._chain("and", self._comparison)

    def _chain(self, operator: str, operand: Callable[[], Span]) -> Span:
        operands = [operand()]
        while self.accept(operator):
            operands.append(operand())
        if len(operands) == 1:
            return operands[0]
        self._drop_operands(operator, operands)
        return Span(operands[0].start, operands[-1].end)

    def _comparison(self) -> Span:
        start, is_boolean = self.token.start, self.token.text == "not"
        self._unary()
        while self.token.kind == "operator" and self.token.text in _COMPARISONS | _ARITHMETIC:
            is_boolean = self.next().text in _COMPARISONS or is_boolean
            self._unary()
        return Span(start, self.last_end, is_boolean)

    def _unary(self) -> None:
        while self.accept("not", "-", "#"):
            pass
        self._value()

    def _value(self) -> None:
        """Parse a literal, a function, a table, or a variable with its fields and calls."""
        if self.token.kind == "end":
            self.expect("an expression")
        if self.accept("function"):
            self._function_body()
            return
        if self.accept("("):
            self._expression()
            self.expect(")")
        elif self.token.text == "{" and self.token.kind == "operator":
            self._table()
            return
        else:
            self.next()
        while True:
            if self.accept(".", ":"):
                self.next()
            elif self.accept("["):
                self._expression()
                self.expect("]")
            elif self.accept("("):
                if not self.accept(")"):
                    self._expressions()
                    self.expect(")")
            elif self.token.kind == "literal" and self.token.text[0] in "'\"[":
                self.next()
            elif self.token.text == "{":
                self._table()
            else:
                return

    def _table(self) -> None:
        self.expect("{")
        while not self.accept("}"):
            if self.accept("["):
                self._expression()
                self.expect("]")
                self.expect("=")
            elif self.token.kind == "name" and self._tokens[self._index + 1].text == "=":
                self.next()
                self.next()
            self._expression()
            self.accept(",", ";")
