"""Stitching: a chain of seeds becomes one question with one program, whose answer a separate computation confirms."""

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nanoflux_local.answers import numbers_agree, read_number
from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.records import PythonReply
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.program_judge import ProgramJudge
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.roles.stitcher import (
    RESULT_LETTERS,
    StitchingAttacker,
    build_answer_program,
    build_question_text,
    build_solution_text,
    build_tracing_program,
    make_result_name,
    read_trace,
)
from nanoflux_local.seeds.part import Part, split_into_parts
from nanoflux_local.seeds.reading import read_benchmark
from nanoflux_local.seeds.source import LINK_RANGE, Items, StarterTemplates
from nanoflux_local.transcript import Attack, Seed

HIGHEST_VALUES = {
    (template.id, quantity.name): quantity.high for template in load_templates() for quantity in template.quantities
}
"""The highest value of each quantity, by the template's id and the quantity's name."""
TRAIN_TEMPLATES = [template for template in load_templates() if template.split == "train"]


@dataclass(frozen=True)
class Story:
    """A seed in GSM-Hard's format. `lines` are the lines of its program, and `slot_variable` is the variable whose
    number, `slot_value`, is the slot. `solve` computes the answer from the number in the slot, without the program.
    """

    id: str
    question: str
    lines: tuple[str, ...]
    slot_variable: str
    slot_value: float
    solve: Callable[[float], float]

    @property
    def code(self) -> str:
        return "\n".join(["def solution():", *(f"    {line}" for line in self.lines), "    return result"])

    @property
    def part(self) -> Part:
        parts = split_into_parts(self.id, self.question, self.code)
        return next(part for part in parts if part.slot_variable == self.slot_variable)


STORIES = (
    Story("eggs", "Hens lay 16 eggs. She eats 3 and sells each for $2. What does she earn?",
          ("eggs = 16", "eaten = 3", "price = 2", "result = (eggs - eaten) * price"), "eggs", 16,
          lambda x: (x - 3) * 2),
    Story("robe", "A robe takes 40 bolts of blue and half that much white. How many in all?",
          ("blue = 40", "white = blue / 2", "result = blue + white"), "blue", 40, lambda x: 1.5 * x),
    Story("loss", "He has 12 dollars and spends 4933828. What is left?",
          ("has = 12", "spent = 4933828", "result = has - spent"), "has", 12, lambda x: x - 4933828),
    Story("share", "They share 100 sweets among 7 children. How many each?",
          ("sweets = 100", "children = 7", "result = sweets / children"), "children", 7, lambda x: 100 / x),
    Story("large", "A town of 9653262 people has 3 times as many hens. How many hens?",
          ("people = 9653262", "times = 3", "result = people * times"), "people", 9653262, lambda x: 3 * x),
    Story("round", "A tank of 55 litres is filled to the nearest 2 litres, at most 80. How much?",
          ("litres = 55", "nearest = 2", "most = 80", "result = min(round(litres / nearest) * nearest, most)"),
          "litres", 55, lambda x: min(round(x / 2) * 2, 80)),
)  # fmt: skip
STORY_BY_ID = {story.id: story for story in STORIES}


def solve_chain(stories) -> tuple[float, list[bool], list[float]]:
    """The answer of a chain, then for each link whether the previous answer was fitted, and the number of each link. An
    answer that is a positive integer of at most 100 times the number in the slot becomes the link unchanged. Any other
    answer is fitted into the range from 1 to 1000.
    """
    answer = stories[0].solve(stories[0].slot_value)
    are_fitted, links = [], []
    for story in stories[1:]:
        is_positive_integer = answer > 0 and answer == math.floor(answer)
        is_fitted = not is_positive_integer or answer > 100 * story.slot_value
        link = math.floor(abs(answer) + 0.5) % 1000 + 1 if is_fitted else answer
        are_fitted.append(is_fitted)
        links.append(link)
        answer = story.solve(link)
    return answer, are_fitted, links


# The stories of each chain, by id and in order.
CHAINS = [
    ["eggs", "robe"],
    ["share", "eggs"],
    ["loss", "robe"],
    ["large", "share"],
    ["eggs", "large", "round"],
    ["robe", "share", "loss", "eggs"],
    ["round", "loss", "large", "share", "eggs"],
    ["eggs", "robe", "loss", "share", "large", "round"],
    ["large", "round", "share", "loss", "robe", "eggs"],
]


