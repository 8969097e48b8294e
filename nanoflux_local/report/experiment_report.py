"""Writes the report of an experiment as HTML, Markdown and CSV: the answer, the table, the paper's results, plots,
flipped items, the cost, and the commands that repeat the experiment.

The paper's results are labelled as the paper's and kept separate from those measured here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from nanoflux_local import __version__
from nanoflux_local.experiments.grid import GridPlan
from nanoflux_local.experiments.kinds.base import find_kind
from nanoflux_local.experiments.paper import BENCHMARKS
from nanoflux_local.experiments.results import load_results
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.report import plots
from nanoflux_local.report.flips import FlipSection, gather_flips
from nanoflux_local.report.page import render_page, write_atomically
from nanoflux_local.report.run_report import list_outcomes
from nanoflux_local.report.tables import as_csv, as_markdown

TableRows = list[list[object]]
UNFINISHED = "Too few cells are done to answer the question yet."
HEADINGS = (
    "condition", "on", "seeds", "rows", "items", "accuracy", "low", "high", "sd over seeds", "sd over folds",
    "training FLOPs 6ND", "training FLOPs measured", "generation FLOPs", "generation tokens", "generation USD",
)  # fmt: skip
PAIR_HEADINGS = (
    "b minus a", "on", "items", "difference", "low", "high", "McNemar p", "Holm p", "bootstrap p", "t over seeds p",
    "detectable",
)  # fmt: skip


def write_experiment_report(home: Home, experiment: str, out: Path) -> Path:
    """Write `index.html`, `report.md`, `conditions.csv` and `pairs.csv` into `out`. Returns the path of `index.html`.

    Raises:
        NothingMatchedError: the experiment is unknown.
        NanofluxError: the directory is not writable.
    """
    contents = gather_contents(home, experiment)
    write_atomically(out / "report.md", render_markdown(contents))
    write_atomically(out / "conditions.csv", as_csv(HEADINGS, list_condition_rows(contents)))
    write_atomically(out / "pairs.csv", as_csv(PAIR_HEADINGS, list_pair_rows(contents)))
    return write_atomically(out / "index.html", render_page("experiment.html", contents))


def gather_contents(home: Home, experiment: str) -> dict[str, Any]:
    """The values that the report shows."""
    results = load_results(home, experiment)
    contents, plan = results.to_json(), results.plan
    kind = find_kind(plan.grid.kind)
    with LedgerView(home.ledger) as view:
        contents["flips"] = _gather_flips(view, contents)
        contents["funnels"] = {run: list_outcomes(view.summarize_run(run).funnel) for run in contents["runs"].values()}
        contents["plots"] = _draw_plots(view, plan, contents)
    return {
        **contents,
        "version": __version__,
        "answer": kind.answer(contents) or [UNFINISHED],
        "table": None if kind.measures_accuracy else {"columns": kind.columns, "rows": kind.rows(contents)},
        "plan": plan.model_dump(mode="json"),
        "paper_rows": compare_with_paper(contents),
    }


def list_condition_rows(contents: dict[str, Any]) -> TableRows:
    """A row for each condition and benchmark, with unformatted numbers."""
    rows: TableRows = []
    for entry in contents["conditions"]:
        flops, generation = entry.get("flops", {}), entry.get("generation", {})
        cost = [
            flops.get("6nd"),
            flops.get("measured"),
            _compute_generation_flops(generation),
            generation.get("tokens"),
            generation.get("usd"),
        ]
        for data, accuracy in entry.get("test", {}).items():
            folds = accuracy["folds"]
            spread = [accuracy["sd"], folds["sd"] if folds else None]
            measured = [accuracy["n"], accuracy["mean"], *accuracy["ci95"], *spread]
            rows.append([entry["title"], data, len(entry["seeds"]), entry.get("rows"), *measured, *cost])
    return rows


def _compute_generation_flops(generation: dict[str, Any]) -> float | None:
    """The FLOPs of a condition's generation, None if a model's size is unknown."""
    return generation["flops"] if generation and not generation["unknown"] else None


def list_pair_rows(contents: dict[str, Any]) -> TableRows:
    """A row for each declared pair that can be tested."""
    titles = {entry["condition"]: entry["title"] for entry in contents["conditions"]}
    keys = ("mcnemar_p", "holm_p", "bootstrap_p", "paired_t_p", "minimum_detectable")
    return [
        [
            f"{titles[pair['b']]} minus {titles[pair['a']]}", pair["data"], pair["n"], pair["difference"],
            *pair["ci95"], *(pair[key] for key in keys),
        ]
        for pair in contents["pairs"]
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PaperRow:
    """The paper's results for a condition on a benchmark, and the accuracies measured here by benchmark."""

    benchmark: str
    title: str
    paper_results: Mapping[str, Any]
    measured: Mapping[str, float]


def compare_with_paper(contents: dict[str, Any]) -> list[PaperRow]:
    """The paper's results, each with the accuracy measured here for the same condition and benchmark, if any."""
    if not contents["paper"]:
        return []
    entries = {entry["condition"]: entry for entry in contents["conditions"]}
    rows = []
    for row in contents["paper"]["rows"]:
        same_benchmark = BENCHMARKS.get(contents["domain"]) == row["benchmark"]
        test_accuracies = entries.get(row["condition"], {}).get("test", {}) if same_benchmark else {}
        title = entries.get(row["condition"], {}).get("title", row["condition"])
        measured = {data: accuracy["mean"] for data, accuracy in test_accuracies.items()}
        rows.append(PaperRow(row["benchmark"], title, row, measured))
    return rows


