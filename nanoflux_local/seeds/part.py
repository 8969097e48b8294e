"""A part: a seed question taken to pieces so that a chain can be built of several (concept stitching, paper §3)."""

import ast
import re
from dataclasses import dataclass

from nanoflux_local.answers import plain_number

_FUNCTIONS = {"abs", "int", "float", "round", "max", "min", "sum"}
_ALLOWED = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load, ast.Call, ast.operator, ast.unaryop,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One link of a chain.

    `before` and `after` are the text around the slot, the one quantity that an earlier result can replace (`slot`
    is its variable, "" for a part that can only come first; `value` what stands there otherwise). `ask` is the
    question if it stands apart from the facts, `result` a noun phrase for the answer or "". `statements` are
    assignments (variable, expression) in order, the last one to `answer`; `lines` explain them, with variables as
    {placeholders}. `fits` means that the story makes sense with an earlier result of any size.
    """

    seed: str
    before: str
    after: str
    ask: str
    result: str
    slot: str
    value: str
    statements: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    fits: bool

    def text(self, quantity: str = "") -> str:
        """The facts, with `quantity` in the slot."""
        return self.before + (quantity or self.value) + self.after


def take_apart(seed: str, question: str, code: str) -> list[Part]:
    """One part per slot of a question whose program is a straight line of assignments; empty if none can be made.

    A slot is a whole number above 1 that stands exactly once in the question and once in the program, and that the
    answer depends on: a result that replaced an idle quantity would link nothing.
    """
    statements = straight_line(code)
    if statements is None:
        return []
    counts: dict[str, int] = {}
    for _, expression in statements:
        for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", expression):
            counts[number] = counts.get(number, 0) + 1
    lines = tuple(_line(name, expression) for name, expression in statements if not _is_plain(expression))
    parts, needed = [], _find_needed(statements)
    for name, expression in statements:
        if name not in needed or not re.fullmatch(r"\d+", expression) or int(expression) < 2 or counts[expression] != 1:
            continue
        spot = _only_place(question, int(expression))
        if spot is not None:
            before, after = question[: spot[0]], question[spot[1] :]
            parts.append(
                Part(seed, before, after, "", "", name, question[slice(*spot)], statements, lines, fits=False)
            )  # fmt: skip
    return parts


def _find_needed(statements: tuple[tuple[str, str], ...]) -> set[str]:
    """The variables that the answer is calculated from, directly or through others."""
    needed = {"answer"}
    for name, expression in reversed(statements):
        if name in needed:
            needed.update(re.findall(r"[^\W\d]\w*", expression))
    return needed


def straight_line(code: str) -> tuple[tuple[str, str], ...] | None:
    """The assignments of `def solution()`, ending in one to `answer`; None if it does anything else.

    What follows the function (a line that prints its result) is not looked at.
    """
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        return None
    if not body or not isinstance(body[0], ast.FunctionDef):
        return None
    statements: list[tuple[str, str]] = []
    for node in body[0].body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.Return) and node.value is not None and _simple(node.value):
            return (*statements, ("answer", ast.unparse(node.value))) if node is body[0].body[-1] else None
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            return None
        name = node.targets[0].id
        if name == "answer" or any(name == earlier for earlier, _ in statements) or not _simple(node.value):
            return None
        statements.append((name, ast.unparse(node.value)))
    return None


def _simple(expression: ast.expr) -> bool:
    """Arithmetic over numbers and names, and calls of a few functions on such."""
    for node in ast.walk(expression):
        if not isinstance(node, _ALLOWED):
            return False
        if isinstance(node, ast.Constant) and (isinstance(node.value, bool) or not isinstance(node.value, int | float)):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS):
            return False
    return True


def _is_plain(expression: str) -> bool:
    """A bare number or a bare name: nothing to explain."""
    return re.fullmatch(r"-?[\d.]+|\w+", expression) is not None


def _line(name: str, expression: str) -> str:
    """`eggs_sold = {eggs} - {eaten} = {eggs_sold}`: the calculation with its numbers, under the name's words."""
    tree = ast.parse(expression, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in _FUNCTIONS:
            node.id = "{" + node.id + "}"
    words = "the answer" if name in ("answer", "result") else name.replace("_", " ")
    return f"{words[0].upper()}{words[1:]} = {ast.unparse(tree)} = {{{name}}}."


def _only_place(question: str, number: int) -> tuple[int, int] | None:
    """Where `number` stands in the text, with or without thousands separators; None unless exactly once."""
    grouped = f"{number:,}"
    alone = rf"(?<![\w.,])(?<!\d[/:])(?:{number}|{re.escape(grouped)})(?![\w%]|[.,/:]\d)"
    places = [match.span() for match in re.finditer(alone, question)]
    return places[0] if len(places) == 1 else None


def fill(line: str, variables: dict[str, float]) -> str:
    """A line with its placeholders replaced by plain numbers."""
    return line.format_map({name: plain_number(value) for name, value in variables.items()})
