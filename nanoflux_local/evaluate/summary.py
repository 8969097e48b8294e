"""The outcome of an evaluation, and the JSON that `eval --json` prints and the ledger stores."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nanoflux_local.errors import EndpointError
from nanoflux_local.evaluate.scoring import Mark
from nanoflux_local.evaluate.shortfall import ShortfallCause, describe_causes
from nanoflux_local.evaluate.statistics import accuracy_interval

NOT_RECORDED = "cause not recorded"
"""The cause of missing replies in the results of older versions, which stored only the number of missing replies."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy over the `n` items with a scored reply: the mean of the items' shares of right replies, its
    bootstrap interval, and its standard deviation over runs. `by_run` has the accuracy of each run, and `unscored`
    counts the replies that could not be scored.
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
    """The outcome of an evaluation. Missing replies do not affect the accuracies; `causes` says why replies are
    missing.

    `items` counts all items, and `n` the items with a scored reply. `strict` is None if no answer can be graded without
    a judge; `soft` is None if there is no judge. `unanswered` and `unscored` count the replies with these strict marks,
    and `cut_in_reasoning` those that were truncated inside their reasoning. `corrected` is the soft accuracy corrected
    for the judge's errors, None if these are unknown.
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
        """The number of items with a scored reply."""
        return max(accuracy.n for accuracy in (self.strict, self.soft) if accuracy)

    @property
    def is_whole(self) -> bool:
        """Whether no reply is missing. Free text, which only a judge can grade, is unscored without being missing."""
        return not self.causes

    def require_all_replies(self, allow_refused: bool = False) -> None:
        """Raise an error if replies are missing. With `allow_refused`, replies may be missing if the endpoint refused
        the prompts of all of them.

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
        """The JSON object that `eval --json` prints and the ledger stores."""
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
        """The soft accuracy with its judge and its correction; None if there is no judge."""
        if self.soft is None:
            return None
        accuracy = {**asdict(self.soft), "ci95": list(self.soft.ci95), "by_run": list(self.soft.by_run)}
        entry: dict[str, Any] = {**accuracy, "judge": self.judge}
        if self.corrected:
            entry["corrected"] = {**asdict(self.corrected), "ci95": list(self.corrected.ci95)}
        return entry


def _build_strict_json(accuracy: Accuracy | None) -> dict[str, Any] | None:
    """The strict accuracy as JSON; None if no answer can be graded without a judge."""
    return {"mean": accuracy.mean, "sd": accuracy.sd, "ci95": list(accuracy.ci95)} if accuracy else None


def measure_accuracy(marks: Sequence[Sequence[Mark]]) -> Accuracy | None:
    """The accuracy of marks of shape (items, runs); None if no reply is scored."""
    item_shares = _compute_right_shares(marks)
    if not item_shares:
        return None
    by_run = tuple(_compute_right_shares(list(zip(*marks, strict=True))))
    return Accuracy(
        n=len(item_shares),
        mean=float(np.mean(item_shares)),
        sd=float(np.std(by_run, ddof=1)) if len(by_run) > 1 else 0.0,
        ci95=accuracy_interval(item_shares),
        unscored=sum(mark == "unscored" for item_marks in marks for mark in item_marks),
        by_run=by_run,
    )


def _compute_right_shares(mark_groups: Sequence[Sequence[Mark]]) -> list[float]:
    """The share of right marks among the scored marks of each group. Groups without a scored mark are left out."""
    scored_groups = [[mark for mark in marks if mark != "unscored"] for marks in mark_groups]
    return [float(np.mean([mark == "right" for mark in marks])) for marks in scored_groups if marks]


def read_missing_causes(result: Mapping[str, Any]) -> tuple[ShortfallCause, ...]:
    """Why replies are missing, from a result that the ledger stores; () if no reply is missing."""
    if "unscored_reasons" in result:
        return tuple(ShortfallCause(**entry) for entry in result["unscored_reasons"])
    if result["strict"] and result.get("unscored"):
        return (ShortfallCause(NOT_RECORDED, result["unscored"]),)
    return ()


def describe_missing(causes: Sequence[ShortfallCause]) -> str:
    """How many replies are missing, and why, in one line of text."""
    count = sum(cause.count for cause in causes)
    return f"{count} {'reply is' if count == 1 else 'replies are'} missing: {describe_causes(causes)}"
