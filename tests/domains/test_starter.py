"""The starter domains: there are enough templates and items of varying difficulty, their solutions are right, and an
error in a template or item names its place in the file.
"""

import json
import math
import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from nanoflux_local.answers import plain_number
from nanoflux_local.domains.starter.items import load_choice_items, parse_choice_items
from nanoflux_local.domains.starter.templates import SPLITS, Template, load_templates, parse_templates
from nanoflux_local.errors import DataError, UsageError

TEMPLATES = load_templates()
LETTERS_BY_SUBJECT = {"genetics": "ABCDE", "medicine": "ABCD"}
"""The letters of the options, by the subject of the multiple-choice items."""
BAKERY_TEMPLATE = """
[[template]]
id = "bakery-tray-count"
split = "train"
steps = 1
text = "A bakery fills {trays} trays with {rolls} rolls each."
ask = "How many rolls are there in all?"
result = "the number of rolls in all"
unit = "rolls"
program = "answer = trays * rolls"
solution = ["{trays} trays times {rolls} rolls is {trays} * {rolls} = {answer} rolls."]
where = "trays > 1"
[template.quantities]
trays = { low = 3, high = 12 }
rolls = { low = 4, high = 20, link = true }
"""
"""A valid template, which tests change."""


def for_each_template(test):
    """Decorate a test so that it runs for each template."""
    return pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.id)(test)


def draw_values(template: Template, count: int = 30) -> list[dict[str, int]]:
    """Values of the template's quantities, which are the same in each call."""
    rng = random.Random(template.id)
    return [template.draw(rng) for _ in range(count)]


def test_templates_cover_enough_settings_and_every_step_count():
    count_by_steps = Counter(template.steps for template in TEMPLATES)
    assert len(TEMPLATES) >= 60
    assert len({template.setting for template in TEMPLATES}) >= 10
    assert sorted(count_by_steps) == [1, 2, 3, 4, 5]
    counts = [count_by_steps[steps] for steps in range(1, 6)]
    assert counts == sorted(counts, reverse=True), "more templates have a larger number of steps than a smaller one"


def test_templates_share_no_id_and_no_text():
    for key in ("id", "text", "result", "ask"):
        counts = Counter(getattr(template, key) for template in TEMPLATES)
        assert max(counts.values()) == 1, counts.most_common(1)


def test_splits_have_every_step_count_and_their_share_of_templates():
    for steps in (1, 2, 3):
        assert {template.split for template in TEMPLATES if template.steps == steps} == set(SPLITS)
    counts = Counter(template.split for template in TEMPLATES)
    for split, share in (("train", 0.6), ("dev", 0.1), ("test", 0.3)):
        assert abs(counts[split] / len(TEMPLATES) - share) < 0.05, counts


def test_settings_have_train_and_test_templates():
    for setting in {template.setting for template in TEMPLATES}:
        splits = {template.split for template in TEMPLATES if template.setting == setting}
        assert splits >= {"train", "test"}, setting


@for_each_template
def test_drawn_values_give_positive_answers_and_fill_every_placeholder(template):
    for values in draw_values(template):
        variables = template.solve(values)
        assert template.admits(values)
        for value in variables.values():
            assert math.isfinite(value) and value > 0 and round(value, 2) == value
        lines = template.solution_lines(variables)
        assert len(lines) == template.steps
        texts = [template.build_question_text(values), *lines]
        assert not any(re.search(r"[{}]", text) for text in texts)
        answer = plain_number(variables["answer"])
        assert re.search(rf"= {re.escape(answer)}\b", lines[-1])
        assert isinstance(variables["answer"], int), "the answer is not an integer"


@for_each_template
def test_equations_in_solutions_are_right(template):
    """The equations are computed here, independently of the template's program."""
    for values in draw_values(template):
        for line in template.solution_lines(template.solve(values)):
            left, right = re.search(r"([\d.]+(?: [-+*/] [\d.]+)+) = ([\d.]+)", line).groups()
            assert math.isclose(eval(left), float(right)), line


