"""The trial of a run: it is held once, its rates are computed correctly, and commands and the report show them."""

import asyncio
import itertools
import json
import sqlite3
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.cli.overview import show_run
from nanoflux_local.domains.own import load_domain
from nanoflux_local.ledger.calls import CachedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Identity
from nanoflux_local.report.run_report import write_report
from nanoflux_local.roles.checking import CheckingJudge
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.run import configs, runs
from nanoflux_local.run.binding import build_rules
from nanoflux_local.run.trials.result import (
    JudgedSolution,
    Rates,
    Share,
    TrialResult,
    measure_rates,
    read_record,
    summarize_trial,
)
from nanoflux_local.run.trials.session import hold_trial
from nanoflux_local.run.turn import TurnRoles
from nanoflux_local.seeds.source import Items
from nanoflux_local.transcript import Attack, Doubt, Finding, Seed, Verdict

IDENTITIES = {name: Identity("scripted", name) for name in ("duelist-a", "duelist-b", "arbiter", "embedder")}
SEEDS = [
    Seed(f"sum-{number}", "d", f"How much are {number} and 4?", str(number + 4), f"{number} + 4 = {number + 4}")
    for number in range(20, 29)
]


@dataclass
class FakeJudge:
    """A judge that returns `judge(attack)`, and counts its judgements."""

    judge: Any
    name: str = "judge"
    judgement_count: int = 0

    async def validate(self, attack: Attack, draw: Any, call: Any, evidence: Any = (), seeds: Any = ()) -> Any:
        self.judgement_count += 1
        return self.judge(attack)


@dataclass
class FakeCheck:
    """A check whose conclusion is `conclude(attack)`. Records the attacks that it examined."""

    conclude: Any
    name: str = "units"
    title: str = "unit check"
    stage: str = "verifies"
    examined: list[Attack] = field(default_factory=list)

    async def examine(self, attack: Attack, draw: Any, call: Any) -> Finding:
        self.examined.append(attack)
        return Finding(self.name, self.conclude(attack))


def is_right(attack: Attack) -> bool:
    """Whether an attack has the question and the answer of one of the seeds."""
    return any(attack.answer == seed.answer and attack.question == seed.question for seed in SEEDS)


def make_verdict(positive: bool) -> Verdict:
    return Verdict(positive, 0.95, "so")


@pytest.fixture
def hold(tmp_path: Path) -> Any:
    """A function that holds a trial of four right and four wrong solutions with a judge that returns `judge(attack)`,
    and with `check` if it is not None. It holds the trial a second time, which must not judge any solution again.
    Returns the result of the trial.
    """
    ledger_numbers = itertools.count()

    def hold_twice(
        judge: Any, check: FakeCheck | None = None, concurrency: int = 1, check_settings: Any = None
    ) -> TrialResult:
        fake_judge = FakeJudge(judge)
        path = tmp_path / f"{next(ledger_numbers)}.db"
        settings = {"seed": 5, "concurrency": concurrency, "judge": {"trial": 4, "trial_kinds": ["slip", "answer"]}}
        if check:  # the settings must enable some check, so that the result has rates with and without checks
            settings["judge"] |= check_settings or {"checks": ["code"]}
        config = configs.resolve("starter", "scripted", settings, Home(tmp_path))
        tools = {"sandbox": Identity("python", "sandbox"), "search": Identity("search", "corpus")}
        rules = build_rules(config, {**IDENTITIES, **tools}, Home(tmp_path))
        roles = TurnRoles(
            rules.find_roles(0).attacker,
            rules.find_roles(0).defender,
            CheckingJudge(fake_judge, (check,)) if check else fake_judge,
        )
        rules = replace(rules, seeds=Items(SEEDS), role_groups=[roles])
        with Ledger(path) as ledger:
            ledger.create_run("run", "", config.model_dump(mode="json"), {})
            calls = CachedCalls(ledger, "run", {})
            for _ in range(2):
                asyncio.run(hold_trial(ledger, "run", rules, load_domain("starter"), calls, lambda: False))
        assert fake_judge.judgement_count == 8, "the second trial judged solutions again"
        with LedgerView(path) as view:
            result = summarize_trial(view, "run")
        assert result is not None
        return result

    return hold_twice


def read_shares(rates: Rates | None) -> tuple[Any, Any]:
    """The sensitivity and the specificity, each from 0 to 1."""
    assert rates is not None
    return rates.sensitivity.share, rates.specificity.share


