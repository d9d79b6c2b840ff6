"""Mutants of Python functions."""

from textwrap import dedent

from tests.mutants import python_code, targets


def mutants(source: str) -> list[tuple[str, str]]:
    """Return the kind and the result of each mutant."""
    source = dedent(source).strip()
    changed: list[tuple[str, str]] = [
        (found.edit.change, found.edit.apply(source)) for found in python_code.edits(source)
    ]
    for _, text in changed:
        compile(text, "mutant", "exec")
    return changed


def subjects(source: str) -> list[tuple[str, str]]:
    source = dedent(source).strip()
    return [(found.edit.change, found.edit.subject) for found in python_code.edits(source)]


def test_each_statement_of_a_function_is_deleted() -> None:
    assert mutants("def f(x):\n    g(x)\n    return x") == [
        ("delete", "def f(x):\n    pass\n    return x"),
        ("delete", "def f(x):\n    g(x)\n    pass"),
    ]


def test_definitions_imports_docstrings_and_assertions_are_unchanged() -> None:
    source = '''
        import os
        LIMIT = 3 if os.name else 4
        class C:
            size: int = 3
            """Size."""
            @cached(LIMIT > 2)
            def f(self, x: int = LIMIT) -> None:
                """Do something."""
                import re
                assert x
                def inner() -> None:
                    g()
                pass
    '''
    assert subjects(source) == [("delete", "g()")]


def test_conditions_are_negated_and_lose_operands() -> None:
    source = """
        def f(x, y):
            if x and y > 1:
                a()
            elif not y:
                b()
            while x: c()
            return [each for each in x if each.ok] if y else None
    """
    found = subjects(source)
    assert [each for each in found if each[0] != "delete"] == [
        ("negate", "x and y > 1"),
        ("drop", "x"),
        ("drop", "y > 1"),
        ("negate", "not y"),
        ("negate", "x"),
        ("negate", "each.ok"),
        ("drop", "each.ok"),
        ("negate", "y"),
    ]
    assert all(compile(text, "mutant", "exec") for _, text in mutants(source))


def test_a_comparison_that_is_a_value_is_negated_once() -> None:
    assert [each for each in subjects("def f(x):\n    return bool(x != 1) or (x == 2)") if each[0] == "negate"] == [
        ("negate", "x != 1")
    ]


def test_columns_after_other_alphabets_are_right() -> None:
    assert ("delete", "def f(x):\n    é = 'ü'; pass") in mutants("def f(x):\n    é = 'ü'; g('ä', x)")


def test_statements_of_all_blocks_are_found() -> None:
    source = """
        async def f(x):
            try:
                with a() as b:
                    await c()
            except E:
                d()
            else:
                e()
            finally:
                g()
            match x:
                case 1:
                    h()
    """
    deleted = [subject.split("\n")[0] for change, subject in subjects(source) if change == "delete"]
    assert deleted == ["try:", "with a() as b:", "await c()", "d()", "e()", "g()", "match x:", "h()"]


def test_the_place_is_the_outermost_function() -> None:
    source = "class C:\n    def f(self):\n        def g():\n            return lambda: h() if x else y\n        g()"
    assert {found.function for found in python_code.edits(source)} == {"C.f"}


def test_each_mutant_of_the_modules_compiles() -> None:
    for mutant in targets.mutants():
        if not mutant.is_script:
            compile(mutant.mutated, mutant.path, "exec")
