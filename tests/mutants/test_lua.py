"""Mutants of Lua scripts."""

import pytest
from redis import Redis

from tests.cluster.redis_servers import RedisServer
from tests.mutants import lua, targets


def mutants(source: str) -> list[tuple[str, str]]:
    """Return the kind and the result of each mutant, with spaces collapsed."""
    return [(edit.change, " ".join(edit.apply(source).split())) for edit in lua.edits(source)]


def test_each_statement_is_deleted() -> None:
    assert mutants("a = 1; f(x)\nreturn a") == [
        ("delete", "do end; f(x) return a"),
        ("delete", "a = 1; do end return a"),
        ("delete", "a = 1; f(x) do end"),
    ]


def test_a_deleted_declaration_keeps_its_names() -> None:
    assert mutants("local a, b = f(), {x = 1, [2] = y; z}\nlocal c") == [("delete", "local a, b local c")]


def test_a_condition_is_negated_and_loses_each_operand() -> None:
    changed = mutants("if a and b == 1 then f() elseif not c then g() else h() end")
    assert ("negate", "if (not (a and b == 1)) then f() elseif not c then g() else h() end") in changed
    assert ("drop", "if ((b == 1)) then f() elseif not c then g() else h() end") in changed
    assert ("drop", "if ((a)) then f() elseif not c then g() else h() end") in changed
    assert ("negate", "if a and b == 1 then f() elseif (not (not c)) then g() else h() end") in changed
    assert ("delete", "if a and b == 1 then f() elseif not c then g() else do end end") in changed
    assert ("delete", "do end") in changed
    assert len(changed) == 8


def test_statements_inside_nested_blocks_and_functions_are_found() -> None:
    source = """
    local function f(n, ...)
      for i = 1, #n, 2 do
        for _, each in ipairs(n) do
          while i < 3 do if each then break end end
        end
      end
      repeat local x = g(function() return 1 end) until x
      return true
    end
    """
    deleted = [edit.subject.split()[0] for edit in lua.edits(source) if edit.change == "delete"]
    assert deleted == ["for", "for", "while", "if", "break", "repeat", "local", "return", "return"]
    assert [edit.subject for edit in lua.edits(source) if edit.change == "negate"] == ["i < 3", "each", "x"]


@pytest.mark.parametrize(
    "text",
    [
        "'if x then end'",
        '"a \\" -- no comment"',
        "[[ long ' string\n end ]]",
        "[==[ with ]] inside ]==]",
        "'it\\'s'",
    ],
)
def test_strings_are_no_code(text: str) -> None:
    assert [edit.subject for edit in lua.edits(f"x = {text}\ny = 1")] == [f"x = {text}", "y = 1"]


@pytest.mark.parametrize("comment", ["-- if x then", "--[[ end\n end ]]", "--[==[ ]] end ]==]", "--[ one line"])
def test_comments_are_no_code(comment: str) -> None:
    assert [edit.subject for edit in lua.edits(f"f() {comment}\ng()")] == ["f()", "g()"]


def test_calls_without_parentheses_and_methods_are_one_statement() -> None:
    assert [edit.subject for edit in lua.edits("a.b:c 'x' {1}[2].d = -#e .. f{} + 3e-2 f'y'")] == [
        "a.b:c 'x' {1}[2].d = -#e .. f{} + 3e-2",
        "f'y'",
    ]


def test_a_comparison_that_is_a_value_is_negated() -> None:
    changed = mutants("local x = a % 1 > 0")
    assert changed == [("delete", "local x"), ("negate", "local x = (not (a % 1 > 0))")]


def test_a_deleted_statement_keeps_the_line_numbers() -> None:
    source = "if a then\n  f()\nend\ng()"
    assert {edit.apply(source).count("\n") for edit in lua.edits(source)} == {3}


def test_an_unknown_construct_is_reported_with_its_line() -> None:
    with pytest.raises(lua.LuaSyntaxError, match="line 2: found 'end', expected ''"):
        lua.edits("f()\nend")


def test_each_mutant_of_the_scripts_is_valid_lua(redis_server: RedisServer) -> None:
    """A mutant that is not valid Lua would count as caught, although no test noticed the change."""
    with Redis.from_url(redis_server.url) as client:
        for mutant in targets.mutants():
            if mutant.is_script:
                client.script_load(mutant.mutated)
