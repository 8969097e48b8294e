"""Loads and checks the arithmetic templates of the starter domain, and draws questions from them.

The files are `arithmetic/*.toml`, one per setting. Each is a list of `[[template]]` tables:

    id        unique over all files, kebab-case
    split     "train", "dev" or "test"; all questions drawn from a template belong to its split
    steps     1 to 5: the number of statements of `program` and of lines of `solution`
    text      the facts; every quantity appears in it as `{name}`
    ask       the question without the facts and without placeholders
    result    a noun phrase for the answer: "Call {result} A." and "What is {result}?" both read well
    unit      what the answer counts
    program   assignments over the quantities, the last one to `answer`
    solution  one sentence per step; placeholders are quantities and program variables
    where     optional: a condition over quantities and program variables; numbers are redrawn until it holds
    quantities.NAME = { low, high, step = 1, link = false }

`link = true` lets the result of an earlier template in a chain replace the quantity; the text then shows a name such as
"A". A linked value may lie outside low..high, but must pass `Template.admits`: every quantity must be a positive
integer, every program variable must be positive with at most two decimals, and `where` must hold.

Unknown keys, names and placeholders are refused when a file is loaded. The attacker chooses the order of linked
templates and the names of their results.
"""

import ast
import random
import re
import string
import tomllib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import CodeType
from typing import Any, Literal

from nanoflux_local.answers import plain_number
from nanoflux_local.errors import DataError

Split = Literal["train", "dev", "test"]
Number = int | float
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
MAX_STEPS = 5
"""The maximum number of steps of a template."""
_MAX_DRAWS = 1000
"""The number of draws after which a template is considered to admit no values."""
_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TEXT_KEYS = ("id", "split", "text", "ask", "result", "unit", "program")
_KEYS = frozenset({*_TEXT_KEYS, "steps", "solution", "quantities", "where"})


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in the text. It is drawn from low, low + step, ... up to high. With `link`, the result of an earlier
    template may replace it.
    """

    name: str
    low: int
    high: int
    step: int = 1
    link: bool = False

    def draw(self, rng: random.Random, share: float) -> int:
        """Draw a value from the lower part of the range: the fraction `share`, in (0, 1], of the whole range."""
        highest = self.low + int((self.high - self.low) * share)
        return rng.randrange(self.low, highest + 1, self.step)


@dataclass(frozen=True, slots=True)
class Template:
    """One word problem with open quantities, the program that solves it and the sentences that explain it."""

    id: str
    setting: str
    split: Split
    steps: int
    text: str
    ask: str
    result: str
    unit: str
    program: str
    solution: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    where: str = "True"

    @property
    def links(self) -> tuple[str, ...]:
        """The quantities that an earlier result may replace."""
        return tuple(quantity.name for quantity in self.quantities if quantity.link)

    def draw(self, rng: random.Random, share: float = 1.0) -> dict[str, int]:
        """Draw values of all quantities until the template admits them. Equal states of `rng` give equal values.

        A `share` below 1 restricts the draw to the lower part of every range, for problems with smaller numbers.

        Raises:
            DataError: the template admits none of the drawn values.
        """
        for _ in range(_MAX_DRAWS):
            values = {quantity.name: quantity.draw(rng, share) for quantity in self.quantities}
            if self.admits(values):
                return values
        raise DataError(
            f"{self.setting}.toml: template {self.id!r}: "
            f"none of {_MAX_DRAWS} draws gives values that the template admits",
            "widen the ranges" + (", or loosen `where`" if self.where != "True" else ""),
        )

    def solve(self, values: Mapping[str, Number]) -> dict[str, Number]:
        """The values of all quantities and program variables, including `answer`.

        The program runs in this process, without builtins. It is part of this package, and never written by a model.
        """
        variables: dict[str, Any] = {"__builtins__": {}, **values}
        exec(_compile(self.program, "exec"), variables)
        del variables["__builtins__"]
        return {name: _remove_noise(value) for name, value in variables.items()}

    def admits(self, values: Mapping[str, Number]) -> bool:
        """Whether the problem makes sense with these values; the module's docstring states the rule."""
        if not all(value > 0 and value == int(value) for value in values.values()):
            return False
        try:
            variables = self.solve(values)
            holds = bool(eval(_compile(self.where, "eval"), {"__builtins__": {}, **variables}))
        except ArithmeticError:  # a linked value can make a divisor zero
            return False
        return holds and all(value > 0 and _has_at_most_two_decimals(value) for value in variables.values())

    def build_question_text(self, values: Mapping[str, object]) -> str:
        """The facts, in which each quantity is a number, or a name such as "A" for an earlier result."""
        return _fill(self.text, values)

    def solution_lines(self, variables: Mapping[str, object]) -> list[str]:
        """The solution, one line per step, with the values of the variables that `solve` returned."""
        return [_fill(line, variables) for line in self.solution]


