"""The outcome of an evaluation as typed values, and its JSON form: that of `eval --json` and of the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nanoflux_local.errors import EndpointError
from nanoflux_local.evaluate.scoring import Mark
from nanoflux_local.evaluate.shortfall import ShortfallCause, describe_causes
from nanoflux_local.evaluate.statistics import accuracy_interval

NOT_RECORDED = "cause not recorded"
"""The cause of missing replies in results of older versions, which stored only their number."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy over `n` items that have a mark: the mean of the items' shares of right replies, its bootstrap
    interval, and the standard deviation over runs. `unscored` counts replies without a mark.
    """

    n: int
    mean: float
    sd: float
    ci95: tuple[float, float]
    unscored: int
    by_run: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Correction:
    """A soft accuracy corrected for the judge's errors, which were counted in the trial of `run`."""

    estimate: float
    ci95: tuple[float, float]
    run: str


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """An evaluation's outcome. Missing replies do not affect the accuracies; `causes` says why they are missing.

    `items` counts all items, and `n` those with a mark. `strict` is None if no answer can be graded without a judge,
    `soft` is None without a judge.
    """

    id: str
    model: str
    adapter: str
    data: str
    split: str
    items: int
    runs: int
    strict: Accuracy | None
    soft: Accuracy | None
    judge: str
    unanswered: int
    cut_in_reasoning: int
    reasoning_tokens: int
    unscored: int
    causes: tuple[ShortfallCause, ...]
    corrected: Correction | None = None

    @property
    def n(self) -> int:
        """The number of items with a mark."""
        return max(accuracy.n for accuracy in (self.strict, self.soft) if accuracy)

    @property
    def is_whole(self) -> bool:
        """Whether no reply is missing. Free text, which only a judge can grade, is unscored without being missing."""
        return not self.causes

    def require_whole(self, allow_refused: bool = False) -> None:
        """Fail if replies are missing. With `allow_refused`, do not fail if the endpoint refused all of the missing
        ones.

        Raises:
            EndpointError: replies are missing; the message states the causes.
        """
        if self.is_whole or (allow_refused and all(cause.refused for cause in self.causes)):
            return
        raise EndpointError(
            f"evaluation {self.id} is partial: {describe_missing(self.causes)}",
            "fix the cause, then run the same command again: it requests only the missing replies",
        )

    def to_json(self) -> dict[str, Any]:
        """What `eval --json` prints and the ledger stores."""
        return {
            "eval": self.id,
            "model": self.model,
            "adapter": self.adapter or None,
            "data": self.data,
            "split": self.split,
            "n": self.n,
            "items": self.items,
            "strict": _build_strict_json(self.strict),
            "soft": self._build_soft_json(),
            "unanswered": self.unanswered,
            "cut_in_reasoning": self.cut_in_reasoning,
            "reasoning_tokens": self.reasoning_tokens,
            "unscored": self.unscored,
            "unscored_reasons": [asdict(cause) for cause in self.causes],
            "runs": self.runs,
            "by_run": list(self.strict.by_run) if self.strict else [],
        }

    def _build_soft_json(self) -> dict[str, Any] | None:
        if self.soft is None:
            return None
        accuracy = {**asdict(self.soft), "ci95": list(self.soft.ci95), "by_run": list(self.soft.by_run)}
        values: dict[str, Any] = {**accuracy, "judge": self.judge}
        if self.corrected:
            values["corrected"] = {**asdict(self.corrected), "ci95": list(self.corrected.ci95)}
        return values


def _build_strict_json(accuracy: Accuracy | None) -> dict[str, Any] | None:
    return {"mean": accuracy.mean, "sd": accuracy.sd, "ci95": list(accuracy.ci95)} if accuracy else None


def measure_accuracy(marks: Sequence[Sequence[Mark]]) -> Accuracy | None:
    """The accuracy of marks of shape (items, runs); None if no reply has a mark."""
    rates = [
        float(np.mean([mark == "right" for mark in item_marks if mark != "unscored"]))
        for item_marks in marks
        if set(item_marks) != {"unscored"}
    ]
    if not rates:
        return None
    scored_by_run = [[mark for mark in run_marks if mark != "unscored"] for run_marks in zip(*marks, strict=True)]
    by_run = tuple(float(np.mean([mark == "right" for mark in scored])) for scored in scored_by_run if scored)
    return Accuracy(
        n=len(rates),
        mean=float(np.mean(rates)),
        sd=float(np.std(by_run, ddof=1)) if len(by_run) > 1 else 0.0,
        ci95=accuracy_interval(rates),
        unscored=sum(mark == "unscored" for item_marks in marks for mark in item_marks),
        by_run=by_run,
    )


def read_missing_causes(result: Mapping[str, Any]) -> tuple[ShortfallCause, ...]:
    """Why replies are missing in a result that the ledger stores; () if none is missing."""
    if "unscored_reasons" in result:
        return tuple(ShortfallCause(**entry) for entry in result["unscored_reasons"])
    if result["strict"] and result.get("unscored"):
        return (ShortfallCause(NOT_RECORDED, result["unscored"]),)
    return ()


def describe_missing(causes: Sequence[ShortfallCause]) -> str:
    """How many replies are missing, and why."""
    count = sum(cause.count for cause in causes)
    return f"{count} {'reply is' if count == 1 else 'replies are'} missing: {describe_causes(causes)}"