def render_markdown(contents: dict[str, Any]) -> str:
    """The report in Markdown."""
    sections = [f"# {contents['title']}", contents["question"], "\n".join(f"- {line}" for line in contents["answer"])]
    sections += [f"Experiment `{contents['experiment']}`, {contents['status']}; NanoFlux Local {contents['version']}."]
    if rows := [[_shorten(value) for value in row] for row in list_condition_rows(contents)]:
        sections += ["## Conditions", as_markdown(HEADINGS, rows)]
    if rows := [[_shorten(value) for value in row] for row in list_pair_rows(contents)]:
        sections += ["## Paired tests", as_markdown(PAIR_HEADINGS, rows)]
    if contents["paper_rows"]:
        cells = [
            [
                row.benchmark,
                row.title,
                row.paper_results.get("accuracy"),
                _shorten(next(iter(row.measured.values()), None)),
            ]
            for row in contents["paper_rows"]
        ]
        sections += [
            f"## The paper's results ({contents['paper']['where']})",
            "Not measured here: the paper used other models and data.",
        ]
        sections += [as_markdown(("benchmark", "condition", "paper, %", "measured here"), cells)]
    if contents["left_out"]:
        sections += ["## Left out", "\n".join(f"- {cell}: {reason}" for cell, reason in contents["left_out"].items())]
    sections += [f"## Repeat it\n\n    nanoflux experiment run {contents['name']} --scale {contents['scale']}"]
    return "\n\n".join(sections) + "\n"


def _shorten(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def _gather_flips(view: LedgerView, contents: dict[str, Any]) -> FlipSection | None:
    """The items that flip in the first declared pair, in the first seed's evaluation of each side."""
    if not contents["pairs"]:
        return None
    pair = contents["pairs"][0]
    entries = {entry["condition"]: entry for entry in contents["conditions"]}
    before, after = (entries[pair[side]]["test"][pair["data"]]["evaluations"][0] for side in ("a", "b"))
    titles = {side: entries[pair[side]]["title"] for side in ("a", "b")}
    return replace(gather_flips(view, before, after), **titles)


def _draw_plots(view: LedgerView, plan: GridPlan, contents: dict[str, Any]) -> list[dict[str, str]]:
    """Bars of the accuracies on each benchmark, lines of accuracy by size or count, and the loss curves."""
    drawn_plots = []
    for data in contents["test"]:
        bars = [
            (entry["title"], entry["test"][data]["mean"], *entry["test"][data]["ci95"])
            for entry in contents["conditions"]
            if entry.get("test")
        ]
        if bars:
            drawn_plots.append({"title": f"Strict accuracy on {data}", "svg": plots.draw_accuracies(bars)})
        if series := _collect_series(plan, contents, data):
            drawn_plots.append(
                {
                    "title": f"Accuracy on {data} by {find_axis_label(plan)}",
                    "svg": plots.draw_lines(series, find_axis_label(plan)),
                }
            )
    if curves := _collect_curves(view, contents):
        drawn_plots.append(
            {"title": "Losses: lines on training rows, points on dev rows", "svg": plots.draw_losses(*curves)}
        )
    return drawn_plots


def find_axis_label(plan: GridPlan) -> str:
    """The label of the horizontal axis: what the grid's `each` varies."""
    label_by_axis = {"sizes": "examples", "seed_counts": "seed questions", "levels": "quality level"}
    return next((label_by_axis[condition.each] for condition in plan.conditions if condition.each), "")


def _collect_series(
    plan: GridPlan, contents: dict[str, Any], data: str
) -> dict[str, list[tuple[float, float, float, float]]]:
    """The accuracies of the conditions that an `each` created, as one line for each source of rows."""
    entries = {entry["condition"]: entry for entry in contents["conditions"]}
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for condition in plan.conditions:
        test = entries[condition.name].get("test", {}).get(data)
        if condition.each and test:
            value_by_axis = {"sizes": condition.size, "seed_counts": condition.seed_count, "levels": condition.level}
            name = {"run": "the run's examples", "benchmark": "random examples"}.get(condition.source, condition.source)
            value = float(value_by_axis[condition.each])
            series.setdefault(name, []).append((value, test["mean"], *test["ci95"]))
    return {name: values for name, values in series.items() if len(values) > 1}


CurvePoints = list[tuple[float, float]]


def _collect_curves(
    view: LedgerView, contents: dict[str, Any]
) -> tuple[dict[str, CurvePoints], dict[str, CurvePoints]] | None:
    """For the first seed of each condition: the training loss of each step and the dev loss of each epoch."""
    steps: dict[str, CurvePoints] = {}
    dev: dict[str, CurvePoints] = {}
    for entry in contents["conditions"]:
        if not entry.get("trainings"):
            continue
        curve = view.training_curve(entry["trainings"][0])
        step_events = [event for kind, event in curve if kind == "step"]
        epoch_events = [event for kind, event in curve if kind == "epoch" and event["val_loss"] is not None]
        per_epoch = max((event["step"] for event in step_events), default=1) / max(1, _count_epochs(step_events))
        steps[entry["title"]] = [(event["step"] / per_epoch, event["loss"]) for event in step_events]
        dev[entry["title"]] = [(event["step"] / per_epoch, event["val_loss"]) for event in epoch_events]
    return (steps, dev) if steps else None


def _count_epochs(steps: Sequence[dict[str, Any]]) -> int:
    return len([epoch for epoch, _ in groupby(steps, key=lambda event: int(event.get("epoch", 0)))])
