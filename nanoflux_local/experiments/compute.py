"""Measures the compute of a condition: the FLOPs of its training and, separately, of the generation of its examples.

The package `train` counts the FLOPs of training, both as 6·N·D and as measured. Generation takes 2·N FLOPs for every
prompt or completion token of a local model (Kaplan et al. 2020, §2.1): a forward pass without attention, which 6·N·D
leaves out as well. For hosted models and models of unknown size, only tokens and dollars are reported.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.train.flops import count_parameters
from nanoflux_models.errors import ModelsError
from nanoflux_models.weights import weights_dir


@dataclass(frozen=True, slots=True)
class GenerationCost:
    """The cost of a run's calls to chat models. `unknown` lists the models of unknown size, whose FLOPs are not
    counted. `seconds` is the duration of the run.
    """

    run: str
    tokens: int
    flops: float
    usd: float
    unknown: list[str]
    seconds: float


def measure_generation_cost(home: Home, view: LedgerView, run: str) -> GenerationCost:
    """The cost of a run's generation, from its calls in the ledger."""
    tokens, flops, usd = 0, 0.0, 0.0
    unknown_models: list[str] = []
    rows = view.rows(
        "SELECT model, sum(prompt_tokens + completion_tokens) AS tokens, sum(usd) AS usd FROM calls"
        " WHERE run = ? AND kind = 'chat' GROUP BY model ORDER BY model",
        run,
    )
    for row in rows:
        parameter_count = _count_parameters(home, row["model"])
        tokens += row["tokens"]
        usd += row["usd"]
        flops += 2.0 * parameter_count * row["tokens"]
        if not parameter_count:
            unknown_models.append(row["model"])
    return GenerationCost(run, tokens, flops, usd, unknown_models, view.find_run(run)["seconds"])


def _count_parameters(home: Home, model: str) -> int:
    """The number of the model's weights; 0 if the model is not installed."""
    with suppress(ModelsError, OSError):
        return count_parameters(weights_dir(model, home.root))
    return 0


def compare_compute(full: Mapping[str, Any] | None, subset: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The compute of the condition `full` as a multiple of that of the condition `subset`, once for training alone and
    once including generation. None if one of them was not trained. "with_generation" is missing if a model's size is
    unknown.
    """
    if not full or not subset or not full.get("flops") or not subset.get("flops"):
        return None
    ratios = {f"training_{method}": full["flops"][method] / subset["flops"][method] for method in ("6nd", "measured")}
    generation = subset.get("generation")
    if generation and not generation["unknown"]:
        ratios["with_generation"] = full["flops"]["6nd"] / (subset["flops"]["6nd"] + generation["flops"])
    return ratios