def test_trial_rates_a_perfect_and_an_inverted_judge(hold: Any) -> None:
    perfect = hold(lambda attack: make_verdict(is_right(attack)))
    assert read_shares(perfect.judge) == (1, 1) and perfect.judge.errors == 0
    low, high = perfect.judge.sensitivity.ci95
    assert (round(low, 4), high) == (0.5101, 1.0), "the interval is not Wilson's for 4 of 4"
    inverted = hold(lambda attack: make_verdict(not is_right(attack)), concurrency=8)
    assert read_shares(inverted.judge) == (0, 0) and inverted.judge.errors == 8
    assert perfect.kinds == inverted.kinds == {"reference": 4, "slip": 2, "answer": 2}


def test_trial_rates_the_judge_with_and_without_checks(hold: Any) -> None:
    check = FakeCheck(lambda attack: "supports" if is_right(attack) else "contradicts")
    result = hold(lambda attack: make_verdict(True), check)
    assert read_shares(result.without_check) == (0, 1) and result.without_check.errors == 4
    assert read_shares(result.with_check) == (1, 1) and result.with_check.errors == 0
    assert list(result.checks) == ["units"] and result.checks["units"].concluded == 8
    assert read_shares(result.checks["units"]) == (1, 1)
    assert hold(lambda attack: make_verdict(True)).with_check is None


@pytest.mark.parametrize("check_settings", [{"code_check": True}, {"fact_check": True}, {"checks": ["restated"]}])
def test_trial_rates_the_judge_with_checks_whichever_setting_enables_them(hold: Any, check_settings: Any) -> None:
    check = FakeCheck(lambda attack: "supports" if is_right(attack) else "contradicts")
    result = hold(lambda attack: make_verdict(True), check, check_settings=check_settings)
    assert read_shares(result.without_check) == (0, 1) and read_shares(result.with_check) == (1, 1)


def test_checks_examine_solutions_that_the_judge_rejects(hold: Any) -> None:
    check = FakeCheck(lambda attack: "supports" if is_right(attack) else "not checked")
    result = hold(lambda attack: make_verdict(False), check)
    assert len(check.examined) == 8
    assert read_shares(result.without_check) == read_shares(result.with_check) == (1, 0)
    check_rates = result.checks["units"]
    assert check_rates.concluded == 4
    assert check_rates.findings == {
        "reference": {"supports": 4, "contradicts": 0, "not_checked": 0},
        "slip": {"supports": 0, "contradicts": 0, "not_checked": 2},
        "answer": {"supports": 0, "contradicts": 0, "not_checked": 2},
    }
    assert read_shares(check_rates.unless_contradicted) == (0, 1)
    assert read_shares(check_rates.if_supported) == (1, 1)


def test_unjudged_solutions_count_in_no_rate_of_the_judge(hold: Any) -> None:
    check = FakeCheck(lambda attack: "contradicts")
    result = hold(lambda attack: make_verdict(True) if is_right(attack) else Doubt((0.5,)), check)
    assert (result.solutions, result.unjudged) == (8, 4)
    assert result.judge.sensitivity == Share(0, None, None)
    assert result.checks["units"].concluded == 8, "the check did not examine the unjudged solutions"
    assert hold(lambda _: Unparsed("no")).unjudged == 8


def test_rates_are_reported_by_kind_of_solution() -> None:
    def make_record(kind: str, positive: bool) -> dict[str, Any]:
        """The stored record of a solution that the judge accepted (`positive`) or rejected."""
        return {"kind": kind, "fault": "", "verdict": asdict(make_verdict(positive)), "word": positive, "unjudged": ""}

    right_solutions = [("reference", True), ("own", True), ("own", False)]
    wrong_solutions = [("mistake", True), ("mistake", False), ("slip", False)]
    judged_solutions = [read_record(make_record(*values)) for values in (*right_solutions, *wrong_solutions)]
    rates = measure_rates(judged_solutions, lambda solution: solution.accepted)
    passed = {kind: (share.n, share.share) for kind, share in rates.passed.items()}
    caught = {kind: (share.n, share.share) for kind, share in rates.caught.items()}
    assert passed == {"reference": (1, 1), "own": (2, 0.5)}
    assert caught == {"slip": (1, 1), "answer": (0, None), "mistake": (2, 0.5)}
    assert rates.errors == 2
    texts = dict(rates.describe_kinds())
    assert texts["rejected"].startswith("1 of 1 changed results (21% to 100%); 1 of 2 real mistakes")