def run_and_trace(sandbox, parts):
    """Run the tracing program of a chain. Returns the trace, which has the variables and links of each part."""
    trace = read_trace(parts, sandbox.run(build_tracing_program(parts)))
    assert not isinstance(trace, Unparsed), trace
    return trace


@pytest.mark.parametrize("ids", CHAINS, ids="-".join)
def test_chain_answer_equals_the_answer_of_its_stories(sandbox, ids):
    stories = [STORY_BY_ID[name] for name in ids]
    parts = [story.part for story in stories]
    answer, are_fitted, links = solve_chain(stories)
    trace = run_and_trace(sandbox, parts)
    assert (list(trace.fitted), list(trace.links)) == (are_fitted, links)
    assert trace.variables[-1]["answer"] == pytest.approx(answer, rel=1e-12)
    reply = sandbox.run(build_answer_program(parts, trace))
    assert reply.status == "ok", reply.stderr
    assert numbers_agree(read_number(reply.stdout), answer)


def test_chains_cover_every_kind_of_link():
    are_any_fitted = set()
    for ids in CHAINS:
        _, are_fitted, _ = solve_chain([STORY_BY_ID[name] for name in ids])
        are_any_fitted.update(are_fitted)
    assert are_any_fitted == {True, False}, "the chains must have fitted and unfitted links"


@pytest.mark.parametrize("ids", CHAINS, ids="-".join)
def test_question_states_every_part_and_names_every_link(sandbox, ids):
    parts = [STORY_BY_ID[name].part for name in ids]
    trace = run_and_trace(sandbox, parts)
    part_texts = build_question_text(parts, trace).split("\n")
    assert len(part_texts) == len(parts)
    assert part_texts[0].startswith(f"Part 1. {parts[0].text()} ")
    for number, (part, text) in enumerate(zip(parts[1:], part_texts[1:], strict=True), 2):
        name = RESULT_LETTERS[number - 2]
        assert text.startswith(f"Part {number}. {part.text(name)}")
        instruction = "call the remainder plus 1" if trace.fitted[number - 2] else "Call the answer to this"
        assert part_texts[number - 2].endswith(f"{instruction} {name}.")
    assert part_texts[-1] == f"Part {len(parts)}. {parts[-1].text(RESULT_LETTERS[len(parts) - 2])}"


@pytest.mark.parametrize("ids", CHAINS, ids="-".join)
def test_equations_in_the_stitched_solution_are_right(sandbox, ids):
    parts = [STORY_BY_ID[name].part for name in ids]
    trace = run_and_trace(sandbox, parts)
    lines = build_solution_text(parts, trace).split("\n")
    assert len(lines) == len(parts)
    equations = re.findall(r"= ([^=.]*(?:\.\d+[^=.]*)*) = (-?[\d.]+)\.(?: |$)", "\n".join(lines))
    for expression, value in equations:
        assert eval(expression, {}) == pytest.approx(float(value), abs=1e-4), (expression, value)
    for number, line in enumerate(lines[:-1]):
        name, link = RESULT_LETTERS[number], f"{trace.links[number]:.0f}"
        ending = f", so {name} = {int(link) - 1} + 1 = {link}." if trace.fitted[number] else f". So {name} = {link}."
        assert line.endswith(ending), line
        assert ("Rounded" in line) is trace.fitted[number]
    assert not re.search(r"[{}]", "\n".join(lines))


def test_fitted_link_text_matches_its_calculation(sandbox):
    parts = [STORY_BY_ID["loss"].part, STORY_BY_ID["robe"].part]
    trace = run_and_trace(sandbox, parts)
    assert trace.variables[0]["answer"] == -4933816
    assert build_solution_text(parts, trace).split("\n")[0] == (
        "The answer = 12 - 4933828 = -4933816. Rounded, 4933816 leaves the remainder 816 when divided by 1000, "
        "so X = 816 + 1 = 817."
    )


def make_number_part(expression: str) -> Part:
    """A part without text, whose answer is `expression`."""
    return Part(
        "number", before="", after="", ask="", result="", slot_variable="", value="",
        statements=(("answer", expression),), lines=(), made_for_chains=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first_answer", "link", "fitted"),
    [("2.5", 4, True), ("0.5", 2, True), ("0", 1, True), ("-7", 8, True), ("999.5", 1, True), ("1999", 1999, False),
     ("4000", 4000, False), ("4001", 2, True), ("3.0", 3, False), ("0.4999", 1, True)],
)  # fmt: skip
def test_links_are_positive_integers_of_limited_size(sandbox, first_answer, link, fitted):
    """Halves are rounded up. The slot of the story "robe" contains 40, so the link may be at most 4000."""
    first_part = make_number_part(first_answer)
    trace = run_and_trace(sandbox, [first_part, STORY_BY_ID["robe"].part])
    assert (trace.links, trace.fitted) == ((link,), (fitted,))


