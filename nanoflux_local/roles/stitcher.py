"""The built-in attacker, which calls no model: it chains the programs of seeds into one multi-hop question (concept
stitching, paper §3).

Each seed becomes a part of the question (`seeds.part`). The result of one part becomes a quantity of the next part, in
the text and in the program. The sandbox runs the program to compute the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanoflux_local.answers import plain_number, read_number
from nanoflux_local.config import PROGRAM
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import Identity, PythonReply, PythonRequest
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.seeds.part import Part, fill
from nanoflux_local.seeds.source import SeedSource
from nanoflux_local.transcript import Attack, Seed

RESULT_LETTERS = "XYZUVWKMNPQRSTBCDEFGHJL"
"""The letters that name results. "A" and "I" are left out because they are words, and "O" because it looks like
a zero."""
LARGEST_RATIO = 100
"""The largest ratio that a result may have to the number that it replaces in the next part, unless that part
accepts any result (`made_for_chains`). A larger result is fitted: reduced to a number from 1 to 1000.
"""
FIT_FUNCTION = "def fit(x):\n    return math.floor(abs(x) + 0.5) % 1000 + 1\n"
"""The source of the function that fits a result to the next part."""
FIT_INSTRUCTION = (
    "Take this answer without its sign, round it to the nearest whole number (halves up), divide that by 1000, and "
    "call the remainder plus 1 {name}."
)
"""The calculation of `FIT_FUNCTION` in words, for the text of the question."""


def make_result_name(number: int) -> str:
    """The name of the result of part `number`, from 0: X, Y, …, L, then X2, Y2 and so on."""
    earlier_rounds, letter_index = divmod(number, len(RESULT_LETTERS))
    suffix = str(earlier_rounds + 1) if earlier_rounds else ""
    return RESULT_LETTERS[letter_index] + suffix


@dataclass(frozen=True, slots=True)
class Trace:
    """The values that a chain computed: the variables of each part, the links (each is the number that a part passes to
    the next one), and whether each link was fitted.
    """

    variables: tuple[dict[str, float], ...]
    links: tuple[float, ...]
    fitted: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class StitchingAttacker:
    """Builds attacks from seeds with programs; calls no model. A chained program may run for `timeout_s` seconds."""

    source: SeedSource
    sandbox: Identity
    timeout_s: float
    name: str = PROGRAM

    async def attack(self, seeds: tuple[Seed, ...], draw: Draw, call: Call) -> Attack | Unparsed:
        """Chain the seeds into a question. Returns the attack, or why there is none."""
        parts = self.source.chain(seeds, draw.rng("chain"))
        if parts is None:
            return Unparsed("no order of these seeds lets each result feed the next")
        reply = await call(PythonRequest(self.sandbox, build_tracing_program(parts), self.timeout_s))
        trace = read_trace(parts, reply)
        if isinstance(trace, Unparsed):
            return trace
        answer = plain_number(trace.variables[-1]["answer"])
        program = build_answer_program(parts, trace)
        return Attack(build_question_text(parts, trace), build_solution_text(parts, trace), answer, program)


def _write_functions(parts: Sequence[Part]) -> str:
    """Python source with one function per part. From the second part on, the parameter is the quantity that the result
    of the previous part replaces.
    """
    blocks = ["import math\n", FIT_FUNCTION]
    for number, part in enumerate(parts):
        parameter = part.slot_variable if number else ""
        lines = [f"    {name} = {value}" for name, value in part.statements if name != parameter]
        blocks.append("\n".join([f"def part_{number + 1}({parameter}):", *lines, "    return locals()\n"]))
    return "\n\n".join(blocks)


def build_tracing_program(parts: Sequence[Part]) -> str:
    """A program that prints each variable of each part, and decides which links are fitted.

    For each part it prints lines such as `0 rolls 12` (part, variable, value), and then `link 12 direct`. A positive
    whole result that is not too large for the next part is linked directly; any other result is fitted.
    """
    program = [_write_functions(parts), "def show(number, variables):"]
    program += ["    for name, value in variables.items():", "        print(number, name, repr(value))\n\n"]
    argument = ""
    for number in range(len(parts)):
        program.append(f"values = part_{number + 1}({argument})\nshow({number}, values)\nx = values['answer']")
        if number + 1 < len(parts):
            next_part = parts[number + 1]
            limit = "math.inf" if next_part.made_for_chains else f"{LARGEST_RATIO} * {next_part.value.replace(',', '')}"
            program.append(f"direct = x > 0 and x == int(x) and x <= {limit}\nlink = int(x) if direct else fit(x)")
            program.append("print('link', repr(link), 'direct' if direct else 'fitted')")
            argument = "link"
    return "\n".join(program) + "\n"


def read_trace(parts: Sequence[Part], reply: PythonReply) -> Trace | Unparsed:
    """Read the values that the tracing program printed. Its output is untrusted: it is parsed, never evaluated."""
    if reply.status != "ok":
        return Unparsed(f"the chained program ended with {reply.status}: {reply.stderr.strip()[-200:]}")
    variables: list[dict[str, float]] = [{} for _ in parts]
    links: list[float] = []
    fitted: list[bool] = []
    for line in reply.stdout.splitlines():
        first_word, second_word, third_word = line.split(" ", 2)
        value = read_number(second_word if first_word == "link" else third_word)
        if value is None:
            return Unparsed(f"the chained program printed {line[:80]!r}, which is not a number")
        if first_word == "link":
            links.append(value)
            fitted.append(third_word == "fitted")
        else:
            variables[int(first_word)][second_word] = value
    return Trace(tuple(variables), tuple(links), tuple(fitted))


def build_question_text(parts: Sequence[Part], trace: Trace) -> str:
    """The texts of the parts. After each part but the last, its result is given a name, which the next part uses; after
    the last part, the question is asked.
    """
    sentences: list[str] = []
    for number, part in enumerate(parts):
        text = part.text(make_result_name(number - 1) if number else "").strip()
        name = make_result_name(number)
        if number + 1 == len(parts):
            sentences.append(f"{text} {part.ask}".strip())
        elif trace.fitted[number]:
            sentences.append(f"{text} {FIT_INSTRUCTION.format(name=name)}")
        else:
            sentences.append(f"{text} Call {part.result or 'the answer to this'} {name}.")
    if all(part.made_for_chains for part in parts):
        return " ".join(sentences)
    return "\n".join(f"Part {number}. {text}" for number, text in enumerate(sentences, 1))


def build_solution_text(parts: Sequence[Part], trace: Trace) -> str:
    """The parts' explanations with the computed numbers, one line per part."""
    steps: list[str] = []
    for number, part in enumerate(parts):
        step = " ".join(fill(line, trace.variables[number]) for line in part.lines)
        if number + 1 < len(parts):
            step += " " + _build_link_text(trace, number)
        steps.append(step.strip())
    return "\n".join(steps)


def _build_link_text(trace: Trace, number: int) -> str:
    """The sentence that derives the link from the result of part `number`."""
    name = make_result_name(number)
    link = plain_number(trace.links[number])
    if not trace.fitted[number]:
        return f"So {name} = {link}."
    answer = plain_number(abs(trace.variables[number]["answer"]))
    remainder = plain_number(float(int(link) - 1))
    return (
        f"Rounded, {answer} leaves the remainder {remainder} when divided by 1000, "
        f"so {name} = {remainder} + 1 = {link}."
    )


def build_answer_program(parts: Sequence[Part], trace: Trace) -> str:
    """The program of the attack: the parts, linked as in the question, and the answer printed at the end."""
    program = [_write_functions(parts)]
    for number in range(len(parts)):
        argument = make_result_name(number - 1) if number else ""
        result = f"part_{number + 1}({argument})['answer']"
        if number + 1 == len(parts):
            program.append(f"print(repr({result}))")
        else:
            convert = "fit" if trace.fitted[number] else "int"
            program.append(f"{make_result_name(number)} = {convert}({result})")
    return "\n".join(program) + "\n"
