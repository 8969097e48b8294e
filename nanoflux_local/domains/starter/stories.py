"""Composes the stories of the starter domain. A story is a `Template` of a word problem, made of a plot and a
situation.

A plot states what happens and what is asked (`stories/plots.toml`); a situation states to whom it happens and with
which objects (`stories/situations.toml`). Every plot is combined with every situation, so two stories differ in the
plot, in the objects or in both, never only in their numbers. A situation belongs to one split. Plots that are
`held_out` have no train stories, so the test split also contains kinds of problems that occur in no seed.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from nanoflux_local.domains.starter.templates import Template, build_template
from nanoflux_local.errors import DataError

_WORD_SLOT = re.compile(r"<(\w+)>")
_PLURAL_SLOT = "<items>"
"""The default unit of an answer: the objects of the situation."""


@cache
def load_stories(split: str = "") -> tuple[Template, ...]:
    """All stories, or those of one split, situation by situation."""
    plots = _read_tables("plots.toml", "plot")
    situations = _read_tables("situations.toml", "situation")
    stories = []
    for situation_number, situation in enumerate(situations):
        if split not in ("", situation["split"]):
            continue
        for plot_number, plot in enumerate(plots):
            if situation["split"] == "train" and plot.get("held_out"):
                continue
            rotation = situation_number + plot_number
            stories.append(compose_story(situation, plot, rotation))
    return tuple(stories)


def load_one_step_stories(split: str = "") -> tuple[Template, ...]:
    """The stories with a single step, all or those of one split."""
    return tuple(story for story in load_stories(split) if story.steps == 1)


def compose_story(situation: Mapping[str, Any], plot: Mapping[str, Any], rotation: int) -> Template:
    """The story of one plot in one situation. `rotation` selects the objects and people of the situation and the
    wording of the plot: consecutive numbers select consecutive entries of these lists.

    Raises:
        DataError: the plot uses an unknown word, or its program, texts and quantities disagree.
    """
    words = _choose_words(situation, rotation)
    row = {key: value for key, value in plot.items() if key not in ("texts", "held_out")}
    row["id"] = f"{situation['id']}-{plot['id']}"
    row["split"] = situation["split"]
    row["steps"] = len(plot["solution"])
    row["text"] = plot["texts"][rotation % len(plot["texts"])]
    row["unit"] = plot.get("unit", _PLURAL_SLOT)
    for key in ("text", "ask", "result", "unit"):
        row[key] = _fill_words(row[key], words)
    row["solution"] = [_fill_words(line, words) for line in plot["solution"]]
    return build_template(f"{situation['id']}.toml", row)


def _choose_words(situation: Mapping[str, Any], rotation: int) -> dict[str, str]:
    """The words of a situation, by the name of the slot that each of them fills in a plot."""
    item, items = situation["objects"][rotation % len(situation["objects"])]
    people = situation["people"]
    return {
        "who": people[rotation % len(people)],
        "other": people[(rotation + 1) % len(people)],
        "third": people[(rotation + 2) % len(people)],
        "item": item, "items": items,
        "box": situation["container"][0], "boxes": situation["container"][1],
        "gains": situation["gains"], "loses": situation["loses"],
        "sort": situation["sorts"][0], "sort2": situation["sorts"][1],
    }  # fmt: skip


def _fill_words(text: str, words: Mapping[str, str]) -> str:
    """A plot's text with its slots, such as <who>, replaced by words. Raises DataError if a slot has no word."""

    def find_word(match: re.Match[str]) -> str:
        slot = match[1]
        if slot not in words:
            raise DataError(f"plots.toml: unknown word <{slot}>", f"use one of: {', '.join(words)}")
        return words[slot]

    return _WORD_SLOT.sub(find_word, text)


def _read_tables(file: str, name: str) -> list[dict[str, Any]]:
    """The `[[name]]` tables of a file in the folder `stories`."""
    content = (resources.files(__package__) / "stories" / file).read_text(encoding="utf-8")
    return list(tomllib.loads(content)[name])
