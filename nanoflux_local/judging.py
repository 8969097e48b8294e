"""The judge of a run, put together from its configuration: a program, a model or a panel, with its tools and its rater.

Needs identities, not endpoints, so that a replay can make it too; refuses a tool that the run was started without.
"""

from collections.abc import Callable, Mapping

from nanoflux_local.config import PROGRAM, RunConfig
from nanoflux_local.domains.base import Domain
from nanoflux_local.errors import RefusedError
from nanoflux_local.records import Identity
from nanoflux_local.roles.base import Judge, Player
from nanoflux_local.roles.checking import CheckingJudge
from nanoflux_local.roles.code_check import CodeCheck
from nanoflux_local.roles.fact_check import FactCheck
from nanoflux_local.roles.judge import ModelJudge
from nanoflux_local.roles.panel import PanelJudge
from nanoflux_local.roles.program_judge import ProgramJudge
from nanoflux_local.roles.quality import Rater

SANDBOX = "sandbox"
SEARCH = "search"
"""The names under which a run records the identities of the sandbox and of its search engine."""


def judge_of(
    config: RunConfig, domain: Domain, identities: Mapping[str, Identity], player: Callable[[str], Player]
) -> Judge:
    """The judge; `player` binds an endpoint's name. Of a panel, the endpoint of the role uses the tools.

    Raises:
        RefusedError: the run was started without the sandbox or the search engine that is now asked for.
    """
    rules, chair = config.judge, config.roles.judge.endpoint
    if chair == PROGRAM:
        return ProgramJudge(identities[SANDBOX], config.sandbox_wall_s)
    retries = config.retries.parse
    for name in rules.panel:
        _known(identities, name, "panel", "[…]")
    members = tuple(ModelJudge(domain, player(name), rules, retries) for name in (chair, *rules.panel))
    judge: Judge = members[0] if len(members) == 1 else PanelJudge(members, rules.panel_rule)
    code = facts = None
    if rules.code_check:
        sandbox = _known(identities, SANDBOX, "code_check")
        code = CodeCheck(domain, player(chair), sandbox, config.sandbox_wall_s, retries)
    if rules.fact_check:
        engine, search = _known(identities, SEARCH, "fact_check"), config.search
        facts = FactCheck(domain, player(chair), engine, search.queries, search.top, search.timeout_s, retries)
    return CheckingJudge(judge, code, facts) if code or facts else judge


def rater_of(config: RunConfig, domain: Domain, player: Callable[[str], Player]) -> Rater | None:
    """Who rates the reasoning of what is kept: the judge, where it is a model and is to."""
    chair = config.roles.judge.endpoint
    return Rater(domain, player(chair), config.retries.parse) if config.judge.quality and chair != PROGRAM else None


def _known(identities: Mapping[str, Identity], name: str, setting: str, value: str = "true") -> Identity:
    if name not in identities:
        raise RefusedError(
            f"the run was made without {name} of judge.{setting}, so nothing that it asks for is remembered",
            f"play it as another run: nanoflux run start --fork RUN --set judge.{setting}={value}",
        )
    return identities[name]
