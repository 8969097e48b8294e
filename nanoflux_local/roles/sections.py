"""Reads the named sections of a reply, for every role.

Nothing is guessed: a reply that lacks a section, or has two different texts for a decisive section, is `Unparsed`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.records import storable
from nanoflux_local.reply_end import cut_at_next_turn

SplitNames = tuple[tuple[str, ...], ...]
"""Section names, each split into its words."""
MAX_COINCIDENCE_CHARACTERS = 20
"""A section that occurs in the prompt counts as copied if it has more characters than this; a shorter match may be a
coincidence.
"""
_NONE = re.compile(
    r"""\W*(?:
        (?:none|nothing|n/a|no|not[ ]applicable)?\W*$                                   # the word alone, "-" or "[]"
        | (?:none|nothing|n/a)[*_`"')\]]*\s*(?:[.,;:(\n–—]|-\s)                          # "None. All prices are given."
        | (?:there[ ](?:is|are)[ ])?(?:none|nothing|no(?:[ ][a-z-]+){1,2})(?:[ ]else)?
          (?:[ ](?:is|are|was|were))?[ ](?:missing|needed|required|contradictory|contradicted|unsupported|found)\W*$
        | (?:there[ ](?:is|are)[ ])?no[ ](?:contradictions?|(?:missing|contradictory)[ ][a-z]+)\W*$
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""A section without content: "none", perhaps with an explanation after it, or a sentence with this meaning."""
_MAYBE_NONE = re.compile(r"\W*(?:none|nothing|not)\b", re.IGNORECASE)
"""The beginning of a section that may say that there is nothing, or name something: "None of the prices is stated"."""
_WORD_SEPARATOR = re.compile(r"[\s_]+")
_OPENING_FENCE = re.compile(r"(```|~~~)\w*\s*")
_JSON_FENCE = re.compile(r"```(?:json)?[ \t]*\r?\n\s*(\{.*?\})\s*```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A reply that could not be read, with the reason. It is never a judgement."""

    reason: str


@dataclass(frozen=True, slots=True)
class RefusedPrompt(Unparsed):
    """The endpoint refused the prompt for the given `reason`, so there is no reply."""


def read_sections(text: str, names: Sequence[str], once: Sequence[str] = ()) -> dict[str, str] | Unparsed:
    """Read the text of every named section, or say why the reply is unreadable.

    All `names` must be present, in any order. If a section occurs twice, the first one is used. But if one of the
    decisive sections, `once`, occurs twice with different texts, the reply is unreadable. If a complete reply is
    followed by an invented next turn of the conversation, that turn is ignored.
    """
    visible_text = _strip_fence(strip_reasoning(storable(text)))
    texts_by_name = _choose_reading(visible_text, names, once)
    missing_names = _list_missing(texts_by_name, names)
    if missing_names:
        return Unparsed(f"missing section {', '.join(missing_names)}")
    contradictory_names = _list_contradictory(texts_by_name, once)
    if contradictory_names:
        return Unparsed(f"section {contradictory_names[0]} is given twice with different texts")
    return {name: texts_by_name[name][0] for name in names}


def _choose_reading(visible_text: str, names: Sequence[str], once: Sequence[str]) -> dict[str, list[str]]:
    """The texts of each section in the best of all readings: the first with every section and without a contradiction
    in `once`; failing that, the first with every section; failing that, the first with any section.

    Headings with a colon are tried before bare headings. If those with a colon suffice, "**Answer**" alone on a line is
    part of a section's text.
    """
    candidates = (
        cut_at_next_turn(visible_text, names, speakers_only=True),
        visible_text,
        cut_at_next_turn(visible_text, names),
    )
    readings = [
        read(candidate, names)
        for candidate in dict.fromkeys(candidates)
        for read in (_read_json, _read_headings, _read_bare_headings, _read_fenced_json)
    ]
    complete_readings = [reading for reading in readings if not _list_missing(reading, names)]
    for reading in complete_readings:
        if not _list_contradictory(reading, once):
            return reading
    if complete_readings:
        return complete_readings[0]
    return next((reading for reading in readings if reading), {})


def _list_missing(texts_by_name: dict[str, list[str]], names: Sequence[str]) -> list[str]:
    """The sections that are absent, or whose first text is empty."""
    return [name for name in names if not texts_by_name.get(name, [""])[0]]


def _list_contradictory(texts_by_name: dict[str, list[str]], once: Sequence[str]) -> list[str]:
    """The sections of `once` that occur with different texts."""
    return [name for name in once if len({_normalize(text) for text in texts_by_name[name]}) > 1]


def refuse_descriptions(sections: dict[str, str], is_description: Callable[[str], object]) -> dict[str, str] | Unparsed:
    """The sections, or Unparsed if one of them only repeats its description in the prompt, as small models do."""
    copied_name = next((name for name, text in sections.items() if is_description(text)), None)
    if copied_name is None:
        return sections
    return Unparsed(f"{copied_name} is the prompt's own description: {sections[copied_name][:60]!r}")


def refuse_copies(sections: dict[str, str], prompt: str) -> dict[str, str] | Unparsed:
    """The sections of a reply to `prompt`, or Unparsed if one of them is copied from the prompt."""
    return refuse_descriptions(sections, lambda text: len(text) > MAX_COINCIDENCE_CHARACTERS and text in prompt)


def says_none(section: str) -> bool:
    """Whether a section says that it has no content: "NONE", "n/a" or "Nothing is missing."."""
    return _NONE.match(section) is not None


def read_claim(section: str) -> str | Unparsed:
    """The claim that a section makes, "" if it says that there is none. Unparsed if it may say either, as in "None of
    the prices is stated".
    """
    if says_none(section):
        return ""
    return Unparsed(f"this may mean that there is none: {section[:80]!r}") if _MAYBE_NONE.match(section) else section


def drop_section(text: str, name: str) -> str:
    """The text before the first heading of the section `name`; the whole text if there is no such heading."""
    heading = _compile_heading((_split_name(name),)).search(text)
    return text if heading is None else text[: heading.start()].strip()


def render_sections(sections: Mapping[str, str]) -> str:
    """The sections as the text of a reply."""
    return "\n".join(f"{name}: {text}" for name, text in sections.items())


def read_tags(text: str, names: Sequence[str]) -> str | Unparsed:
    """Read the XML elements with these names, each of which must occur once and not be empty. Returns them in the order
    and spelling of `names`.

    Text outside the elements is dropped; angle brackets inside an element are text.
    """
    elements: list[str] = []
    for name in names:
        texts = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE)
        if len(texts) != 1 or not texts[0].strip():
            return Unparsed(f"no single element <{name}>")
        elements.append(f"<{name}>{texts[0].strip()}</{name}>")
    return "\n".join(elements)


def _normalize(text: str) -> str:
    """A text in a form for comparisons: without surrounding markup, and case-folded."""
    return text.strip(" .*_`\n").casefold()


def _strip_fence(text: str) -> str:
    """The text without the code fence that encloses all of it, if there is one; the fence need not be closed. A fence
    around only part of the text stays.
    """
    first_line, *other_lines = text.strip().split("\n")
    fence = _OPENING_FENCE.fullmatch(first_line)
    if fence is None:
        return text
    if other_lines and other_lines[-1].strip() == fence[1]:
        other_lines.pop()
    has_inner_fence = any(line.lstrip().startswith(fence[1]) for line in other_lines)
    return text if has_inner_fence else "\n".join(other_lines)


def _read_headings(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Sections under headings with a colon: "QUESTION: …"."""
    return _split_at_headings(_compile_heading, text, names)


def _read_bare_headings(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Sections under headings with a colon, or alone on a line: "## QUESTION", "**Question**" or QUESTION."""
    return _split_at_headings(_compile_bare_heading, text, names)


def _split_at_headings(
    compile_pattern: Callable[[SplitNames], re.Pattern[str]], text: str, names: Sequence[str]
) -> dict[str, list[str]]:
    """The texts between the headings that the pattern finds, by section."""
    name_by_words = {_split_name(name): name for name in names}
    matches = list(compile_pattern(tuple(name_by_words)).finditer(text))
    starts = [match.start() for match in matches]
    ends = [*starts, len(text)][1:]  # a section ends where the next heading starts
    texts_by_name: dict[str, list[str]] = {}
    for match, end in zip(matches, ends, strict=True):
        heading = next(group for group in match.groups() if group)  # each form of heading has its own group
        name = name_by_words[_split_name(heading)]
        texts_by_name.setdefault(name, []).append(text[match.end() : end].strip())
    return texts_by_name


@cache
def _compile_heading(names: SplitNames) -> re.Pattern[str]:
    """A pattern for the beginning of a section: its name with a colon at the beginning of a line."""
    # ASCII, so that "DECİSİON" does not match
    return re.compile(_build_colon_pattern(names), re.IGNORECASE | re.MULTILINE | re.ASCII)


@cache
def _compile_bare_heading(names: SplitNames) -> re.Pattern[str]:
    """A pattern for the beginning of a section: its name with a colon, or its name alone on a line, marked as a heading
    or in capitals.
    """
    number_prefix = r"(?:\d+[.)][ \t*_]*)?"
    name_pattern = _build_name_pattern(names)
    line_end = r"[ \t]*\r?$"
    marked_heading = (
        r"^[ \t>]*(?:#+[ \t]*[*_]*|[*_]{2}|\d+[.)][ \t]*[*_]{2})[ \t]*"
        rf"{number_prefix}({name_pattern})[ \t#*_]*{line_end}"
    )
    capitals_heading = rf"^[ \t>]*{number_prefix}(?-i:({name_pattern})){line_end}"
    pattern = rf"{_build_colon_pattern(names)}|{marked_heading}|{capitals_heading}"
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.ASCII)


def _build_colon_pattern(names: SplitNames) -> str:
    """The pattern of a name with a colon at the beginning of a line, perhaps numbered or in markup."""
    return rf"^[ \t#*>]*(?:\d+[.)][ \t*]*)?({_build_name_pattern(names)})[ \t#*]*[:：][ \t*]*"


def _build_name_pattern(names: SplitNames) -> str:
    """The pattern of any of these names, whose words may be separated by spaces or underscores."""
    word_separator = r"[ \t_]+"
    return "|".join(word_separator.join(re.escape(word) for word in words) for words in names)


def _split_name(name: str) -> tuple[str, ...]:
    """The words of a section's name in upper case: "Knowledge_Map" and "KNOWLEDGE MAP" are the same name."""
    return tuple(_WORD_SEPARATOR.split(name.upper()))


def _read_json(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Sections as the keys of one JSON object, as in structured output."""
    stripped = text.strip()
    if not stripped.startswith("{"):
        return {}
    try:
        pairs = json.loads(stripped, object_pairs_hook=list)  # pairs, because a key may occur twice
    except (ValueError, RecursionError):
        return {}
    texts_by_name: dict[str, list[str]] = {}
    for key, content in pairs:
        for name in names:
            if _split_name(key) == _split_name(name) and content is not None:
                text = "\n".join(map(str, content)) if isinstance(content, list) and content else str(content)
                texts_by_name.setdefault(name, []).append(storable(text).strip())
    return texts_by_name


def _read_fenced_json(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Sections as the keys of a JSON object in a code fence, with text around it."""
    match = _JSON_FENCE.search(text)
    return _read_json(match[1], names) if match else {}
