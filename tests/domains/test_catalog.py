"""The prompts of the built-in domains request the sections that are read, and show a role only what it may see."""

import itertools
import re

import jinja2
import pytest

from nanoflux_local.domains.base import DOCUMENT_PROMPTS, PROMPTS, Domain, list_built_in, load_built_in
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import ConfigError
from nanoflux_local.roles.attacker import build_attacker_messages, normalize_answer, read_attack
from nanoflux_local.roles.defender import build_defender_messages
from nanoflux_local.roles.quality import SECTIONS
from nanoflux_local.roles.sections import read_sections
from nanoflux_local.seeds.benchmarks.base import list_importable_benchmarks
from nanoflux_local.transcript import Attack, Defence, Exhibit, Seed

PAPER_SECTIONS = {
    "attacker": ("QUESTION", "SOLUTION", "ANSWER", "REFLECTION"),
    "defender": ("ANALYSIS", "SOLUTION", "ANSWER"),
    "validation": ("ANALYSIS", "VERIFICATION", "DECISION", "CONFIDENCE", "EXPLANATION"),
    "evaluation": (
        "ANALYSIS", "REASONING QUALITY", "CALCULATION ACCURACY", "DECISION", "CONFIDENCE", "EXPLANATION",
    ),
}  # fmt: skip
"""The sections of each role's reply in the paper."""
SEED_COUNTS_AND_THRESHOLDS = {
    "gsmhard": ((5, 7), 0.85), "genomebench": ((5, 7), 0.80), "multimedqa": ((7, 12), 0.75),
    "starter-genetics": ((5, 7), 0.80), "starter-medicine": ((7, 12), 0.75),
}  # fmt: skip
"""The paper's range of seed counts and its novelty threshold for questions, by domain."""
SEEDS = (
    Seed("a", "x", "Seed question {{ one }}?", "11", "its solution"),
    Seed("b", "x", "Seed question two?", "B", options={"A": "an ant", "B": "a bee"}),
)
ATTACK = Attack("A new {% question %}?", "Its \\solution", "<42>")
DEFENCE = Defence("Another {{ way }}", "41 & more", "An analysis")
VALUES_BY_PROMPT = {
    "attacker": {"seeds": SEEDS, "first": True},
    "defender": {"question": ATTACK.question, "budgets": {"ANALYSIS": 77, "SOLUTION": 78, "ANSWER": 79}, "first": True},
    "validation": {"attack": ATTACK, "evidence": (Exhibit("search", "a query", "timeout"),)},
    "evaluation": {"attack": ATTACK, "defence": DEFENCE},
    "confidence": {"confidence": 0.62},
    "code": {"attack": ATTACK, "problem": "it is no Python"},
    "quality": {"attack": ATTACK},
    "claims": {"attack": ATTACK, "queries": 5},
    "blind": {"question": ATTACK.question},
    "blind_program": {"question": ATTACK.question},
    "answerable": {"question": ATTACK.question},
    "grounded": {"attack": ATTACK, "passages": SEEDS},
    "open_book": {"question": ATTACK.question, "passages": SEEDS},
}
"""The values with which the tests render each prompt. Some contain template syntax, which must be shown verbatim."""
TEXTS_BY_PROMPT = {
    "attacker": ["Seed question {{ one }}?", "Seed question two?", "A. an ant", "B. a bee", "11"],
    "defender": [ATTACK.question],
    "validation": [ATTACK.question, ATTACK.solution, ATTACK.answer],
    "evaluation": [ATTACK.question, ATTACK.solution, ATTACK.answer, DEFENCE.solution, DEFENCE.answer, DEFENCE.analysis],
    "confidence": ["0.62"],
    "quality": [ATTACK.question, ATTACK.solution, *SECTIONS],
    "claims": [ATTACK.question, ATTACK.solution, ATTACK.answer, "QUERIES:", "at most 5"],
    "code": [ATTACK.question, ATTACK.solution, "it is no Python", "# VARIABLES", "# STEPS", "# CHECK"],
    "blind": [ATTACK.question, "SOLUTION:", "ANSWER:"],
    "blind_program": [ATTACK.question, "Python program", "CODE:"],
    "answerable": [ATTACK.question, "ASKED:", "GIVEN:", "MISSING:", "CONTRADICTION:"],
    "grounded": [SEEDS[0].question, ATTACK.question, ATTACK.solution, ATTACK.answer, "PREMISES:", "UNSUPPORTED:"],
    "open_book": [SEEDS[0].question, SEEDS[1].question, ATTACK.question, "SOLUTION:", "ANSWER:"],
}
"""Texts that each rendered prompt must contain."""
DOMAINS_WITH_SHORT_PROMPTS = ("gsmhard-short", "starter")
"""The domains whose defender's prompt is short, for small models."""
DOMAINS_WITH_EXAMPLES = [name for name in list_built_in() if load_built_in(name).examples]
"""The domains whose defender's prompt shows worked examples."""
DOCUMENT_DOMAINS = ("documents", "documents-choice")
DOMAINS_AND_PROMPTS = [
    *itertools.product(list_built_in(), PROMPTS), *itertools.product(DOCUMENT_DOMAINS, DOCUMENT_PROMPTS),
]  # fmt: skip