@cache
def load_templates() -> tuple[Template, ...]:
    """All templates of the package, in alphabetical order of their settings."""
    folder = resources.files(__package__) / "arithmetic"
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    files.sort(key=lambda file: file.name)
    templates: list[Template] = []
    seen_ids: set[str] = set()
    for file in files:
        for template in parse_templates(file.name, file.read_text(encoding="utf-8")):
            if template.id in seen_ids:
                raise _build_error(file.name, template.id, "id", "is used twice")
            seen_ids.add(template.id)
            templates.append(template)
    return tuple(templates)


def parse_templates(file: str, content: str) -> tuple[Template, ...]:
    """The templates in `content`, which is TOML. Errors name `file`, whose name without the suffix is the setting.

    Raises:
        DataError: the content is not TOML, or a template is invalid.
    """
    try:
        tables = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{file}: not valid TOML: {error}", "correct the file; nothing was loaded") from error
    rows = tables.pop("template", None)
    if tables or not isinstance(rows, list):
        raise DataError(f"{file}: expected [[template]] tables and nothing else", "check the spelling of the headers")
    return tuple(build_template(file, row) for row in rows)


def build_template(file: str, row: Mapping[str, Any]) -> Template:
    """One template from its table. Errors name `file`, whose name without the suffix is the setting.

    Raises:
        DataError: a key is unknown, missing or wrong, or the texts, program and quantities disagree.
    """
    template_id = str(row.get("id", "without id"))

    def check(condition: bool, key: str, problem: str) -> None:
        if not condition:
            raise _build_error(file, template_id, key, problem)

    _check_keys(row, check)
    quantities = tuple(_parse_quantity(slot, table, check) for slot, table in row["quantities"].items())
    check(any(quantity.link for quantity in quantities), "quantities", "no quantity has link = true")
    template = Template(
        **{key: row[key] for key in _TEXT_KEYS},
        setting=file.removesuffix(".toml"),
        steps=row["steps"],
        solution=tuple(row["solution"]),
        quantities=quantities,
        where=row.get("where", "True"),
    )
    _check_program(template, check)
    return template


_Check = Callable[[bool, str, str], None]
"""Raises the DataError of a template (key, problem) if the first argument is false."""


def _check_keys(row: Mapping[str, Any], check: _Check) -> None:
    """Check that the table has all required keys, no unknown keys, and values of the right types."""
    for key in row:
        check(key in _KEYS, key, "is unknown")
    for key in sorted(_KEYS - {"where"}):
        check(key in row, key, "is missing")
    for key in _TEXT_KEYS:
        check(isinstance(row[key], str) and row[key].strip() != "", key, "must be a non-empty string")
    check(isinstance(row.get("where", ""), str), "where", "must be a string")
    check(_KEBAB.fullmatch(row["id"]) is not None, "id", "must be kebab-case")
    check(row["split"] in SPLITS, "split", f"must be one of {', '.join(SPLITS)}")
    check(_is_count(row["steps"]) and row["steps"] <= MAX_STEPS, "steps", f"must be a number from 1 to {MAX_STEPS}")
    lines = row["solution"]
    check(
        isinstance(lines, list) and all(isinstance(line, str) for line in lines),
        "solution",
        "must be a list of strings",
    )
    check(len(lines) == row["steps"], "solution", "must have one line per step")
    check(isinstance(row["quantities"], dict), "quantities", "must be a table")


def _parse_quantity(name: str, table: Any, check: _Check) -> Quantity:
    """Check the table of a quantity, and build the quantity from it."""
    slot_key = f"quantities.{name}"
    check(isinstance(table, dict), slot_key, "must be a table")
    check(name.isidentifier() and name not in {"answer", "True", "False", "None"}, slot_key, "cannot be used as a name")
    for key in table:
        check(key in {"low", "high", "step", "link"}, f"{slot_key}.{key}", "is unknown")
    for key in ("low", "high"):
        check(key in table, f"{slot_key}.{key}", "is missing")
    for key in table.keys() - {"link"}:
        check(_is_count(table[key]), f"{slot_key}.{key}", "must be a positive integer")
    check(table["low"] <= table["high"], f"{slot_key}.high", "is below low")
    check(isinstance(table.get("link", False), bool), f"{slot_key}.link", "must be true or false")
    return Quantity(name=name, **table)


