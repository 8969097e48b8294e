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
    "paper": {
        "judge": {"checks": [], "solutions": 4, "agreeing": 2, "grading": "judge"},
        "samples": 1,
        "keep": "failed",
        "swap_roles": True,
    },
    "proven": {
        "judge": {"checks": ["answerable", "blind", "restated"], "solutions": 3, "agreeing": 0, "grading": "program"},
        "samples": 4,
        "keep": "confirmed",
        "swap_roles": False,
    },
}
"""The settings of each rule set by its name. "paper" is the paper's protocol; "proven" keeps only questions whose
answer is reached by every solution that is written without the attacker's (docs/explanation/judge.md).
"""
BLIND_SETTINGS = ("solutions", "agreeing")
"""Settings of the blind check, which have no effect without it."""
DESCRIPTIONS: Mapping[str, str] = {
    "paper": "the paper's protocol: keep what the defender's single answer gets wrong or solves in a new way",
    "proven": "keep what is also solved without the attacker's solution, and the defender does not always solve",
}
"""A one-line description of each rule set."""


def list_rule_changes(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings in which a stored configuration differs from its rule set, with their values. If a program judges,
    the checks do not run, whatever the configuration says.
    """
    from nanoflux_local.config import PROGRAM  # deferred: `nanoflux run --help` needs only the names

    rules = RULE_SETS.get(config.get("rules", PAPER))
    if rules is None:  # the configuration is damaged; `run verify` reports this
        return {}
    judge, roles = config.get("judge", {}), config.get("roles", {})
    changes: dict[str, str] = {}
    for key in ("samples", "keep", "swap_roles"):
        setting = config.get(key, RULE_SETS[PAPER][key])  # versions without the key behaved like `PAPER`
        if setting != rules[key]:
            changes[key] = str(setting).lower()
    checks, expected_checks = judge.get("checks", []), rules["judge"]["checks"]
    if roles.get("judge", {}).get("endpoint") == PROGRAM:
        if expected_checks:
            changes["judge.checks"] = "none, because a program judges"
        return changes
    if set(checks) != set(expected_checks):
        changes["judge.checks"] = ", ".join(checks) if checks else "none"
    for key, expected in rules["judge"].items():
        setting = judge.get(key, RULE_SETS[PAPER]["judge"][key])
        has_effect = "blind" in checks or key not in BLIND_SETTINGS
        if key != "checks" and setting != expected and has_effect:
            changes[f"judge.{key}"] = str(setting)
    return changes


def format_rule_changes(changes: Mapping[str, str]) -> str:
    """The changes to append to the name of a rule set, such as ", but samples = 8"; "" if there are none."""
    return ", but " + "; ".join(f"{key} = {setting}" for key, setting in changes.items()) if changes else ""


def describe_rules(config: Mapping[str, Any]) -> str:
    """The rule set of a stored configuration: its name, its description and what the configuration changes."""
    name = config.get("rules", PAPER)  # versions without rule sets followed the paper
    return f"{name}: {DESCRIPTIONS[name]}{format_rule_changes(list_rule_changes(config))}"


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