def test_decision_of_an_older_record_is_derived_from_its_verdict() -> None:
    """The judge accepted the solution, and the code check overturned the decision."""
    overturned = Verdict(False, 0.95, "so", findings=(Finding("code", "contradicts"),))
    record = {"seed": "s", "fault": "slip", "attack": {}, "verdict": json.loads(json.dumps(asdict(overturned)))}
    solution = read_record(record)
    assert (solution.kind, solution.decision, solution.accepted) == ("slip", True, False)
    assert read_record({**record, "fault": "", "verdict": None}).decision is None


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A home, and the id of a finished run in it, with the code check and a trial of all kinds of solutions."""
    home = Home(tmp_path_factory.mktemp("finished")).prepare()
    judge = {"trial": 10, "code_check": True}
    config = configs.resolve("starter", "scripted", {"max_turns": 12, "seed": 7, "judge": judge}, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.execute(home, run))
    return home, run


def test_trial_result_is_stored_and_shown_by_run_show_and_in_the_report(
    finished_run: tuple[Home, str], capsys: pytest.CaptureFixture[str]
) -> None:
    home, run = finished_run
    with LedgerView(home.ledger) as view:
        result, summary = summarize_trial(view, run), view.summarize_run(run).to_json()
        roles = {row["role"] for row in view.rows("SELECT role FROM calls WHERE run = ?", run)}
        assert list(verify_run(view, run)) == []
    assert result is not None and result.predicted is not None
    assert result.kinds["reference"] >= 5 and {"slip", "answer", "removed", "changed"} <= set(result.kinds)
    assert summary["calls"]["wasted"] == 0 and "trial" in roles
    capsys.readouterr()
    show_run(home, run, as_json=False)
    output = capsys.readouterr().out
    for text in ("judge's trial", "code check alone", "questions without a needed quantity"):
        assert text in output
    headings, rows = result.tabulate_kinds()
    assert headings[2:4] == ["judge alone", "with the checks"] and all(len(row) == len(headings) for row in rows)
    assert sum(int(row[1]) for row in rows) == result.solutions
    page = write_report(home.ledger, run, home.root / "report").read_text()
    assert "The judge on known solutions" in page and "questions with a changed quantity" in page


def test_prediction_uses_the_acceptance_rate_of_the_run(finished_run: tuple[Home, str]) -> None:
    home, run = finished_run
    with LedgerView(home.ledger) as view:
        result, funnel = summarize_trial(view, run), view.funnel(run)
    assert result is not None and result.predicted is not None
    predicted = result.predicted
    assert predicted.judged == predicted.accepted + funnel["invalid"] > 0
    for share in (predicted.among_accepted, predicted.among_kept):
        assert share is not None and 0 <= share.ci95[0] <= share.estimate <= share.ci95[1] <= 1
    assert predicted.among_kept.estimate <= predicted.among_accepted.estimate


def test_prediction_leaves_out_what_only_unmeasured_checks_rejected(tmp_path: Path) -> None:
    """The built-in attacker changes only the numbers of a single seed, so the restatement check rejects every question.
    The trial's questions have no seeds.
    """
    home = Home(tmp_path).prepare()
    settings = {
        "max_turns": 2, "seed": 7, "seeds": {"min": 1, "max": 1}, "roles": {"attacker": {"endpoint": "program"}},
        "judge": {"trial": 4, "checks": ["restated"]},
    }  # fmt: skip
    run = asyncio.run(runs.start(home, configs.resolve("starter", "scripted", settings, home)))
    asyncio.run(runs.execute(home, run))
    with LedgerView(home.ledger) as view:
        result, invalid_count = summarize_trial(view, run), view.funnel(run)["invalid"]
        assert view.count_rejections(run, {"restated"}) == invalid_count > 0
        assert view.count_rejections(run, {"blind"}) == 0
    assert result is not None and result.predicted is not None and result.predicted.judged == 0


@pytest.mark.parametrize(
    ("decision", "conclusion", "passes", "passes_if_it_must_be_supported"),
    [
        (True, "supports", True, True),
        (True, "not checked", True, False),
        (True, "contradicts", False, False),
        (False, "supports", False, False),
        (None, "supports", None, None),
    ],
)
def test_solution_that_must_be_supported_passes_only_with_support(
    decision: bool | None, conclusion: Any, passes: bool | None, passes_if_it_must_be_supported: bool | None
) -> None:
    solution = JudgedSolution("reference", decision, (Finding("blind", conclusion),))
    assert solution.passes(must_support=False) is passes
    assert solution.passes(must_support=True) is passes_if_it_must_be_supported


def test_verification_reports_a_changed_record_of_the_trial(finished_run: tuple[Home, str]) -> None:
    home, run = finished_run
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE trials SET record = replace(record, 'confidence', 'Confidence') WHERE number = 0")
    with LedgerView(home.ledger) as view:
        problems = list(verify_run(view, run))
    assert problems == ["solution 0 of the judge's trial: the record does not match its hash"]
