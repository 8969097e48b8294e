"""The judge's trial: what is known of its solutions, what its rates are, and that a run holds it once and for all."""

import asyncio
import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanoflux_local.answers import numbers_agree, read_number
from nanoflux_local.cli.run import show_run
from nanoflux_local.ledger.calls import RememberedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.report.run_report import write_report
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.run import configs, runs
from nanoflux_local.run.trial import Rates, Share, build_known_solutions, hold_trial, plant_fault, summarize_trial
from nanoflux_local.seeds.source import Items
from nanoflux_local.transcript import Attack, Doubt, Finding, Seed, Verdict

SUM = Seed("sum", "d", "How much are 1,000 and 234?", "1234", "1000 + 234 = 1,234 in all. The answer is 1,234.")
CHOICE = Seed("choice", "d", "Which?", "B", options={"A": "an ant", "B": "a bee", "C": "a cat"})
SEEDS = [*(replace(SUM, id=f"sum-{number}", answer=str(1234 + number)) for number in range(9)), replace(SUM, answer="")]


def right(seed: Seed) -> Attack:
    return Attack(seed.question, seed.solution, seed.answer)


@pytest.mark.parametrize("answer", ["1234", "-3", "0", "1", "0.5", "12.25", "1000000000000", "123456789012.75"])
def test_plant_fault_exceeds_the_numeric_tolerance(answer: str) -> None:
    for draw in range(50):
        wrong = plant_fault(
            replace(right(SUM), answer=answer), replace(SUM, answer=answer), "answer", random.Random(draw)
        )
        found, truth = read_number(wrong.answer), read_number(answer)
        assert found is not None and truth is not None and not numbers_agree(found, truth)
        assert wrong.solution == SUM.solution


def test_slip_replaces_the_stated_result() -> None:
    wrong = plant_fault(right(SUM), SUM, "slip", random.Random(1))
    assert wrong.solution == f"1000 + 234 = 1,234 in all. The answer is {wrong.answer}."
    elsewhere = replace(right(SUM), solution="Add them: 12345 is not it.")
    wrong = plant_fault(elsewhere, SUM, "slip", random.Random(1))
    assert wrong.solution == f"Add them: 12345 is not it.\nSo the answer is {wrong.answer}."


@pytest.mark.parametrize("fault", ["slip", "answer"])
def test_plant_fault_chooses_another_option(fault: Any) -> None:
    wrong = plant_fault(right(CHOICE), CHOICE, fault, random.Random(2))
    assert wrong.answer in "AC" and wrong.answer != CHOICE.answer
    assert wrong.solution.endswith(f"The answer is {wrong.answer}. {CHOICE.options[wrong.answer]}")


class Judge:
    """Accepts what `accepts` says; it is asked in the order of the numbers, as long as one at a time is."""

    name = "judge"

    def __init__(self, accepts: Any) -> None:
        self.accepts = accepts
        self.seen: list[Attack] = []

    async def validate(self, attack: Attack, draw: Any, call: Any) -> Any:
        self.seen.append(attack)
        return self.accepts(attack)


def is_right(attack: Attack) -> bool:
    return any(attack.answer == seed.answer and seed.id in attack.question for seed in SEEDS if seed.answer)


def rules(accepts: Any, pairs: int = 4, concurrency: int = 1) -> Any:
    config = SimpleNamespace(seed=5, concurrency=concurrency, judge=SimpleNamespace(trial=pairs))
    asked = [replace(seed, question=f"{seed.id}: {seed.question}") for seed in SEEDS]
    judge = Judge(accepts)
    return SimpleNamespace(config=config, seeds=Items(asked), cast=lambda _: SimpleNamespace(judge=judge), judge=judge)


def test_known_solutions_come_in_pairs_and_are_deterministic() -> None:
    known = build_known_solutions(rules(None))
    assert [each.fault for each in known] == ["", "slip", "", "answer", "", "slip", "", "answer"]
    assert known == build_known_solutions(rules(None))
    assert all(is_right(each.attack) is (not each.fault) for each in known)


