"""Loads the training rows of a run: chosen examples, each with one of the example's right solutions.

A rule chooses the solution, and the choice is recorded. The command `train` trains on these rows, and `export` writes
them.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.train.choice import Choice, KeptAttempt, choose_rows, load_attempts
from nanoflux_local.train.conversation import build_training_example
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.solutions import SolutionRule, collect_right_solutions, list_candidates
from nanoflux_local.transcript import Attempt

OnScore = Callable[[int, int], None]
"""A function that is called with the number of examples whose solutions have been scored, and the number of all
examples.
"""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A chosen example. `columns` are the columns of the table `examples` with the chosen solution and answer; if the
    rule is not "author", they include the solution's "origin". `attempt` is None if attempts were not loaded.
    """

    columns: dict[str, Any]
    example: TrainingExample
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class RunRows:
    """The rows of a run, with the run's row in the ledger, its domain, its token budgets, and the record of how the
    rows were chosen.
    """

    run: dict[str, Any]
    domain: Domain
    budgets: dict[str, int]
    rows: tuple[RunRow, ...]
    record: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the run."""
        config: dict[str, Any] = json.loads(self.run["config"])
        return config

    @property
    def examples(self) -> list[TrainingExample]:
        return [row.example for row in self.rows]


def load_run_rows(
    home: Home,
    run: str,
    choice: Choice,
    base: str = "",
    with_attempts: bool = False,
    on_score: OnScore = lambda _done, _total: None,
) -> RunRows:
    """The chosen examples of a run as rows. If the rule is "likeliest", each row has the example's likeliest solution
    under the model `base`. Attempts are loaded if the choice or the domain needs them, or `with_attempts` is true.

    Raises:
        NothingMatchedError: the run is unknown, it kept no examples, or none matches the choice.
        UsageError: the rule is "likeliest", and there is no `base`.
    """
    with LedgerView(home.ledger) as view:
        run_row = dict(view.find_run(run))
        if not view.row("SELECT 1 FROM examples WHERE run = ?", run_row["id"]):
            raise NothingMatchedError(f"run {run} kept no examples", f"see why with `nanoflux run show {run}`")
        example_rows, record = choose_rows(view, run_row["id"], choice)
        domain = load_domain(run_row["domain"], home.root)
        loads_attempts = with_attempts or choice.solution != "author" or domain.cites
        attempts_by_turn = load_attempts(view, run_row["id"]) if loads_attempts else {}
    budgets = json.loads(run_row["config"])["budgets"]

    def build_row(columns: dict[str, Any]) -> RunRow:
        turn = columns["turn"]
        example = build_training_example(
            domain, budgets, columns["question"], columns["solution"], columns["answer"], f"turn-{turn}"
        )
        attempt = attempts_by_turn[turn].attempt if attempts_by_turn else None
        return RunRow(columns, example, attempt)

    def build_variants(columns: dict[str, Any]) -> list[RunRow]:
        variants = _list_variants(columns, attempts_by_turn[columns["turn"]], choice.solution)
        return [build_row(variant) for variant in variants]

    if choice.solution == "author":
        rows = [build_row(columns) for columns in example_rows]
    else:
        variant_groups = [build_variants(columns) for columns in example_rows]
        likelihoods = _score_variants(home, base, variant_groups, on_score) if choice.solution == "likeliest" else []
        rows = _choose_variants(variant_groups, choice.solution, likelihoods)
        count_by_origin = Counter(row.columns["origin"] for row in rows)
        record["solution"]["origins"] = dict(sorted(count_by_origin.items()))
        if likelihoods:
            record["solution"]["model"] = base
    return RunRows(run_row, domain, budgets, tuple(rows), record)


def _list_variants(columns: dict[str, Any], kept: KeptAttempt, rule: SolutionRule) -> Iterator[dict[str, Any]]:
    """The variants of an example: its columns with each solution that the rule may choose."""
    solutions = collect_right_solutions(kept.attempt, kept.attacker, kept.defender)
    for solution in list_candidates(solutions, rule):
        yield {**columns, "solution": solution.text, "answer": solution.answer, "origin": solution.origin}


def _choose_variants(
    variant_groups: Sequence[Sequence[RunRow]], rule: SolutionRule, likelihoods: Sequence[Sequence[float]]
) -> list[RunRow]:
    """One variant of each example: the shortest or the likeliest (the first if several are equal), or, if the rule is
    neither "shortest" nor "likeliest", the first.
    """
    if rule == "shortest":
        return [min(group, key=lambda row: len(row.columns["solution"])) for group in variant_groups]
    if rule == "likeliest":
        best_indices = [scores.index(max(scores)) for scores in likelihoods]
        return [group[index] for group, index in zip(variant_groups, best_indices, strict=True)]
    return [group[0] for group in variant_groups]


def _score_variants(
    home: Home, base: str, variant_groups: Sequence[Sequence[RunRow]], on_score: OnScore
) -> list[list[float]]:
    """The mean log-probability of every variant of each example. A single variant is not scored: its value is 0."""
    if not base:
        raise UsageError("--solution likeliest compares solutions under a model", "pass the model with --base")
    from nanoflux_local.train.likelihood import Likelihoods

    scores: list[list[float]] = []
    with Ledger(home.ledger) as ledger:
        likelihoods = Likelihoods(home, ledger, base)
        for group in variant_groups:
            scores.append(likelihoods.score([row.example for row in group]) if len(group) > 1 else [0.0])
            on_score(len(scores), len(variant_groups))
    return scores