@pytest.mark.parametrize(("name", "prompt"), DOMAINS_AND_PROMPTS)
def test_prompts_render_their_values_verbatim(name, prompt):
    domain = load_domain(name)
    text = domain.render(prompt, VALUES_BY_PROMPT[prompt])
    for expected_text in TEXTS_BY_PROMPT[prompt]:
        assert expected_text in text, expected_text
    assert text == text.strip()
    assert "\n\n\n" not in text and "None" not in text


@pytest.mark.parametrize(("name", "prompt"), DOMAINS_AND_PROMPTS)
def test_rendering_a_prompt_without_a_value_raises_an_error(name, prompt):
    values = dict(VALUES_BY_PROMPT[prompt])
    first_name = next(iter(values))
    del values[first_name]
    with pytest.raises(jinja2.UndefinedError):
        load_domain(name).render(prompt, values)


@pytest.mark.parametrize("name", SEED_COUNTS_AND_THRESHOLDS)
def test_seed_counts_thresholds_and_budgets_match_the_paper(name):
    """The expected values are pinned, so that no change of a domain's file departs from the paper (SPEC §2)."""
    domain = load_domain(name)
    seed_counts, question_threshold = SEED_COUNTS_AND_THRESHOLDS[name]
    assert (domain.seeds.min, domain.seeds.max) == seed_counts
    assert (domain.novelty.question, domain.novelty.solution) == (question_threshold, 0.75)
    assert 0.9 <= domain.confidence <= 0.95
    assert domain.budgets == {"ANALYSIS": 500, "SOLUTION": 1500, "ANSWER": 100}


@pytest.mark.parametrize("name", list_built_in())
@pytest.mark.parametrize("role", PAPER_SECTIONS)
def test_sections_match_the_paper(name, role):
    """The expected sections are pinned (SPEC §2). Only the short defender's prompts omit one: the analysis."""
    omitted_sections = {"ANALYSIS"} if name in DOMAINS_WITH_SHORT_PROMPTS and role == "defender" else set()
    assert set(PAPER_SECTIONS[role]) - set(getattr(load_domain(name).sections, role)) == omitted_sections


@pytest.mark.parametrize("name", list_built_in())
@pytest.mark.parametrize("role", PAPER_SECTIONS)
def test_prompts_request_every_section_in_order(name, role):
    domain = load_domain(name)
    text = domain.render(role, VALUES_BY_PROMPT[role])
    sections = getattr(domain.sections, role)
    matches = [re.search(rf"(?:^|\W){section}: ", text) for section in sections]
    assert all(matches), sections
    positions = [match.start() for match in matches]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", list_built_in())
@pytest.mark.parametrize(
    ("role", "words"),
    [("validation", "DECISION: VALID or INVALID"), ("evaluation", "DECISION: CORRECT or INCORRECT"),
     ("evaluation", "SOUND or UNSOUND"), ("validation", "from 0 to 1"), ("evaluation", "from 0 to 1")],
)  # fmt: skip
def test_judge_prompts_state_the_accepted_decisions(name, role, words):
    assert words in load_domain(name).render(role, VALUES_BY_PROMPT[role])


