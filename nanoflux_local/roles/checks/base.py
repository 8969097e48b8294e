"""Defines the protocol of a check, and lists all checks: each module of this package that defines a check names it
`CHECK`.

A check examines an attack and concludes "supports", "contradicts" or "not checked". It never decides whether the
attack is accepted: `checking.CheckingJudge` decides this from the judge's verdict and all findings.
"""

import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import ClassVar, Literal, Protocol

from nanoflux_local.config import JudgeRules, RunConfig
from nanoflux_local.domains.base import Domain
from nanoflux_local.errors import ConfigError, RefusedError
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import Identity
from nanoflux_local.roles.base import Draw, Player
from nanoflux_local.suggestions import suggest
from nanoflux_local.transcript import PROVING_CHECKS, Attack, Finding, Seed

SANDBOX = "sandbox"
SEARCH = "search"
EMBEDDER = "embedder"
"""The names under which a run records the identities of the sandbox, of its search engine and of its embedder."""
CheckStage = Literal["screens", "informs", "verifies"]
"""When a check runs. "screens": before the judge, which is not asked if the attack is contradicted; "informs": before
the judge, which sees the evidence; "verifies": after the judge accepted the attack, so the judge never sees the
findings.
"""
RunStage = Literal["screens", "proves", "informs", "verifies"]
"""The stage of a check in a run. "proves": after the screening checks; the judge is asked only if the attack is
supported.
"""


@dataclass(frozen=True, slots=True)
class CheckContext:
    """Everything that a check is built from. `player` is the judge's player, `solvers` are the players that write blind
    solutions, and `identities` maps names to the identities recorded with the run.
    """

    config: RunConfig
    domain: Domain
    player: Player
    solvers: tuple[Player, ...]
    identities: Mapping[str, Identity]

    def find_tool(self, name: str, setting: str, value: str = "true") -> Identity:
        """The identity of the sandbox, the search engine or the embedder. An error suggests `judge.SETTING=VALUE`, the
        setting that needs the tool.

        Raises:
            RefusedError: the run was started without that tool, so the ledger has no replies of the tool.
        """
        return read_recorded_identity(self.identities, name, setting, value)


class Check(Protocol):
    """An independent test of an attack.

    `name` is the check's name in settings, findings and tables; `title` is its name in sentences; `stage` says when it
    runs, unless `find_stage` says otherwise. `tools` are the tools it needs (`SANDBOX`, `SEARCH`); `objection` precedes
    the explanation of a verdict that is negative because of the check. With `asks_solvers`, its requests go to
    `judge.solvers` instead of the judge. The sampling seeds of requests are derived from the check's name, so that each
    request can be traced to its check.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    stage: ClassVar[CheckStage]
    tools: ClassVar[tuple[str, ...]]
    objection: ClassVar[str]
    asks_solvers: ClassVar[bool]

    @classmethod
    def build(cls, context: CheckContext) -> "Check":
        """Build the check for one run.

        Raises:
            RefusedError: the run was started without a tool that the check needs.
        """
        ...

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        """The number of calls that the check adds to a validation, by kind of request, for estimates of cost."""
        ...

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Examine an attack that was built from `seeds`. A trial has no seeds: its questions are benchmark items.

        A check that cannot decide concludes "not checked" and gives the reason.
        """
        ...


def find_stage(check: Check | type[Check], keep: str) -> RunStage:
    """The stage of a check in a run with this setting `keep`. With "confirmed", no question without the support of a
    check of `PROVING_CHECKS` becomes an example, so these checks run before all others that ask a model.
    """
    return "proves" if keep == "confirmed" and check.name in PROVING_CHECKS else check.stage


@cache
def list_check_classes() -> Mapping[str, type[Check]]:
    """The class of every check, by the check's name, in alphabetical order."""
    package_name = __name__.rpartition(".")[0]
    module_entries = pkgutil.iter_modules(import_module(package_name).__path__)
    modules = [import_module(f"{package_name}.{entry.name}") for entry in module_entries]
    check_classes: list[type[Check]] = [module.CHECK for module in modules if hasattr(module, "CHECK")]
    check_classes.sort(key=lambda check_class: check_class.name)
    return {check_class.name: check_class for check_class in check_classes}


def list_enabled_checks(rules: JudgeRules) -> list[type[Check]]:
    """The classes of the checks that a run with these rules uses.

    Raises:
        ConfigError: `judge.checks` names a check that does not exist.
    """
    refuse_unknown_checks(rules.checks, "judge.checks")
    return [check_class for name, check_class in list_check_classes().items() if name in rules.check_names]


def refuse_unknown_checks(names: Iterable[str], setting: str) -> None:
    """Raise ConfigError if a check of `names`, the value of `setting`, does not exist."""
    class_by_name = list_check_classes()
    unknown_names = [name for name in names if name not in class_by_name]
    if unknown_names:
        raise ConfigError(
            f"{setting}: there is no check {unknown_names[0]!r}", suggest(unknown_names[0], class_by_name)
        )


def list_needed_tools(rules: JudgeRules) -> set[str]:
    """The tools (`SANDBOX`, `SEARCH`) that the enabled checks need."""
    return {tool for check_class in list_enabled_checks(rules) for tool in check_class.tools}


def build_checks(context: CheckContext) -> tuple[Check, ...]:
    """The enabled checks of a run.

    Raises:
        ConfigError: `judge.checks` names a check that does not exist.
        RefusedError: the run was started without a tool that a check needs.
    """
    return tuple(check_class.build(context) for check_class in list_enabled_checks(context.config.judge))


def read_recorded_identity(
    identities: Mapping[str, Identity], name: str, setting: str, value: str = "true"
) -> Identity:
    """The identity of a tool or model that the run recorded under `name`, and that `judge.SETTING=VALUE` needs.

    Raises:
        RefusedError: the run was started without the tool or model.
    """
    if name not in identities:
        raise RefusedError(
            f"the run was started without {name}, which judge.{setting} needs; the ledger has no replies of {name}",
            f"start another run: nanoflux run start --fork RUN --set judge.{setting}={value}",
        )
    return identities[name]
