"""Help with names that match no choice or too many: the most similar choice, the list of all choices, and the error for
an ambiguous id.
"""

from collections.abc import Iterable, Sequence

from nanoflux_local.errors import NothingMatchedError

SIMILARITY = 0.6
"""Minimum similarity of a suggestion (difflib's ratio, in [0, 1])."""
MAX_LISTED_IDS = 3
"""Maximum number of matching ids that the error for an ambiguous id names."""


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


def make_ambiguity_error(prefix: str, kind: str, ids: Sequence[str]) -> NothingMatchedError:
    """The error for `prefix`, with which several `ids` of the same kind begin. `kind` is a noun, such as "run"."""
    listed_ids = ", ".join(ids[:MAX_LISTED_IDS])
    more = f" and {len(ids) - MAX_LISTED_IDS} more" if len(ids) > MAX_LISTED_IDS else ""
    message = f"{prefix!r} is the beginning of several {kind} ids: {listed_ids}{more}"
    return NothingMatchedError(message, "give more of the id")
