"""Measures the judge and its checks on GSM8K solutions that are known to be right, to contain a real mistake, or to
answer a broken question.

    python bench/checks.py [--pairs 50] [--minutes 8] [--steps "blind,code word,answerable samples"] [--home DIR]

One model, served by a managed vLLM server, writes the mistakes and judges (`models import` it first). The solutions and
the requests are those of a run's trial. All solutions go through the first group of steps before any goes through the
next; a step is a check, the judge's own decision ("word"), or the defender's answers to the question ("samples"), from
which the script computes what each value of the setting `keep` would keep. Every reply is stored, so the same command
resumes a killed measurement without repeating a call. No request starts after `--minutes`. Then, or right away with
`--show`, the script prints the rates over all measured solutions.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from support.measured_run import find_run, write_profile

from nanoflux_local.config import RunConfig
from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import ReplayMissError
from nanoflux_local.ledger.calls import TRIAL, Answer, CachedCalls, TracedCalls, acting_as
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checking import CheckingJudge
from nanoflux_local.roles.judge import is_same_answer
from nanoflux_local.run import configs, runs
from nanoflux_local.run.binding import bind, build_rules
from nanoflux_local.run.trials.replies import TRIAL_TURN, run_bounded
from nanoflux_local.run.trials.result import CONCLUSIONS, JudgedSolution, Rates, Share, measure_rates
from nanoflux_local.run.trials.solutions import KnownSolution, build_known_solutions
from nanoflux_local.run.turn import Defender
from nanoflux_local.seeds.importing import ImportRequest, import_benchmark
from nanoflux_local.transcript import Defence, Finding, Verdict

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
KINDS = ["mistake", "removed", "mistake", "changed", "own"]
"""The kinds of solutions in the trial, besides the reference solutions. The trial cycles through them, so "mistake" is
the most frequent kind of wrong solution."""
STEPS = "blind,code word,answerable samples"
DECISION_STEP = "word"
"""The name of the step in which the judge decides without any check."""
SAMPLES_STEP = "samples"
"""The name of the step in which the defender answers the question `SAMPLE_COUNT` times."""
SAMPLE_COUNT = 4
"""The number of answers, as under the rules `proven`. All are sampled at a temperature above 0, since the greedy answer
to a train item may itself be the known solution.
"""


@dataclass(slots=True)
class MeasuredSolution:
    """A solution of the trial with the findings measured so far. Once `is_judged`, `decision` is the judge's own
    decision, or None if the judge gave no verdict.
    """

    solution: KnownSolution
    findings: dict[str, Finding] = field(default_factory=dict)
    is_judged: bool = False
    decision: bool | None = None
    marks: tuple[bool, ...] = ()
    """Whether each of the defender's answers equals the answer of the solution; an unreadable answer does not."""

    def as_judged(self) -> JudgedSolution:
        """This solution in the form of a trial's result, from which rates are computed."""
        return JudgedSolution(self.solution.kind, self.decision, tuple(self.findings.values()))


def resolve_config(options: argparse.Namespace, home: Home) -> RunConfig:
    """The configuration of the run: its trial uses train items of GSM8K, and only blind solutions are sampled."""
    profile = write_profile(
        home.root / "checks-bench.toml", "coder", options.model, context=4096, concurrency=options.concurrency
    )
    steps = set(options.steps.replace(",", " ").split()) - {DECISION_STEP, SAMPLES_STEP}
    judge = {
        "trial": options.pairs, "trial_kinds": KINDS, "code_check": False, "quality": False, "confidence": 0.0,
        "checks": sorted(steps),
    }  # fmt: skip
    values: dict[str, Any] = {
        "datasets": ["gsm8k"], "held_out": [], "seed": options.seed, "judge": judge,
        "reply_tokens": options.reply_tokens, "retries": {"parse": options.retries},
    }  # fmt: skip
    return configs.resolve("gsmhard-short", profile, values, home)


async def find_or_start_run(home: Home, options: argparse.Namespace) -> str:
    """The id of the run to which the measurement's calls belong. The run is created on the first use."""
    name = f"checks-{options.pairs}-{options.seed}"
    return find_run(home, name) or await runs.start(home, resolve_config(options, home), name)


async def measure(
    home: Home, run: str, groups: Sequence[str], answers: dict[str, Answer], deadline: float
) -> list[MeasuredSolution]:
    """Take the solutions through all groups of steps until the deadline, a value of `time.monotonic`. Without
    `answers`, only stored replies are used.
    """
    config, identities, _ = runs.load_run(home, run)
    rules = build_rules(config, identities, home)
    domain = load_domain(config.domain, home.root)
    roles = rules.find_roles(0)
    judge = roles.judge
    assert isinstance(judge, CheckingJudge)

    def is_time_over() -> bool:
        return time.monotonic() > deadline

    with Ledger(home.ledger) as ledger, acting_as(TRIAL):
        call = TracedCalls(CachedCalls(ledger, run, answers))
        try:
            solutions = await build_known_solutions(rules, domain, call, is_time_over) or []
        except ReplayMissError:
            return []
        measured = [MeasuredSolution(solution) for solution in solutions]
        steps: dict[str, Any] = {check.name: partial(_examine, check) for check in judge.checks}
        steps[DECISION_STEP] = partial(_judge, judge)
        steps[SAMPLES_STEP] = partial(_sample_answers, roles.defender, domain)
        for group in groups:
            group_steps = [steps[name] for name in group.split(",")]
            functions = [
                partial(_apply_steps, group_steps, rules.config.seed, solution, call, is_time_over)
                for solution in measured
            ]
            await run_bounded(functions, config.concurrency)
    return measured