TIMEOUT_S = 5.0
"""Seconds that a program of the attacker or the judge may run."""


def write_attack(sandbox, source, seeds, turn: int = 0):
    """The attack that the stitching attacker writes in a turn."""
    attacker = StitchingAttacker(source, sandbox.identity, TIMEOUT_S)
    return sandbox.wait(attacker.attack(seeds, Draw(run_seed=0, turn=turn, attempt=0), sandbox.call))


def judge_attack(sandbox, attack):
    """The verdict of the `ProgramJudge`, which runs the attack's program."""
    judge = ProgramJudge(sandbox.identity, TIMEOUT_S)
    return sandbox.wait(judge.validate(attack, Draw(run_seed=0, turn=0, attempt=0), sandbox.call))


def make_source() -> tuple[Items, tuple[Seed, ...]]:
    """A source of seeds that are made from the stories, and its seeds."""
    seeds = tuple(
        Seed(story.id, dataset="stories", question=story.question, answer="0", program=story.code) for story in STORIES
    )
    return Items(seeds, chainable=True), seeds


@pytest.mark.parametrize("turn", range(4))
def test_program_judge_accepts_a_stitched_attack(sandbox, turn):
    source, seeds = make_source()
    attack = write_attack(sandbox, source, seeds, turn)
    assert isinstance(attack, Attack)
    assert attack.question.startswith("Part 1. ") and "\nPart 6. " in attack.question
    verdict = judge_attack(sandbox, attack)
    assert (verdict.positive, verdict.finding("code").conclusion) == (True, "supports")
    assert write_attack(sandbox, source, seeds, turn) == attack, "a second attack of the same turn must equal the first"


def test_program_judge_rejects_a_wrong_answer(sandbox):
    source, seeds = make_source()
    attack = write_attack(sandbox, source, seeds)
    wrong_attack = Attack(attack.question, attack.solution, "1234567", attack.program)
    verdict = judge_attack(sandbox, wrong_attack)
    assert (verdict.positive, verdict.finding("code").conclusion) == (False, "contradicts")


@pytest.mark.parametrize("expression", ["1 / 0", "1e308 * 10", "-1e308 * 10", "(-8) ** 0.5"])
def test_chain_without_a_result_is_unparsed(sandbox, expression):
    parts = [make_number_part(expression), STORY_BY_ID["robe"].part]
    reply = sandbox.run(build_tracing_program(parts))
    trace = read_trace(parts, reply)
    assert isinstance(trace, Unparsed) and "ended with error" in trace.reason


@pytest.mark.parametrize("status", ["timeout", "memory", "killed", "output"])
def test_unfinished_trace_is_unparsed(status):
    reply = PythonReply(status, None, "0 answer 5\n", "", False, "fake")
    assert isinstance(read_trace([STORY_BY_ID["robe"].part], reply), Unparsed)


def test_trace_with_a_result_that_is_not_a_number_is_unparsed(sandbox):
    part = make_number_part("1e308 * 10")
    assert read_trace([part], sandbox.run(build_tracing_program([part]))) == Unparsed(
        "the chained program printed '0 answer inf', which is not a number"
    )


class FixedChain:
    """A source whose chain is always `parts`; None means that the seeds cannot be chained in any order."""

    def __init__(self, parts):
        self._parts = parts

    def chain(self, seeds, rng):
        return self._parts


@pytest.mark.parametrize(
    ("parts", "message"),
    [(None, "no order"), ((make_number_part("1 / 0"),), "ended with error")],
)
def test_attack_without_a_chain_or_an_answer_is_unparsed(sandbox, parts, message):
    attack = write_attack(sandbox, FixedChain(parts), seeds=())
    assert isinstance(attack, Unparsed) and message in attack.reason


def test_result_names_continue_after_the_letters():
    names = [make_result_name(number) for number in range(3 * len(RESULT_LETTERS))]
    assert len(set(names)) == len(names)
    assert names[0] == "X" and names[len(RESULT_LETTERS)] == "X2"
    assert not set(names) & {"A", "I"}