@for_each_template
def test_texts_are_short_enough_for_a_small_model(template):
    text = template.build_question_text(draw_values(template, 1)[0])
    max_words = 25 if template.steps == 1 else 90
    assert len(text.split()) < max_words
    assert "$" not in text + template.ask + template.result
    assert template.ask.endswith("?") and "?" not in text
    if template.steps == 1:
        assert all(template.solve(values)["answer"] <= 200 for values in draw_values(template))


@for_each_template
def test_linked_quantities_admit_enough_results_of_earlier_parts(template):
    rng = random.Random(template.id)
    assert template.links
    for link in template.links:
        quantity = next(candidate for candidate in template.quantities if candidate.name == link)
        linked_values = [{**template.draw(rng), link: rng.randint(quantity.low, quantity.high * 20)} for _ in range(60)]
        admitted_count = sum(template.admits(values) for values in linked_values)
        assert admitted_count >= 15, f"{link} admits too few results"
        assert not template.admits({**linked_values[0], link: 2.5})
        assert not template.admits({**linked_values[0], link: 0})
        assert " A" in template.build_question_text({**linked_values[0], link: "A"})


@for_each_template
def test_drawn_values_depend_only_on_the_random_seed(template):
    assert draw_values(template) == draw_values(template)


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12"), (12.0, "12"), (1234.5, "1234.5"), (0.1 + 0.2, "0.3"), (1e12, "1000000000000"), (-0.0, "0")],
)
def test_plain_number_has_no_exponent_and_no_rounding_error(number, text):
    assert plain_number(number) == text


def test_valid_template_is_parsed():
    (template,) = parse_templates("baking.toml", BAKERY_TEMPLATE)
    values = {"trays": 3, "rolls": 4}
    assert (template.setting, template.links) == ("baking", ("rolls",))
    assert template.solve(values) == {"trays": 3, "rolls": 4, "answer": 12}
    assert template.build_question_text({**values, "rolls": "A"}) == "A bakery fills 3 trays with A rolls each."
    assert template.solution_lines(template.solve(values)) == ["3 trays times 4 rolls is 3 * 4 = 12 rolls."]


@pytest.mark.parametrize(
    ("old_text", "new_text", "key"),
    [
        ('unit = "rolls"', 'unit = "rolls"\nunits = "rolls"', "units"),
        ('unit = "rolls"\n', "", "unit"),
        ('unit = "rolls"', "unit = 7", "unit"),
        ('split = "train"', 'split = "trial"', "split"),
        ("steps = 1", "steps = 2", "solution"),
        ("steps = 1", "steps = true", "steps"),
        ("fills {trays}", "fills {pans}", "text"),
        ("fills {trays}", "fills {trays", "text"),
        ("= {answer} rolls", "= {total} rolls", "solution"),
        ("How many rolls", "How many {rolls}", "ask"),
        ("answer = trays", "answer = pans", "program"),
        ("answer = trays * rolls", "total = trays * rolls", "program"),
        ("answer = trays * rolls", "trays = trays * rolls", "program"),
        ("answer = trays * rolls", "answer = trays *", "program"),
        ("trays > 1", "pans > 1", "where"),
        ("trays > 1", "trays = 2", "where"),
        ("low = 3", "lowest = 3", "quantities.trays.lowest"),
        ("low = 3, ", "", "quantities.trays.low"),
        ("low = 3", "low = 13", "quantities.trays.high"),
        ("low = 3", "low = 0", "quantities.trays.low"),
        (", link = true", "", "quantities"),
    ],
)
def test_error_in_a_template_names_file_id_and_key(old_text, new_text, key):
    assert old_text in BAKERY_TEMPLATE
    with pytest.raises(DataError) as caught:
        parse_templates("baking.toml", BAKERY_TEMPLATE.replace(old_text, new_text, 1))
    for part in ("baking.toml", "bakery-tray-count", repr(key)):
        assert part in caught.value.message