async def _apply_steps(
    steps: Sequence[Any], seed: int, measured: MeasuredSolution, call: Any, is_time_over: Callable[[], bool]
) -> None:
    """Apply the steps to a solution until the time is over. If only stored replies are used, steps whose replies are
    not stored are skipped.
    """
    draw = Draw(seed, TRIAL_TURN, measured.solution.number)
    for step in steps:
        if not is_time_over():
            with suppress(ReplayMissError):
                await step(measured, draw, call)


async def _examine(check: Any, measured: MeasuredSolution, draw: Draw, call: Any) -> None:
    """Apply a check to a solution, and store its finding."""
    measured.findings[check.name] = await check.examine(measured.solution.attack, draw, call)


async def _judge(judge: CheckingJudge, measured: MeasuredSolution, draw: Draw, call: Any) -> None:
    """Let the judge decide about a solution without any check, and store the decision."""
    verdict = await judge.judge.validate(measured.solution.attack, draw, call)
    measured.is_judged = True
    measured.decision = verdict.positive if isinstance(verdict, Verdict) else None


async def _sample_answers(
    defender: Defender, domain: Domain, measured: MeasuredSolution, draw: Draw, call: Any
) -> None:
    """Let the defender answer the question several times, and store which answers equal that of the solution."""
    attack = measured.solution.attack
    marks: list[bool] = []
    for number in range(1, SAMPLE_COUNT + 1):
        defence = await defender.defend(attack.question, replace(draw, sample=number), call)
        is_readable = isinstance(defence, Defence)
        marks.append(is_readable and is_same_answer(domain, defence.answer, attack.answer) is True)
    measured.marks = tuple(marks)


def show(measured: Sequence[MeasuredSolution]) -> None:
    """Print the rates of each rule over the solutions for which all of its steps were measured."""
    findings_of_all: dict[str, Finding] = {}
    for solution in measured:
        findings_of_all |= solution.findings
    check_names = list(findings_of_all)
    judged = [solution for solution in measured if solution.is_judged]
    unjudged = sum(solution.decision is None for solution in judged)
    print(f"{len(measured)} known solutions; {len(judged)} judged, {unjudged} of them without a verdict")
    print_rates("judge alone", judged, lambda solution: solution.decision)
    for name in check_names:
        examined = [solution for solution in measured if name in solution.findings]
        print_rates(f"{name}: not contradicted", examined, partial(concludes, (name,), False))
        print_rates(f"{name}: supported", examined, partial(concludes, (name,), True))
        print_findings(name, examined)
    if {"blind", "answerable"} <= set(check_names):
        examined_by_both = [solution for solution in measured if {"blind", "answerable"} <= solution.findings.keys()]
        print_rates(
            "blind and answerable: not contradicted",
            examined_by_both,
            partial(concludes, ("blind", "answerable"), False),
        )
        print_rates("blind supports, answerable does not contradict", examined_by_both, is_proven)
    for name in check_names:
        examined = [solution for solution in judged if name in solution.findings]
        print_rates(f"judge and {name}", examined, lambda solution, name=name: solution.accepted_with((name,)))
    complete = [solution for solution in judged if set(check_names) <= solution.findings.keys()]
    print_rates("judge and all checks", complete, lambda solution: solution.accepted)
    sampled = [solution for solution in complete if solution.marks]
    if sampled and {"blind", "code"} <= set(check_names):
        majority = SAMPLE_COUNT / 2
        print_kept("first answer differs (paper)", sampled, lambda entry: entry.decision is True and not entry.marks[0])
        print_kept("provable", sampled, lambda entry: is_kept(entry, 0))
        print_kept("provable, unless the code check contradicts", sampled, lambda entry: (
            is_kept(entry, 0) and entry.as_judged().conclusion_of("code") != "contradicts"
        ))  # fmt: skip
        print_kept("supported", sampled, lambda entry: is_kept(entry, majority))
        print_kept("only if the blind check supports", sampled, lambda entry: is_kept(entry, SAMPLE_COUNT))


def is_kept(solution: MeasuredSolution, right_count_to_exceed: float) -> bool:
    """Whether a rule would keep the question with this solution: if the judge accepts it, the blind check does not
    contradict it, and not all answers of the defender are right. Unless more than `right_count_to_exceed` of them are
    right, blind solutions must support it.
    """
    right_count = sum(solution.marks)
    conclusion = solution.as_judged().conclusion_of("blind")
    if not solution.decision or conclusion == "contradicts" or right_count == len(solution.marks):
        return False
    return right_count > right_count_to_exceed or conclusion == "supports"


