"""The steps of an attempt under a run's configuration, in the order of `turn.run_attempt`.

Each request of an attempt has a sampling seed that is derived from a key, its *draw*; the draws of a step identify its
requests. A program that attacks or judges sends no request to a model, so it has no step. The steps of attacker and
defender name no endpoint, since two models may swap these roles; the record of a turn names the endpoints.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nanoflux_local.config import PROGRAM, RunConfig, validate_model
from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import NanofluxError
from nanoflux_local.ledger.turn_steps import DrawKey, TurnStep
from nanoflux_local.paths import Home
from nanoflux_local.roles.checks.base import Check, RunStage, find_stage, list_enabled_checks
from nanoflux_local.roles.judge import needs_evaluation

CHECK_DRAWS = {"facts": "claims"}
"""For each check whose draws do not have the check's name: the name that they have instead. The seeds of recorded
requests depend on these names, so the names must not change.
"""


def load_steps(home: Home, config: Mapping[str, Any]) -> tuple[TurnStep, ...]:
    """The steps under a stored configuration. () if its domain no longer exists, or if an earlier version stored a
    configuration that this version refuses.
    """
    try:
        run_config = validate_model(RunConfig, config, "the stored configuration")
        return plan_steps(run_config, load_domain(run_config.domain, home.root))
    except NanofluxError:
        return ()


def plan_steps(config: RunConfig, domain: Domain) -> tuple[TurnStep, ...]:
    """The steps of one attempt that ask a model, in order.

    Raises:
        ConfigError: `judge.checks` names a check that does not exist.
    """
    judge = config.roles.judge.endpoint
    has_model_judge = judge != PROGRAM
    panel = " + ".join((judge, *config.judge.panel))
    is_defence_judged = has_model_judge and needs_evaluation(config.judge, domain)
    evaluation_draws = _list_judge_draws(config, "evaluation") if is_defence_judged else []
    defence_draws = _list_defence_draws(config, domain.sections.defender)
    last_section = domain.sections.defender[-1]
    # The defence ends with the reply to its single request, or to the request for its last section.
    defence_milestones: list[DrawKey] = [("defence", 0), (f"defence-{last_section}", 0)]
    steps: list[TurnStep] = []
    if config.roles.attacker.endpoint != PROGRAM:
        steps.append(_make_step("attack", "attacker", "", "writing a question", [("attack", 0)]))
    if has_model_judge:
        steps += _list_check_steps(config, ("screens", "proves", "informs"))
        validation_draws = _list_judge_draws(config, "validation")
        steps.append(_make_step("validation", "judge", panel, "validating the question", validation_draws))
        steps += _list_check_steps(config, ("verifies",))
    steps.append(_make_step("defence", "defender", "", "solving the question", defence_draws, defence_milestones))
    if is_defence_judged:
        steps.append(_make_step("evaluation", "judge", panel, "judging the reply", evaluation_draws))
    if config.samples > 1:
        draws_per_sample = [*defence_draws, *evaluation_draws]
        sample_draws = [(*draw, sample) for sample in range(1, config.samples) for draw in draws_per_sample]
        sample_milestones = [(*draw, config.samples - 1) for draw in defence_milestones]
        steps.append(_make_step("samples", "defender", "", "answering again", sample_draws, sample_milestones))
    if has_model_judge and config.judge.quality:
        quality_draws: list[DrawKey] = [("quality", retry) for retry in range(config.retries.parse + 1)]
        steps.append(_make_step("quality", "judge", judge, "rating the reasoning", quality_draws))
    return tuple(steps)


def _make_step(
    name: str, role: str, endpoint: str, action: str, draws: Sequence[DrawKey], milestones: Sequence[DrawKey] = ()
) -> TurnStep:
    """Make a step. Without `milestones`, the reply to the step's first request ends it."""
    return TurnStep(name, role, endpoint, action, tuple(draws), tuple(milestones or draws[:1]))


def _list_check_steps(config: RunConfig, stages: tuple[RunStage, ...]) -> list[TurnStep]:
    """The steps of the checks that ask a model."""
    enabled_checks = list_enabled_checks(config.judge)
    checks = [check for stage in stages for check in enabled_checks if find_stage(check, config.keep) == stage]
    return [_make_check_step(config, check) for check in checks if check.count_calls(config.judge).get("chat")]


def _make_check_step(config: RunConfig, check: type[Check]) -> TurnStep:
    """The step of a check. A check with several requests can conclude once more than half of its replies have
    arrived; a check that must support the question, only once the last one has.
    """
    request_count = check.count_calls(config.judge)["chat"]
    name = CHECK_DRAWS.get(check.name, check.name)
    draw_count = max(request_count, config.retries.parse + 1)
    draws: list[DrawKey] = [(name, number) for number in range(draw_count)]
    asks_other_solvers = check.asks_solvers and bool(config.judge.solvers)
    endpoint = " + ".join(config.judge.solvers) if asks_other_solvers else config.roles.judge.endpoint
    is_required = find_stage(check, config.keep) == "proves"
    milestones: list[DrawKey] = [(name, request_count - 1 if is_required else request_count // 2)]
    return _make_step(check.name, check.title, endpoint, "checking the question", draws, milestones)


def _list_judge_draws(config: RunConfig, name: str) -> list[DrawKey]:
    """The draws of a judgement, which is requested again if its confidence is too low (a strike) or its reply is
    unreadable (a retry).
    """
    retries = range(config.retries.parse + 1)
    return [(f"{name}-{strike}", retry) for strike in range(config.judge.strikes) for retry in retries]


def _list_defence_draws(config: RunConfig, sections: Sequence[str]) -> list[DrawKey]:
    """The draws of a defence in both its forms: one request for all sections, and one request for each section."""
    names = ("defence", *(f"defence-{section}" for section in sections))
    return [(name, retry) for name in names for retry in range(config.retries.parse + 1)]