def _check_program(template: Template, check: _Check) -> None:
    """Check that the program, the condition and the texts use only defined names, so that no draw fails later."""
    slots = {quantity.name for quantity in template.quantities}
    names = set(slots)
    statements = _parse_statements(template.program, "exec", "program", check)
    check(len(statements) == template.steps, "program", "must have one statement per step")
    for statement in statements:
        new_name = statement.assigned_name
        check(new_name is not None and new_name not in names, "program", "must assign a new name in every statement")
        _check_names(statement, names | {str(new_name)}, "program", check)
        names.add(str(new_name))
    check(statements[-1].assigned_name == "answer", "program", "must end by setting answer")
    (condition,) = _parse_statements(template.where, "eval", "where", check)
    _check_names(condition, names, "where", check)
    check(_find_placeholders(template.text, "text", check) == slots, "text", f"must name exactly {_join_names(slots)}")
    for key in ("ask", "result", "unit"):
        check(not _find_placeholders(getattr(template, key), key, check), key, "must have no placeholder")
    for line in template.solution:
        unknown_names = _find_placeholders(line, "solution", check) - names
        check(not unknown_names, "solution", f"has the unknown placeholder {_join_names(unknown_names)}")


@dataclass(frozen=True, slots=True)
class _Statement:
    """A statement of a program, or a condition: the name that it assigns (None if it is not a simple assignment), and
    all names that occur in it.
    """

    assigned_name: str | None
    names: frozenset[str]


def _parse_statements(source: str, mode: Literal["exec", "eval"], key: str, check: _Check) -> tuple[_Statement, ...]:
    """The statements in `source`, which is the value of the template's `key`. Raises the template's DataError if
    `source` is not Python.
    """
    try:
        return _parse_source(source, mode)
    except SyntaxError as error:
        check(False, key, f"is not Python: {error.msg}")
        raise  # never reached, since `check` raises


@cache
def _parse_source(source: str, mode: Literal["exec", "eval"]) -> tuple[_Statement, ...]:
    """The statements of a source text. Cached, since the templates of one plot (`stories`) share a program."""
    tree = ast.parse(source, mode=mode)
    nodes = tree.body if isinstance(tree, ast.Module) else [tree]
    return tuple(_Statement(_find_assigned_name(node), _find_names(node)) for node in nodes)


def _find_assigned_name(statement: ast.AST) -> str | None:
    """The name that a statement assigns; None if it is not a simple assignment."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    return None


def _find_names(tree: ast.AST) -> frozenset[str]:
    """All names in a statement or condition."""
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _check_names(statement: _Statement, allowed_names: set[str], key: str, check: _Check) -> None:
    """Check that a statement of the template's `key` uses only allowed names."""
    unknown_names = statement.names - allowed_names
    check(not unknown_names, key, f"uses the unknown name {_join_names(unknown_names)}")


def _find_placeholders(text: str, key: str, check: _Check) -> set[str]:
    """The names in braces in a text of the template's `key`. Raises the template's DataError if braces do not match."""
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        check(False, key, f"has an unbalanced brace: {error}")
        raise  # never reached, since `check` raises
    return {name for _, name, _, _ in pieces if name is not None}


def _build_error(file: str, template_id: str, key: str, problem: str) -> DataError:
    """The error about one key of a template."""
    return DataError(f"{file}: template {template_id!r}: key {key!r} {problem}", "correct the file; nothing was loaded")


def _join_names(names: Set[str]) -> str:
    return ", ".join(sorted(names))


def _is_count(value: Any) -> bool:
    """Whether a value is a positive integer; True, which Python counts as 1, is not."""
    return type(value) is int and value > 0


def _fill(text: str, values: Mapping[str, object]) -> str:
    """A text with its placeholders replaced by values; numbers are written without needless zeros."""
    text_by_name = {
        name: plain_number(value) if isinstance(value, int | float) else str(value) for name, value in values.items()
    }
    return text.format_map(text_by_name)


def _remove_noise(value: Number) -> Number:
    """The value without floating-point noise (33.3 + 66.6 becomes 99.9), as an integer if it is whole."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded


def _has_at_most_two_decimals(value: Number) -> bool:
    return abs(value - round(value, 2)) < 1e-6


@cache
def _compile(source: str, mode: Literal["exec", "eval"]) -> CodeType:
    """The compiled program or condition of a template."""
    return compile(source, "<template>", mode)