def print_kept(title: str, measured: Sequence[MeasuredSolution], keeps: Callable[[MeasuredSolution], bool]) -> None:
    """Print how many right and wrong solutions a rule keeps, in total and by kind and number of right answers."""
    kept = [entry for entry in measured if keeps(entry)]
    right = sum(entry.solution.right for entry in kept)
    all_right = sum(entry.solution.right for entry in measured)
    wrong, all_wrong = len(kept) - right, len(measured) - all_right
    print(f"{title}: keeps {right}/{all_right} of the right, {wrong}/{all_wrong} of the wrong")
    counts = Counter(f"{entry.solution.kind}, {sum(entry.marks)} of {SAMPLE_COUNT}" for entry in kept)
    print("    " + "; ".join(f"{name}: {count}" for name, count in sorted(counts.items())))


def is_proven(solution: JudgedSolution) -> bool:
    """Whether blind solutions support a solution whose question is not found to be unanswerable."""
    return solution.conclusion_of("blind") == "supports" and solution.conclusion_of("answerable") != "contradicts"


def concludes(checks: Sequence[str], supported: bool, solution: JudgedSolution) -> bool:
    """If `supported`, whether all `checks` support a solution; otherwise, whether none of them contradicts it."""
    conclusions = [solution.conclusion_of(check) for check in checks]
    if supported:
        return all(conclusion == "supports" for conclusion in conclusions)
    return all(conclusion != "contradicts" for conclusion in conclusions)


def print_rates(
    title: str, measured: Sequence[MeasuredSolution], accept: Callable[[JudgedSolution], bool | None]
) -> None:
    """Print how many of the right and of the wrong solutions a rule accepts, in total and by kind."""
    rates: Rates = measure_rates([solution.as_judged() for solution in measured], accept)
    kinds = [f"{kind} {describe(share)}" for kind, share in rates.passed.items() if share.n]
    kinds += [f"{kind} {describe(share, rejected=True)}" for kind, share in rates.caught.items() if share.n]
    accepted_right = describe(rates.specificity, interval=True)
    accepted_wrong = describe(rates.sensitivity, interval=True, rejected=True)
    print(f"{title}: accepts {accepted_right} of the right, {accepted_wrong} of the wrong | {', '.join(kinds)}")


def print_findings(name: str, measured: Sequence[MeasuredSolution]) -> None:
    """Print how often a check supports, contradicts or does not check the solutions of each kind."""
    conclusions_by_kind: dict[str, list[str]] = {}
    for solution in measured:
        conclusion = solution.as_judged().conclusion_of(name)
        conclusions_by_kind.setdefault(solution.solution.kind, []).append(conclusion)
    for kind, conclusions in conclusions_by_kind.items():
        counts = [f"{conclusion} {conclusions.count(conclusion)}" for conclusion in CONCLUSIONS]
        print(f"    {kind:10} " + ", ".join(counts))


def describe(share: Share, interval: bool = False, rejected: bool = False) -> str:
    """The number and share of accepted solutions and, if `interval` is true, the 95% interval of the share. If
    `rejected` is true, `share` is the share of rejected solutions.
    """
    if share.share is None or share.ci95 is None:
        return "0/0"
    accepted = share.share
    low, high = share.ci95
    if rejected:
        accepted = 1 - accepted
        low, high = 1 - high, 1 - low
    counts = f"{round(accepted * share.n)}/{share.n}"
    return f"{counts} = {accepted:.0%} ({low:.0%} to {high:.0%})" if interval else counts


async def run_bench(home: Home, options: argparse.Namespace) -> None:
    """Measure until the time is over, then print the rates over all stored replies."""
    run = await find_or_start_run(home, options)
    groups = options.steps.split()
    if not options.show:
        bound = bind(runs.load_run(home, run)[0], home)
        try:
            await measure(home, run, groups, bound.answers(), time.monotonic() + 60 * options.minutes)
        finally:
            await bound.close()
    show(await measure(home, run, groups, {}, float("inf")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=ROOT / ".nanoflux" / "checks-bench")
    parser.add_argument("--data", type=Path, default=DATA, help="GSM8K's train.jsonl")
    parser.add_argument("--model", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--pairs", type=int, default=50, help="right solutions, and as many wrong ones")
    parser.add_argument("--steps", default=STEPS, help="groups of steps, measured in this order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--reply-tokens", type=int, default=600)
    parser.add_argument("--retries", type=int, default=1, help="further requests if a reply is unreadable")
    parser.add_argument("--show", action="store_true", help="only print what was measured")
    options = parser.parse_args()
    home = Home(options.home).prepare()
    if not options.show:
        import_benchmark(home, ImportRequest("gsm8k", "gsm8k", [options.data], str(options.data)), lambda *_: None)
    asyncio.run(run_bench(home, options))


if __name__ == "__main__":
    main()
