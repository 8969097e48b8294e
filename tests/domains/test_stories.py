"""The stories of the starter domain: there are many, they differ, their solutions are right, and train stories share no
situation with other splits.
"""

import random
import re
from collections import Counter

import pytest

from nanoflux_local.domains.starter.stories import compose_story, load_stories
from nanoflux_local.domains.starter.templates import SPLITS, Template
from nanoflux_local.errors import DataError
from nanoflux_local.seeds.benchmarks.starter_stories import make_story_items
from nanoflux_local.seeds.splits import extract_stem

STORIES = load_stories()
SITUATION = {
    "id": "bakery",
    "split": "test",
    "people": ["Ann", "Bob", "Cy", "Dee"],
    "objects": [["roll", "rolls"], ["pie", "pies"]],
    "container": ["tray", "trays"],
    "gains": "bakes",
    "loses": "sells",
    "sorts": ["plain", "sweet"],
}
PLOT = {
    "id": "gain",
    "texts": [
        "<who> has {have} <items>. <who> <gains> {more} more.",
        "<other> and {have} <sort> <items>, {more} more.",
    ],
    "ask": "How many <items> does <who> have?",
    "result": "the <items> of <who>",
    "program": "answer = have + more",
    "solution": ["{have} + {more} = {answer} <items>."],
    "quantities": {"have": {"low": 2, "high": 9, "link": True}, "more": {"low": 2, "high": 9}},
}


def draw_values(story: Template, count: int = 8) -> list[dict[str, int]]:
    """Values of the story's quantities, which are the same in each call."""
    rng = random.Random(story.id)
    return [story.draw(rng) for _ in range(count)]


def test_stories_differ_by_more_than_their_numbers() -> None:
    for split in SPLITS:
        stems = Counter(extract_stem(item.question) for item in make_story_items(split))
        assert max(stems.values()) == 1, stems.most_common(1)
    assert len(make_story_items("train")) >= 400 and len(make_story_items("test")) >= 200


def test_stories_with_more_steps_are_rarer_in_every_split() -> None:
    for split in SPLITS:
        count_by_steps = Counter(story.steps for story in STORIES if story.split == split)
        assert sorted(count_by_steps) == [1, 2, 3, 4]
        counts = [count_by_steps[steps] for steps in (1, 2, 3, 4)]
        assert counts == sorted(counts, reverse=True)


def test_train_stories_have_separate_situations_and_fewer_plots() -> None:
    situations = {split: set() for split in SPLITS}
    plots = {split: set() for split in SPLITS}
    for story in STORIES:
        situations[story.split].add(story.setting)
        plots[story.split].add(story.id.removeprefix(f"{story.setting}-"))
    assert not situations["train"] & (situations["dev"] | situations["test"])
    assert plots["train"] < plots["test"]


def test_story_solutions_are_right_and_end_with_the_answer() -> None:
    for story in STORIES:
        for values in draw_values(story):
            variables = story.solve(values)
            lines = story.solution_lines(variables)
            for line in lines:
                match = re.search(r"([\d.]+(?: [-+*/] [\d.]+)+) = ([\d.]+)", line)
                assert match and eval(match[1]) == float(match[2].rstrip(".")), line
            assert f"= {variables['answer']} " in lines[-1]


def test_story_texts_contain_every_number_and_no_placeholder() -> None:
    for story in STORIES:
        values = draw_values(story, 1)[0]
        text = f"{story.build_question_text(values)} {story.ask}"
        assert not re.search(r"[<>{}]", text + story.result + story.unit), text
        numbers = [int(digits) for digits in re.findall(r"\d+", text)]
        assert sorted(numbers) == sorted(values.values()), text
        assert text.endswith("?") and len(text.split()) < 60


def test_linked_quantities_of_stories_admit_enough_results_of_earlier_parts() -> None:
    for story in STORIES:
        rng = random.Random(story.id)
        for link in story.links:
            high = next(quantity.high for quantity in story.quantities if quantity.name == link)
            linked_values = [{**story.draw(rng), link: rng.randint(2, high * 8)} for _ in range(40)]
            admitted_count = sum(story.admits(values) for values in linked_values)
            assert admitted_count >= 6, (story.id, link)


def test_rotation_selects_objects_people_and_wording() -> None:
    first_story = compose_story(SITUATION, PLOT, rotation=0)
    second_story = compose_story(SITUATION, PLOT, rotation=1)
    assert first_story.build_question_text({"have": 3, "more": 4}) == "Ann has 3 rolls. Ann bakes 4 more."
    assert second_story.build_question_text({"have": 3, "more": 4}) == "Cy and 3 plain pies, 4 more."
    assert (first_story.id, first_story.steps, first_story.unit) == ("bakery-gain", 1, "rolls")
    assert first_story.ask == "How many rolls does Ann have?"


def test_unknown_word_of_a_plot_is_refused() -> None:
    with pytest.raises(DataError, match=r"unknown word <thing>"):
        compose_story(SITUATION, {**PLOT, "ask": "How many <thing>?"}, 0)