def test_chain_with_more_links_than_letters_runs(sandbox):
    parts = [STORY_BY_ID["robe"].part] * 26
    trace = run_and_trace(sandbox, parts)
    answer, _, _ = solve_chain([STORY_BY_ID["robe"]] * 26)
    assert numbers_agree(read_number(sandbox.run(build_answer_program(parts, trace)).stdout), answer)


def solve_part(part: Part, link: float | None) -> float:
    """The answer of a starter part with `link` in the slot, or with the original quantity if `link` is None."""
    variables: dict = {}
    for name, expression in part.statements:
        is_linked = link is not None and name == part.slot_variable
        variables[name] = link if is_linked else eval(expression, {}, variables)
    return variables["answer"]


def draw_starter_chain(number: int) -> tuple[Part, ...] | None:
    """A chain of two to six parts, or None if the drawn templates cannot be chained in any order. `number` is the
    random seed, and determines the length.
    """
    source = StarterTemplates(TRAIN_TEMPLATES)
    rng = random.Random(number)
    return source.chain(source.draw(find_chain_length(number), rng), rng)


def find_chain_length(number: int) -> int:
    """The number of parts of the chain that `draw_starter_chain` draws: from two to six."""
    return 2 + number % 5


DRAWN_CHAINS = {number: draw_starter_chain(number) for number in range(200)}
"""200 chains by number, 40 of each length; None for a chain that was not found."""
STARTER_CHAINS = {number: parts for number, parts in DRAWN_CHAINS.items() if parts is not None}
"""The chains that were found."""


def test_starter_chains_of_every_length_are_found():
    for length, expected_share in ((2, 0.95), (3, 0.9), (4, 0.6), (5, 0.4), (6, 0.2)):
        drawn_count = sum(find_chain_length(number) == length for number in DRAWN_CHAINS)
        found_count = sum(find_chain_length(number) == length for number in STARTER_CHAINS)
        assert found_count >= expected_share * drawn_count, length


def test_starter_chains_pass_each_result_on_unchanged():
    for number, parts in STARTER_CHAINS.items():
        assert len({part.seed for part in parts}) == len(parts) == find_chain_length(number)
        previous_answer = None
        for part in parts:
            if previous_answer is not None:
                assert previous_answer == int(previous_answer) > 0
                assert float(part.value) == previous_answer, "the slot does not contain the previous answer"
                assert previous_answer <= LINK_RANGE * HIGHEST_VALUES[part.seed, part.slot_variable]
            assert part.made_for_chains and "X" in part.text("X")
            previous_answer = round(solve_part(part, previous_answer), 6)


@pytest.mark.parametrize("number", list(STARTER_CHAINS)[::6])  # every sixth chain, to save time
def test_programs_of_starter_chains_print_the_answer(sandbox, number):
    parts = STARTER_CHAINS[number]
    trace = run_and_trace(sandbox, parts)
    answer = None
    for index, part in enumerate(parts):
        answer = solve_part(part, answer)
        assert numbers_agree(trace.variables[index]["answer"], answer)
    assert not any(trace.fitted)
    assert numbers_agree(read_number(sandbox.run(build_answer_program(parts, trace)).stdout), answer)
    question = build_question_text(parts, trace)
    assert question.endswith(parts[-1].ask)
    for index, part in enumerate(parts):
        assert part.text(RESULT_LETTERS[index - 1] if index else "") in question
        if index + 1 < len(parts):
            assert f"Call {part.result} {RESULT_LETTERS[index]}." in question


def test_chains_depend_only_on_the_random_seed():
    for number in list(STARTER_CHAINS)[:10]:
        assert draw_starter_chain(number) == STARTER_CHAINS[number]
    questions = {"".join(part.text() for part in parts) for parts in STARTER_CHAINS.values()}
    assert len(questions) == len(STARTER_CHAINS)


def test_chain_of_gsm_hard_seeds_prints_the_answer_of_its_attack(sandbox, gsmhard_path):
    """A chain that has an answer is judged valid, since its final program prints the answer of its trace."""
    source = Items([item.seed for item in read_benchmark("gsmhard", [gsmhard_path]).items], chainable=True)
    attack_count = 0
    for turn in range(20):
        draw = Draw(run_seed=0, turn=turn, attempt=0)
        seeds = source.draw(5 + turn % 3, draw.rng("seeds"))
        attack = write_attack(sandbox, source, seeds, turn)
        if isinstance(attack, Unparsed):
            continue
        attack_count += 1
        assert judge_attack(sandbox, attack).positive, attack.program
        for part_number in range(1, len(seeds) + 1):
            assert f"Part {part_number}." in attack.question
    assert attack_count >= 15
