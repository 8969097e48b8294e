"""Rule sets: named groups of settings, such as "proven". Each rule set chooses the checks and the examples that are
kept.

A rule set takes precedence over the domain's defaults; the profile and the user's settings take precedence over a rule
set.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanoflux_local.domains.base import Domain

PAPER = "paper"
RULE_SETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"judge": {"checks": []}, "samples": 1, "keep": "failed"},
    "proven": {"judge": {"checks": ["answerable", "blind", "restated"]}, "samples": 4, "keep": "provable"},
}
"""The settings of each rule set by its name. "paper" is the paper's protocol; "proven" keeps only questions whose
answer is supported by more than the attacker's solution.
"""
DESCRIPTIONS: Mapping[str, str] = {
    "paper": "the paper's protocol: keep what the defender's single answer gets wrong or solves in a new way",
    "proven": "keep what only some of several answers solve, or none if blind solutions support the answer",
}
"""A one-line description of each rule set."""


def find_rule_settings(name: object, domain: "Domain") -> Mapping[str, Any]:
    """The settings of a rule set. {} for an unknown name, which the validation of the configuration reports.

    If the domain names checks, they replace those of the rule set: a rule set's checks see the question without its
    documents, so a question about documents would never pass them.
    """
    from nanoflux_local.config import merge_tables  # deferred: `nanoflux run --help` needs only the names

    settings = RULE_SETS.get(name, {}) if isinstance(name, str) else {}
    if not domain.checks:
        return settings
    return merge_tables(settings, {"judge": {"checks": list(domain.checks)}})
