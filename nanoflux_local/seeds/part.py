"""Parts: seed questions in a form that can be chained into a new question (concept stitching, paper §3)."""

import ast
import re
from dataclasses import dataclass

from nanoflux_local.answers import plain_number

_ARITHMETIC_FUNCTIONS = {"abs", "int", "float", "round", "max", "min", "sum"}
_ARITHMETIC_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load, ast.Call, ast.operator, ast.unaryop,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One seed question in a chain. Its text states facts, one of which has a slot: a quantity that the result of the
    previous part can replace.

    `before` and `after` are the facts on either side of the slot, `value` is the original quantity as written, and
    `slot_variable` is the name of the slot's variable ("" for a part that can only be the first one). `ask` is the
    question if it is separate from the facts; `result` is a noun phrase for the answer, or "". `statements` are the
    program's assignments (variable, expression) in order; the last one assigns `answer`. `lines` explain the
    statements, with variables as {placeholders}. A part that is `made_for_chains` makes sense with any result that its
    seed source puts into the slot.
    """

    seed: str
    before: str
    after: str
    ask: str
    result: str
    slot_variable: str
    value: str
    statements: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    made_for_chains: bool

    def text(self, quantity: str = "") -> str:
        """The facts, with `quantity` in the slot, or with the original quantity if `quantity` is ""."""
        return self.before + (quantity or self.value) + self.after


def split_into_parts(seed: str, question: str, code: str) -> list[Part]:
    """One part for each possible slot of a question whose program `code` consists only of assignments; [] for other
    programs.

    A possible slot is a whole number above 1 that occurs exactly once in the question and once in the program. The
    answer must depend on it; otherwise the previous part's result would have no effect.
    """
    statements = read_assignments(code)
    if statements is None:
        return []
    number_counts: dict[str, int] = {}
    for _, expression in statements:
        for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", expression):
            number_counts[number] = number_counts.get(number, 0) + 1
    lines = tuple(
        _explain_assignment(name, expression) for name, expression in statements if not _is_number_or_name(expression)
    )
    parts = []
    needed_variables = _find_needed_variables(statements)
    for name, expression in statements:
        is_whole_number = re.fullmatch(r"\d+", expression) is not None
        if name not in needed_variables or not is_whole_number:
            continue
        if int(expression) < 2 or number_counts[expression] != 1:
            continue
        span = _find_only_occurrence(question, int(expression))
        if span is not None:
            start, end = span
            parts.append(
                Part(seed, question[:start], question[end:], ask="", result="", slot_variable=name,
                     value=question[start:end], statements=statements, lines=lines, made_for_chains=False)
            )  # fmt: skip
    return parts


def _find_needed_variables(statements: tuple[tuple[str, str], ...]) -> set[str]:
    """The variables from which the answer is calculated, directly or through others."""
    needed_variables = {"answer"}
    for name, expression in reversed(statements):
        if name in needed_variables:
            needed_variables.update(re.findall(r"[^\W\d]\w*", expression))
    return needed_variables


def read_assignments(code: str) -> tuple[tuple[str, str], ...] | None:
    """The assignments in `def solution()`, then its return value, assigned to `answer`; None if the function does
    anything else.

    Code after the function, such as a line that prints the result, is ignored.
    """
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: code nested too deep
        return None
    if not body or not isinstance(body[0], ast.FunctionDef):
        return None
    statements: list[tuple[str, str]] = []
    for node in body[0].body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring:
            continue
        if isinstance(node, ast.Return) and node.value is not None and _is_arithmetic(node.value):
            is_last_statement = node is body[0].body[-1]
            return (*statements, ("answer", ast.unparse(node.value))) if is_last_statement else None
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            return None
        name = node.targets[0].id
        is_assigned_before = any(name == earlier_name for earlier_name, _ in statements)
        if name == "answer" or is_assigned_before or not _is_arithmetic(node.value):
            return None
        statements.append((name, ast.unparse(node.value)))
    return None


def _is_arithmetic(expression: ast.expr) -> bool:
    """Whether an expression is arithmetic over numbers, names, and calls of a few functions."""
    for node in ast.walk(expression):
        if not isinstance(node, _ARITHMETIC_NODES):
            return False
        if isinstance(node, ast.Constant) and (isinstance(node.value, bool) or not isinstance(node.value, int | float)):
            return False
        if isinstance(node, ast.Call):
            is_allowed_call = isinstance(node.func, ast.Name) and node.func.id in _ARITHMETIC_FUNCTIONS
            if not is_allowed_call:
                return False
    return True


def _is_number_or_name(expression: str) -> bool:
    """Whether an expression is only a number or a name, which needs no explanation."""
    return re.fullmatch(r"-?[\d.]+|\w+", expression) is not None


def _explain_assignment(name: str, expression: str) -> str:
    """The explanation of an assignment: `eggs_sold = eggs - eaten` gives "Eggs sold = {eggs} - {eaten} =
    {eggs_sold}.".
    """
    tree = ast.parse(expression, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in _ARITHMETIC_FUNCTIONS:
            node.id = "{" + node.id + "}"
    label = "the answer" if name in ("answer", "result") else name.replace("_", " ")
    return f"{label[0].upper()}{label[1:]} = {ast.unparse(tree)} = {{{name}}}."


def _find_only_occurrence(question: str, number: int) -> tuple[int, int] | None:
    """The span of `number` in the text, with or without thousands separators; None unless it occurs exactly once."""
    number_with_commas = f"{number:,}"
    pattern = rf"(?<![\w.,])(?<!\d[/:])(?:{number}|{re.escape(number_with_commas)})(?![\w%]|[.,/:]\d)"
    spans = [match.span() for match in re.finditer(pattern, question)]
    return spans[0] if len(spans) == 1 else None


def fill(line: str, variables: dict[str, float]) -> str:
    """A line of an explanation with its placeholders replaced by the values of the variables."""
    return line.format_map({name: plain_number(value) for name, value in variables.items()})