@pytest.mark.parametrize("content", ["[[template]", '[[templates]]\nid = "x"', "other = 1\n" + BAKERY_TEMPLATE])
def test_file_without_a_list_of_templates_is_refused(content):
    with pytest.raises(DataError, match=r"baking\.toml"):
        parse_templates("baking.toml", content)


def test_error_on_an_unsatisfiable_template_blames_only_the_keys_that_it_has():
    (template,) = parse_templates("baking.toml", BAKERY_TEMPLATE.replace("trays > 1", "trays > 99"))
    with pytest.raises(DataError, match=r"baking\.toml.*bakery-tray-count.*none of 1000 draws") as refusal:
        template.draw(random.Random(0))
    assert refusal.value.fix == "widen the ranges, or loosen `where`"
    with pytest.raises(DataError) as refusal:
        replace(template, where="True", program="answer = 0").draw(random.Random(0))
    assert refusal.value.fix == "widen the ranges"


@pytest.mark.parametrize("name", LETTERS_BY_SUBJECT)
def test_choice_items_have_every_split_and_evenly_distributed_answers(name):
    items = load_choice_items(name)
    answer_counts = Counter(item.answer for item in items)
    assert len(items) >= 40
    assert {item.split for item in items} == set(SPLITS)
    assert set(answer_counts) == set(LETTERS_BY_SUBJECT[name])
    assert max(answer_counts.values()) - min(answer_counts.values()) <= 1
    for split in ("train", "test"):
        assert {item.answer for item in items if item.split == split} == set(LETTERS_BY_SUBJECT[name])


@pytest.mark.parametrize("name", LETTERS_BY_SUBJECT)
def test_choice_items_have_options_a_question_and_a_solution(name):
    for item in load_choice_items(name):
        assert item.id.startswith(f"{name}-")
        assert "".join(item.options) == LETTERS_BY_SUBJECT[name] and item.question.endswith("?")
        assert 2 <= len(re.findall(r"[.!](?: |$)", item.solution)) <= 5, item.id
        assert not re.search(r"\boption\b", item.solution, re.IGNORECASE), (
            "the solution names an option, but options are shuffled"
        )


@pytest.mark.parametrize("name", LETTERS_BY_SUBJECT)
def test_longest_option_does_not_reveal_the_answer(name):
    items = load_choice_items(name)
    right_count = 0
    for item in items:
        longest_letter = max(item.options, key=lambda letter, options=item.options: len(options[letter]))
        right_count += longest_letter == item.answer
    assert right_count / len(items) < 0.4


def test_choice_questions_are_unique():
    questions = [item.question for name in LETTERS_BY_SUBJECT for item in load_choice_items(name)]
    assert len(questions) == len(set(questions))


def make_row(**changes: object) -> str:
    """The line of a valid item with some changed values. A key whose new value is None is left out."""
    row = {
        "id": "x-one", "split": "train", "question": "Which?", "options": {"A": "this", "B": "that"}, "answer": "B",
        "solution": "It is that. So it is.", "source": "A book", **changes,
    }  # fmt: skip
    return json.dumps({key: value for key, value in row.items() if value is not None})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        (make_row(answer="C"), "'answer'"),
        (make_row(source=None), "'source' is missing"),
        (make_row(level=3), "'level' is unknown"),
        (make_row(split="trial"), "'split'"),
        (make_row(options={"A": "this", "C": "that"}), "'options'"),
        (make_row(options={"A": "this", "B": "this"}), "same text twice"),
        (make_row(), "used twice"),
    ],
)
def test_error_in_a_choice_item_names_file_and_line(line, problem):
    with pytest.raises(DataError) as caught:
        parse_choice_items("x.jsonl", f"{make_row()}\n{line}\n")
    assert "x.jsonl, line 2" in caught.value.message and problem in caught.value.message


def test_error_on_unknown_choice_items_lists_the_available_ones():
    with pytest.raises(UsageError, match="genetics, medicine"):
        load_choice_items("astrology")