def test_document_prompts_exist_only_in_document_domains() -> None:
    """A run records all prompts of its domain, so domains without documents must not get these prompts."""
    for name in list_built_in():
        expected_prompts = [*PROMPTS, *DOCUMENT_PROMPTS] if name in DOCUMENT_DOMAINS else PROMPTS
        assert sorted(load_domain(name).prompts) == sorted(expected_prompts)
        assert load_domain(name).cites == (name in DOCUMENT_DOMAINS)


@pytest.mark.parametrize("name", DOCUMENT_DOMAINS)
def test_document_prompts_show_the_source_of_each_passage(name):
    passages = (Seed("a", "x", "Doors close at ten.", "", source="wards/night.pdf", place="page 3"),)
    for prompt in ("attacker", *DOCUMENT_PROMPTS):
        variable = "seeds" if prompt == "attacker" else "passages"
        values = VALUES_BY_PROMPT[prompt] | {variable: passages}
        assert "Passage 1 (wards/night.pdf, page 3): Doors close at ten." in load_domain(name).render(prompt, values)


@pytest.mark.parametrize("name", DOCUMENT_DOMAINS)
def test_document_validation_shows_the_citations(name):
    attack = Attack("Q?", "S", "A", notes={"CITATIONS": '1: "Doors close at ten."'})
    text = load_domain(name).render("validation", {"attack": attack, "evidence": ()})
    assert '1: "Doors close at ten."' in text
    assert "What the documents say" not in load_domain(name).render("validation", VALUES_BY_PROMPT["validation"])


@pytest.mark.parametrize("name", list_built_in())
def test_defender_prompt_hides_solution_and_answer(name):
    domain = load_domain(name)
    messages = build_defender_messages(domain, domain.budgets, ATTACK.question)
    text = " ".join(message.content for message in messages)
    assert ATTACK.question in text
    assert ATTACK.solution not in text and ATTACK.answer not in text


@pytest.mark.parametrize("name", [name for name in list_built_in() if name not in DOMAINS_WITH_SHORT_PROMPTS])
def test_defender_prompt_states_its_budgets(name):
    text = load_domain(name).render("defender", VALUES_BY_PROMPT["defender"])
    for budget in VALUES_BY_PROMPT["defender"]["budgets"].values():
        assert f"at most {budget} tokens" in text


@pytest.mark.parametrize(
    ("name", "rule_part", "answer", "normalized_answer"),
    [
        ("gsmhard", "one number", "$1,200", "1200"),
        ("starter", "one number", "12 eggs", "12"),
        ("starter-genetics", "(A, B, C, D, E)", "e.", "E"),
        ("starter-medicine", "(A, B, C, D)", "(d)", "D"),
        ("genomebench", "(A, B, C, D, E)", "E. all of them", "E"),
        ("multimedqa", "(A, B, C, D)", "**B**", "B"),
    ],
)
def test_answers_are_read_as_the_answer_rule_requests(name, rule_part, answer, normalized_answer):
    domain = load_domain(name)
    assert rule_part in domain.answer_rule
    assert domain.answer_rule in domain.render("attacker", VALUES_BY_PROMPT["attacker"])
    assert normalize_answer(domain, answer) == normalized_answer


def find_equations(solution: str) -> list[tuple[str, str]]:
    """The equations in a solution, each as (left side, right side)."""
    return re.findall(r"([\d.]+(?: [-+*/] [\d.]+)+) = ([\d.]*\d)", solution)


def check_equations(equations: list[tuple[str, str]]) -> None:
    """Check that the sides of each equation are equal."""
    for left, right in equations:
        assert eval(left) == float(right), (left, right)


