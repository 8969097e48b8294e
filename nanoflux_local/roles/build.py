"""Builds a run's judge and rater from its configuration. The judge is a program, a model or a panel of models; a model
or a panel may have checks.

A judge needs only the endpoints' identities, not running endpoints, so that a replay can build it too.
"""

from collections.abc import Callable, Mapping

from nanoflux_local.config import PROGRAM, RunConfig
from nanoflux_local.domains.base import Domain
from nanoflux_local.records import Identity
from nanoflux_local.roles.base import Judge, Player
from nanoflux_local.roles.checking import CheckingJudge
from nanoflux_local.roles.checks.base import SANDBOX, CheckContext, build_checks, read_recorded_identity
from nanoflux_local.roles.judge import ModelJudge
from nanoflux_local.roles.panel import PanelJudge
from nanoflux_local.roles.program_judge import ProgramJudge
from nanoflux_local.roles.quality import Rater


def build_judge(
    config: RunConfig, domain: Domain, identities: Mapping[str, Identity], player: Callable[[str], Player]
) -> Judge:
    """Build the judge of a run. `player` builds the player of a named endpoint in the judge's role. For a panel, the
    checks use the endpoint of the judge's role.

    Raises:
        ConfigError: `judge.checks` names a check that does not exist.
        RefusedError: the run was started without a panel member, a solver or a tool that the configuration needs.
    """
    rules = config.judge
    judge_endpoint = config.roles.judge.endpoint
    if judge_endpoint == PROGRAM:
        return ProgramJudge(identities[SANDBOX], config.sandbox_wall_s)
    for setting in ("panel", "solvers"):
        for name in getattr(rules, setting):
            read_recorded_identity(identities, name, setting, "[…]")  # raises the RefusedError
    member_names = (judge_endpoint, *rules.panel)
    members = tuple(ModelJudge(domain, player(name), rules, config.retries.parse) for name in member_names)
    judge: Judge = members[0] if len(members) == 1 else PanelJudge(members, rules.panel_rule)
    solver_names = rules.solvers if rules.solvers else (judge_endpoint,)
    solvers = tuple(player(name) for name in solver_names)
    checks = build_checks(CheckContext(config, domain, player(judge_endpoint), solvers, identities))
    return CheckingJudge(judge, checks, config.keep) if checks else judge


def build_rater(config: RunConfig, domain: Domain, player: Callable[[str], Player]) -> Rater | None:
    """Build the rater of kept examples' reasoning, or None if `judge.quality` is off or the judge is a program."""
    judge_endpoint = config.roles.judge.endpoint
    if not config.judge.quality or judge_endpoint == PROGRAM:
        return None
    return Rater(domain, player(judge_endpoint), config.retries.parse)
