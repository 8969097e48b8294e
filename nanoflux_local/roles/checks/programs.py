"""Programs of a fixed form that compute an answer: reads them from a reply, has the sandbox run them, and reads the
answer from their output.

This process only parses a program; the sandbox runs it. The program's output is treated as text.
"""

import ast
import re
from collections.abc import Mapping

from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.records import ChatReply, Identity, PythonReply, PythonRequest, digest, storable
from nanoflux_local.roles.attacker import normalize_answer
from nanoflux_local.roles.sections import Unparsed, read_sections

PARTS = ("VARIABLES", "STEPS", "CHECK")
"""The parts of a program, in order. Each starts with a comment line that contains its name."""
MAX_PROGRAM_CHARACTERS = 8000
"""The maximum number of characters of a program. A longer program is refused, because nobody could review it."""
NONE = "NONE"
"""The judge's reply if a solution calculates nothing."""
_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE
)
"""A fenced code block of Python, or of no stated language."""
_PART_NAMES = "|".join(PARTS)
_PART = re.compile(
    rf"^[ \t]*#[ \t#*]*(?:\d+[.)][ \t]*)?(?:({_PART_NAMES})\b.*|((?i:{_PART_NAMES}))[ \t:*]*)$", re.MULTILINE
)
"""The comment line that opens a part: it begins with the part's name in capitals, or consists of the name in upper or
lower case.
"""
_CALCULATING_NODES = (ast.BinOp, ast.UnaryOp, ast.AugAssign, ast.Call, ast.Compare, ast.IfExp, ast.Subscript)
"""The kinds of syntax that count as a calculation if they use a name."""


def read_program(reply: ChatReply) -> str | Unparsed:
    """Read the program of a reply, in the fixed form; `NONE` if the judge says that nothing is calculated.

    Code blocks without the heading of a part are remarks or output. A program may be split over several blocks.
    """
    blocks = extract_code(reply)
    if isinstance(blocks, Unparsed):
        return blocks
    part_blocks = [block for block in blocks if _PART.search(block)]
    program = "\n".join(part_blocks if part_blocks else blocks)
    return NONE if program.strip(" .#*\n").upper() == NONE else validate_form(program)


def extract_code(reply: ChatReply) -> list[str] | Unparsed:
    """The code blocks of a reply, in order. A reply without code blocks counts as a single block: its section CODE if
    it has one, otherwise its whole text.
    """
    text = strip_reasoning(storable(reply.text))
    sections = read_sections(text, ("CODE",))
    code = text if isinstance(sections, Unparsed) or _BLOCK.search(text) else sections["CODE"]
    blocks = _BLOCK.findall(f"{code}\n")
    if blocks:
        return list(blocks)
    if reply.finish == "length":
        return Unparsed("it is too long and was cut off")
    code_before_fence = code.strip().partition("\n```")[0]  # a closing fence without an opening one
    return [code_before_fence.strip(" `\n")]


def validate_form(program: str) -> str | Unparsed:
    """The program if its parts are in order and it calculates its answer from named quantities; otherwise, why it is
    refused.
    """
    headings = list(_PART.finditer(program))
    line_by_part: dict[str, int] = {}
    for heading in headings:
        part = heading[1] or heading[2]  # `_PART` has a group for each of its two forms
        line_by_part[part.upper()] = program.count("\n", 0, heading.start()) + 1
    if tuple(line_by_part) != PARTS or len(headings) != len(PARTS):
        required_lines = ", ".join(f"# {part}" for part in PARTS)
        return Unparsed(f"the comment lines {required_lines} must open its parts, in order")
    tree = parse_code(program)
    return tree if isinstance(tree, Unparsed) else _refuse_stated_answer(program, tree, line_by_part)


def parse_code(program: str) -> ast.Module | Unparsed:
    """The syntax tree of a program, or why it has none."""
    if len(program) > MAX_PROGRAM_CHARACTERS:
        return Unparsed(f"it is longer than {MAX_PROGRAM_CHARACTERS} characters")
    try:
        return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Unparsed(f"it is no Python: {error}"[:200])


def _refuse_stated_answer(program: str, tree: ast.Module, line_by_part: Mapping[str, int]) -> str | Unparsed:
    """Refuse a program that only states an answer: it would seem to confirm any answer copied into it."""
    variables_line, steps_line = line_by_part["VARIABLES"], line_by_part["STEPS"]
    variable_nodes = [node for node in tree.body if variables_line < node.lineno < steps_line]
    if not any(_list_names(node, ast.Store) for node in variable_nodes):
        return Unparsed("# VARIABLES names no quantity of the problem")
    calculated: set[str] = set()  # the names whose value comes from a calculation
    for node in tree.body:
        if _calculates(node) or _list_names(node, ast.Load) & calculated:
            calculated |= _list_names(node, ast.Store)
        else:
            calculated -= _list_names(node, ast.Store)
    if not calculated:
        return Unparsed("it calculates nothing from the variables")
    if "answer" not in calculated:
        return Unparsed("`answer` must be set in # CHECK from a calculated name, not from a bare value")
    return program


def _calculates(node: ast.stmt) -> bool:
    """Whether a statement calculates something from a name."""
    return any(isinstance(child, _CALCULATING_NODES) and _list_names(child, ast.Load) for child in ast.walk(node))


def _list_names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """The names that a statement reads (`ast.Load`) or assigns (`ast.Store`)."""
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name) and isinstance(child.ctx, context)}


def append_answer_print(program: str) -> str:
    """Add a last line that prints the answer after a marker. The marker contains the hash of the program, so a program
    cannot print its own marker earlier.
    """
    value = "answer if isinstance(answer, (int, str)) else float(answer)"
    return f"{program}\n\nprint()\nprint({make_marker(program)!r}, {value})\n"


def make_marker(program: str) -> str:
    """The word that precedes the answer in the output of a program."""
    return f"answer-{digest(program)[:16]}"


async def run_program(program: str, domain: Domain, sandbox: Identity, timeout_s: float, call: Call) -> str | Unparsed:
    """Run a program in the sandbox. Returns the answer that it printed, or why it gave none."""
    reply = await call(PythonRequest(sandbox, append_answer_print(program), timeout_s))
    return _read_answer(program, domain, reply)


def _read_answer(program: str, domain: Domain, reply: PythonReply) -> str | Unparsed:
    """Read the answer from the output of a program that `append_answer_print` has extended."""
    failure = describe_failure(reply)
    if failure is not None:
        return failure
    lines = reply.stdout.splitlines()
    last_line = lines[-1] if lines else ""
    marker, _, printed_answer = last_line.partition(" ")
    if marker != make_marker(program):
        return Unparsed("it ended before its answer was read")
    if normalize_answer(domain, printed_answer) is None:
        return Unparsed(f"it gives {printed_answer[:80]!r}, which is no {domain.answer}")
    return printed_answer


def describe_failure(reply: PythonReply) -> Unparsed | None:
    """Why a program failed, with the last line of its errors; None if it ended normally."""
    if reply.status == "ok":
        return None
    error_lines = reply.stderr.strip().splitlines()
    last_error_line = error_lines[-1] if error_lines else "nothing was said"
    return Unparsed(f"it ended with {reply.status}: {last_error_line[:200]}")