@pytest.mark.parametrize("name", DOMAINS_WITH_EXAMPLES)
def test_worked_examples_are_readable_and_right(name):
    domain = load_domain(name)
    messages = build_defender_messages(domain, domain.budgets, "Q")
    example_replies = [message.content for message in messages if message.role == "assistant"]
    assert len(example_replies) == len(domain.examples)
    for reply in example_replies:
        sections = read_sections(reply, domain.sections.defender, once=("ANSWER",))
        answer = normalize_answer(domain, sections["ANSWER"])
        assert answer == sections["ANSWER"], "the answer is not in its normalized form"
        equations = find_equations(sections["SOLUTION"])
        assert equations, "the solution has no equation"
        check_equations(equations)
        _, last_right_side = equations[-1]
        assert last_right_side == answer
        assert not any(stop in reply for stop in domain.stop)


def test_short_defender_prompts_come_with_worked_examples():
    """Small models cannot follow a mere description of the sections."""
    assert set(DOMAINS_WITH_SHORT_PROMPTS) <= set(DOMAINS_WITH_EXAMPLES)


def test_worked_attack_is_readable_and_right():
    domain = load_domain("gsmhard")
    example_prompt, example_reply, final_prompt = build_attacker_messages(domain, SEEDS)
    assert (example_prompt.role, example_reply.role, final_prompt.role) == ("user", "assistant", "user")
    attack = read_attack(domain, example_reply.content)
    assert isinstance(attack, Attack) and attack.answer == "60"
    equations = find_equations(attack.solution)
    assert len(equations) == 5
    check_equations(equations)
    assert all(text in example_prompt.content for text in domain.attacks[0].material)
    assert SEEDS[0].question not in example_prompt.content
    assert SEEDS[0].question in final_prompt.content
    assert "four steps" not in final_prompt.content, "the instructions are repeated"


def test_attacker_prompt_of_a_domain_without_worked_attacks_is_one_message():
    assert len(build_attacker_messages(load_domain("starter"), SEEDS)) == 1


def test_error_on_an_unknown_domain_lists_the_domains():
    with pytest.raises(ConfigError) as caught:
        load_domain("poetry")
    assert "'poetry'" in caught.value.message and "starter-medicine" in caught.value.fix


def test_domain_refuses_unknown_keys():
    with pytest.raises(ValueError, match="sonnets"):
        Domain.model_validate({**load_domain("gsmhard").model_dump(), "sonnets": 1})


def test_attacker_prompts_request_the_tags_and_sections_of_the_paper():
    """Genome-Bench has tags for the steps of a solution, and MultiMedQA has three more sections (SPEC §2)."""
    genome = load_domain("genomebench")
    medicine = load_domain("multimedqa")
    assert genome.tags == ("hypothesis", "evidence", "mechanism", "conclusion")
    text = genome.render("attacker", VALUES_BY_PROMPT["attacker"])
    positions = [text.index(f"<{tag}>") for tag in genome.tags]
    assert positions == sorted(positions) and all(f"</{tag}>" in text for tag in genome.tags)
    assert {"KNOWLEDGE_MAP", "REASONING_CHAIN", "COGNITIVE_CHALLENGES"} < set(medicine.sections.attacker)
    assert "<hypothesis>" not in medicine.render("attacker", VALUES_BY_PROMPT["attacker"])


@pytest.mark.parametrize("name", list_built_in())
def test_evaluation_prompt_contains_every_criterion_of_the_rubric(name):
    domain = load_domain(name)
    text = domain.render("evaluation", VALUES_BY_PROMPT["evaluation"])
    assert all(criterion in text for criterion in domain.rubric)
    assert ("Hold the reasoning against" in text) == bool(domain.rubric)


def test_multimedqa_marks_some_benchmarks_as_free_text():
    domain = load_domain("multimedqa")
    assert set(domain.free_text) < set(domain.datasets) < set(list_importable_benchmarks())


def test_attacker_prompt_omits_the_answer_of_a_seed_without_one():
    """The items of HealthSearchQA have no answer."""
    seed = Seed("h", "healthsearchqa", "Is it?", "")
    text = load_domain("multimedqa").render("attacker", {"seeds": (seed,), "first": True})
    assert "Is it?" in text and "Its answer" not in text
