"""Replies read by section (the rules are those of the command line's page): the one parser of every role.

It finds sections and refuses to guess: a missing section, or two different texts where one was asked, is `Unparsed`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.records import storable

_BETWEEN = re.compile(r"[\s_]+")


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A reply that could not be read, with what was missing. It is never a judgement."""

    reason: str


def read_sections(text: str, names: Sequence[str], once: Sequence[str] = ()) -> dict[str, str] | Unparsed:
    """Every named section's text, or `Unparsed`.

    `names` are the sections that must be there, in any order. A section that is opened again keeps its first text;
    those in `once` decide something, so a second, different text makes the reply unreadable.
    """
    visible = strip_reasoning(storable(text))
    found = _from_json(visible, names) or _from_headings(visible, names)
    missing = [name for name in names if not found.get(name, [""])[0]]
    if missing:
        return Unparsed(f"missing section {', '.join(missing)}")
    for name in once:
        if len({_bare(value) for value in found[name]}) > 1:
            return Unparsed(f"section {name} is given twice with different texts")
    return {name: found[name][0] for name in names}


def refuse_descriptions(sections: dict[str, str], is_description: Callable[[str], object]) -> dict[str, str] | Unparsed:
    """The sections, unless one is what the prompt says of it: small models give that back."""
    copied = next((name for name, text in sections.items() if is_description(text)), None)
    if copied is None:
        return sections
    return Unparsed(f"{copied} is the prompt's own description: {sections[copied][:60]!r}")


def sections_text(sections: Mapping[str, str]) -> str:
    """Sections as a reply writes them."""
    return "\n".join(f"{name}: {text}" for name, text in sections.items())


def read_tags(text: str, names: Sequence[str]) -> str | Unparsed:
    """A text that consists of XML elements, each once and with words in it, in their order and one spelling.

    What stands outside them is left out; a model's angle brackets inside an element are text.
    """
    found = [re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE) for name in names]
    wrong = [name for name, texts in zip(names, found, strict=True) if len(texts) != 1 or not texts[0].strip()]
    if wrong:
        return Unparsed(f"no single element <{wrong[0]}>")
    return "\n".join(f"<{name}>{texts[0].strip()}</{name}>" for name, texts in zip(names, found, strict=True))


def _bare(value: str) -> str:
    return value.strip(" .*_`\n").casefold()


def _from_headings(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    known = {_words(name): name for name in names}
    matches = list(_heading(tuple(known)).finditer(text))
    ends = [*(match.start() for match in matches), len(text)][1:]
    found: dict[str, list[str]] = {}
    for match, end in zip(matches, ends, strict=True):
        found.setdefault(known[_words(match[1])], []).append(text[match.end() : end].strip())
    return found


@cache
def _heading(names: tuple[tuple[str, ...], ...]) -> re.Pattern[str]:
    """A line that opens one of these sections."""
    spelled = "|".join(r"[ \t_]+".join(map(re.escape, words)) for words in names)
    pattern = rf"^[ \t#*>]*(?:\d+[.)][ \t*]*)?({spelled})[ \t#*]*:[ \t*]*"
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.ASCII)  # ASCII: "DECİSİON" is no spelling of ours


def _words(name: str) -> tuple[str, ...]:
    """A section's name as its words in upper case: "Knowledge_Map" and "KNOWLEDGE MAP" are one name."""
    return tuple(_BETWEEN.split(name.upper()))


def _from_json(text: str, names: Sequence[str]) -> dict[str, list[str]] | None:
    """Sections as the keys of one JSON object, which is what structured output gives."""
    stripped = text.strip()
    if not stripped.startswith("{"):
        return None
    try:
        pairs = json.loads(stripped, object_pairs_hook=list)  # pairs, because a key may be given twice
    except (ValueError, RecursionError):
        return None
    found: dict[str, list[str]] = {}
    for key, content in pairs:
        for name in names:
            if _words(key) == _words(name) and content is not None:
                found.setdefault(name, []).append(storable(str(content)).strip())
    return found
