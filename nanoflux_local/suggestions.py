"""Suggestions for misspelt names and keys: the most similar choice, and the list of all choices."""

from collections.abc import Iterable

SIMILARITY = 0.6
"""Minimum similarity of a suggestion (difflib's ratio, in [0, 1])."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """The choice most similar to `name`, ignoring case; "" if none is similar."""
    from difflib import get_close_matches  # deferred: only errors need it, and every command imports this module

    choice_by_folded_name = {choice.casefold(): choice for choice in choices}
    matches = get_close_matches(name.casefold(), choice_by_folded_name, n=1, cutoff=SIMILARITY)
    return choice_by_folded_name[matches[0]] if matches else ""


def suggest(name: str, choices: Iterable[str], introduction: str = "choose one of") -> str:
    """The fix for an unknown name: "did you mean 'gsm8k'? choose one of: gsm8k, starter"."""
    sorted_choices = sorted(choices)
    nearest_choice = nearest(name, sorted_choices)
    question = f"did you mean {nearest_choice!r}? " if nearest_choice else ""
    return f"{question}{introduction}: {', '.join(sorted_choices) or '(none)'}"