def test_trial_shrinks_to_the_seeds_with_answers() -> None:
    known = build_known_solutions(rules(None, pairs=50))
    assert len(known) == 18 and len({each.seed for each in known}) == 9


@pytest.fixture
def held(tmp_path: Path) -> Any:
    """Hold a trial of a judge in a ledger of its own, and tell its result."""
    count = iter(range(100))

    def hold(accepts: Any, code_check: bool = False, **options: Any) -> Any:
        playing, path = rules(accepts, **options), tmp_path / f"{next(count)}.db"
        config = {"domain": "d", "target": 1, "max_turns": 1}
        more = {"judge": {"code_check": code_check}, "roles": {"judge": {"endpoint": "m"}}}
        with Ledger(path) as ledger:
            ledger.create_run("run", "", {**config, **more}, {})
            calls = RememberedCalls(ledger, "run", {})
            for _ in range(2):
                asyncio.run(hold_trial(ledger, "run", playing, calls, lambda: False))
        assert len(playing.judge.seen) == len(build_known_solutions(playing)), "what was judged is not judged again"
        with LedgerView(path) as view:
            return summarize_trial(view, "run")

    return hold


def word(positive: bool, code: Any = "not checked") -> Verdict:
    return Verdict(positive, 0.95, "so", findings=(Finding("code", code),))


def shares(rates: Rates | None) -> tuple[Any, Any]:
    assert rates is not None
    return rates.sensitivity.share, rates.specificity.share


def test_trial_rates_a_perfect_and_an_inverted_judge(held: Any) -> None:
    good = held(lambda attack: word(is_right(attack)))
    assert shares(good.judge) == (1, 1) and good.judge.errors == 0
    low, high = good.judge.sensitivity.ci95
    assert (round(low, 4), high) == (0.5101, 1.0)  # Wilson's interval of 4 of 4
    swapped = held(lambda attack: word(not is_right(attack)), concurrency=8)
    assert shares(swapped.judge) == (0, 0) and swapped.judge.errors == 8


def test_trial_rates_the_judge_with_and_without_checks(held: Any) -> None:
    def credulous(attack: Attack) -> Verdict:
        return word(True, "supports") if is_right(attack) else word(False, "contradicts")

    found = held(credulous, code_check=True)
    assert shares(found.without_check) == (0, 1) and found.without_check.errors == 4
    assert shares(found.with_check) == (1, 1) and found.with_check.errors == 0
    assert found.checked == 8
    assert list(found.checks) == ["code"] and found.checks["code"].concluded == 8
    assert shares(found.checks["code"]) == (1, 1)
    assert held(credulous).with_check is None


def test_unjudged_solutions_count_in_no_rate(held: Any) -> None:
    found = held(lambda attack: word(True) if is_right(attack) else Doubt((0.5,)))
    assert (found.solutions, found.unjudged) == (8, 4)
    assert found.judge.sensitivity == Share(0, None, None)
    assert held(lambda _: Unparsed("no")).unjudged == 8


def test_run_holds_its_trial_once_and_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home").prepare()
    config = configs.resolve("starter-genetics", "scripted", {"max_turns": 2, "judge": {"trial": 5}}, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.carry_on(home, run))
    with LedgerView(home.ledger) as view:
        found, summary = summarize_trial(view, run), view.summarize_run(run).to_json()
        assert list(verify_run(view, run)) == []
    assert found is not None and found.solutions == 10
    assert summary["calls"]["wasted"] == 0
    show_run(home, run, as_json=False)
    assert "judge's trial" in capsys.readouterr().out
    page = write_report(home.ledger, run, tmp_path / "report").read_text()
    assert "The judge on known solutions" in page
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE trials SET record = replace(record, '0.97', '0.98') WHERE number = 0")
    with LedgerView(home.ledger) as view:
        problems = list(verify_run(view, run))
    assert problems == ["solution 0 of the judge's trial: the record does not match its hash"]
