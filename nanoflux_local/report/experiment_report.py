"""Writes the report of an experiment as HTML, Markdown and CSV: the answer to its question, the results of its
conditions, the paper's results, plots, flipped items, the cost, and the commands that repeat the experiment.

The paper's results are labelled as the paper's and kept separate from those measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanoflux_local import __version__
from nanoflux_local.experiments.grid import GridPlan
from nanoflux_local.experiments.kinds.base import find_experiment_kind
from nanoflux_local.experiments.paper import BENCHMARKS
from nanoflux_local.experiments.results import load_results
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.report import plots
from nanoflux_local.report.flips import FlipSection, gather_flips
from nanoflux_local.report.page import render_page, write_atomically
from nanoflux_local.report.run_report import list_outcomes
from nanoflux_local.report.tables import format_csv, format_markdown

TableRows = list[list[object]]
"""The rows of a table, each a list of its cells."""
UNFINISHED_ANSWER = "Too few cells are done to answer the question yet."
"""The answer that the report gives while the experiment's results are incomplete."""
CurvePoints = dict[str, list[plots.LossPoint]]
"""The points of a loss curve for each condition, by the condition's title."""
HEADINGS = (
    "condition", "on", "seeds", "rows", "items", "accuracy", "low", "high", "sd over seeds", "sd over folds",
    "training FLOPs 6ND", "training FLOPs measured", "generation FLOPs", "generation tokens", "generation USD",
)  # fmt: skip
"""The columns of the table of conditions. `low` and `high` are the bounds of the accuracy's 95% interval."""
PAIR_HEADINGS = (
    "b minus a", "on", "items", "difference", "low", "high", "McNemar p", "Holm p", "bootstrap p", "t over seeds p",
    "detectable",
)  # fmt: skip
"""The columns of the table of paired tests. `low` and `high` are the bounds of the difference's 95% interval."""


def write_experiment_report(home: Home, experiment: str, out: Path) -> Path:
    """Write `index.html`, `report.md`, `conditions.csv` and `pairs.csv` into `out`. Returns the path of `index.html`.

    Raises:
        NothingMatchedError: the experiment is unknown.
        NanofluxError: the directory is not writable.
    """
    contents = gather_contents(home, experiment)
    write_atomically(out / "report.md", render_markdown(contents))
    write_atomically(out / "conditions.csv", format_csv(HEADINGS, list_condition_rows(contents)))
    write_atomically(out / "pairs.csv", format_csv(PAIR_HEADINGS, list_pair_rows(contents)))
    return write_atomically(out / "index.html", render_page("experiment.html", contents))


def gather_contents(home: Home, experiment: str) -> dict[str, Any]:
    """The values that the report shows, by their names in the template `experiment.html`."""
    results = load_results(home, experiment)
    contents, plan = results.to_json(), results.plan
    kind = find_experiment_kind(plan.grid.kind)
    with LedgerView(home.ledger) as view:
        contents["flips"] = _gather_flips(view, contents)
        contents["funnels"] = {run: list_outcomes(view.summarize_run(run).funnel) for run in contents["runs"].values()}
        contents["plots"] = _draw_plots(view, plan, contents)
    return {
        **contents,
        "version": __version__,
        "answer": kind.write_answer(contents) or [UNFINISHED_ANSWER],
        "table": None if kind.measures_accuracy else {"columns": kind.columns, "rows": kind.list_rows(contents)},
        "plan": plan.model_dump(mode="json"),
        "paper_rows": compare_with_paper(contents),
    }


def list_condition_rows(contents: dict[str, Any]) -> TableRows:
    """The rows of the table of conditions: one for each condition and benchmark, with the columns `HEADINGS`. Numbers
    are not rounded.
    """
    rows: TableRows = []
    for entry in contents["conditions"]:
        flops, generation = entry.get("flops", {}), entry.get("generation", {})
        cost_cells = [
            flops.get("6nd"),
            flops.get("measured"),
            _compute_generation_flops(generation),
            generation.get("tokens"),
            generation.get("usd"),
        ]
        for data, accuracy in entry.get("test", {}).items():
            folds = accuracy["folds"]
            spread_cells = [accuracy["sd"], folds["sd"] if folds else None]
            accuracy_cells = [accuracy["n"], accuracy["mean"], *accuracy["ci95"], *spread_cells]
            rows.append([entry["title"], data, len(entry["seeds"]), entry.get("rows"), *accuracy_cells, *cost_cells])
    return rows


def _compute_generation_flops(generation: dict[str, Any]) -> float | None:
    """The FLOPs of generating a condition's rows; None if nothing was generated or a model's size is unknown."""
    return generation["flops"] if generation and not generation["unknown"] else None


def list_pair_rows(contents: dict[str, Any]) -> TableRows:
    """The rows of the table of paired tests: one for each declared pair that can be tested, with the columns
    `PAIR_HEADINGS`.
    """
    titles = {entry["condition"]: entry["title"] for entry in contents["conditions"]}
    statistic_names = ("mcnemar_p", "holm_p", "bootstrap_p", "paired_t_p", "minimum_detectable")
    rows: TableRows = []
    for pair in contents["pairs"]:
        pair_title = f"{titles[pair['b']]} minus {titles[pair['a']]}"
        statistics = [pair[name] for name in statistic_names]
        rows.append([pair_title, pair["data"], pair["n"], pair["difference"], *pair["ci95"], *statistics])
    return rows


@dataclass(frozen=True, slots=True)
class PaperRow:
    """The paper's results for a condition on a benchmark, next to this experiment's accuracies for the same condition.

    `title` is the condition's title, and `measured` contains the mean accuracy on each of this experiment's test
    benchmarks.
    """

    benchmark: str
    title: str
    paper_results: Mapping[str, Any]
    measured: Mapping[str, float]


def compare_with_paper(contents: dict[str, Any]) -> list[PaperRow]:
    """The paper's results, each with the accuracies that this experiment measured for the same condition and benchmark,
    if there are any; [] if the experiment has no counterpart in the paper.
    """
    if not contents["paper"]:
        return []
    entry_by_condition = _index_conditions(contents)
    rows = []
    for paper_results in contents["paper"]["rows"]:
        benchmark, condition = paper_results["benchmark"], paper_results["condition"]
        entry = entry_by_condition.get(condition, {})
        is_same_benchmark = BENCHMARKS.get(contents["domain"]) == benchmark
        test_accuracies = entry.get("test", {}) if is_same_benchmark else {}
        measured = {data: accuracy["mean"] for data, accuracy in test_accuracies.items()}
        rows.append(PaperRow(benchmark, entry.get("title", condition), paper_results, measured))
    return rows


def _index_conditions(contents: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entry of each condition in `contents`, by the condition's name."""
    return {entry["condition"]: entry for entry in contents["conditions"]}


def render_markdown(contents: dict[str, Any]) -> str:
    """The report in Markdown."""
    answer = "\n".join(f"- {line}" for line in contents["answer"])
    origin = f"Experiment `{contents['experiment']}`, {contents['status']}; NanoFlux Local {contents['version']}."
    sections = [f"# {contents['title']}", contents["question"], answer, origin]
    condition_rows = _format_cells(list_condition_rows(contents))
    pair_rows = _format_cells(list_pair_rows(contents))
    if condition_rows:
        sections += ["## Conditions", format_markdown(HEADINGS, condition_rows)]
    if pair_rows:
        sections += ["## Paired tests", format_markdown(PAIR_HEADINGS, pair_rows)]
    if contents["paper_rows"]:
        paper_rows: TableRows = []
        for row in contents["paper_rows"]:
            first_measured = next(iter(row.measured.values()), None)
            paper_accuracy = row.paper_results.get("accuracy")
            paper_rows.append([row.benchmark, row.title, paper_accuracy, _format_cell(first_measured)])
        sections += [
            f"## The paper's results ({contents['paper']['where']})",
            "Not measured here: the paper used other models and data.",
            format_markdown(("benchmark", "condition", "paper, %", "measured here"), paper_rows),
        ]
    if contents["left_out"]:
        reasons = "\n".join(f"- {cell}: {reason}" for cell, reason in contents["left_out"].items())
        sections += ["## Left out", reasons]
    sections += [
        f"## Repeat the experiment\n\n    nanoflux experiment run {contents['name']} --scale {contents['scale']}"
    ]
    return "\n\n".join(sections) + "\n"


def _format_cells(rows: TableRows) -> TableRows:
    return [[_format_cell(value) for value in row] for row in rows]


def _format_cell(value: object) -> object:
    """`value` as a cell: a float with 4 significant digits, "" for None, anything else unchanged."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def _gather_flips(view: LedgerView, contents: dict[str, Any]) -> FlipSection | None:
    """The items that flip between the two conditions of the first tested pair, in the evaluations of their first
    training seeds; None if no pair can be tested.
    """
    if not contents["pairs"]:
        return None
    pair = contents["pairs"][0]
    entry_by_condition = _index_conditions(contents)
    base_entry, compared_entry = entry_by_condition[pair["a"]], entry_by_condition[pair["b"]]
    base_evaluation = base_entry["test"][pair["data"]]["evaluations"][0]
    compared_evaluation = compared_entry["test"][pair["data"]]["evaluations"][0]
    section = gather_flips(view, base_evaluation, compared_evaluation)
    return replace(section, base_title=base_entry["title"], other_title=compared_entry["title"])


def _draw_plots(view: LedgerView, plan: GridPlan, contents: dict[str, Any]) -> list[dict[str, str]]:
    """Draw the plots of the report, each with its title and its SVG: for each benchmark, the accuracies of all
    conditions as bars, and as lines against the quantity that the grid varies; then the losses.
    """
    drawn_plots = []
    for data in contents["test"]:
        bars = [
            (entry["title"], entry["test"][data]["mean"], *entry["test"][data]["ci95"])
            for entry in contents["conditions"]
            if entry.get("test")
        ]
        if bars:
            drawn_plots.append({"title": f"Strict accuracy on {data}", "svg": plots.draw_accuracies(bars)})
        lines, axis_label = _collect_accuracy_lines(plan, contents, data), find_axis_label(plan)
        if lines:
            title = f"Accuracy on {data} by {axis_label}"
            drawn_plots.append({"title": title, "svg": plots.draw_accuracy_lines(lines, axis_label)})
    training_losses, dev_losses = _collect_losses(view, contents)
    if training_losses:
        title = "Losses: lines on training rows, points on dev rows"
        drawn_plots.append({"title": title, "svg": plots.draw_losses_by_epoch(training_losses, dev_losses)})
    return drawn_plots


def find_axis_label(plan: GridPlan) -> str:
    """The label of the quantity that the grid's `each` varies; "" if it varies none."""
    label_by_axis = {"sizes": "examples", "seed_counts": "seed questions", "levels": "quality level"}
    return next((label_by_axis[condition.each] for condition in plan.conditions if condition.each), "")


def _collect_accuracy_lines(
    plan: GridPlan, contents: dict[str, Any], data: str
) -> dict[str, list[plots.AccuracyPoint]]:
    """The accuracies on the benchmark `data` of the conditions that the grid's `each` created, by the label of their
    line. There is one line for each source of training rows; lines of a single point are left out.
    """
    entry_by_condition = _index_conditions(contents)
    label_by_source = {"run": "the run's examples", "benchmark": "random examples"}
    lines: dict[str, list[plots.AccuracyPoint]] = {}
    for condition in plan.conditions:
        accuracy = entry_by_condition[condition.name].get("test", {}).get(data)
        if condition.each and accuracy:
            value_by_axis = {"sizes": condition.size, "seed_counts": condition.seed_count, "levels": condition.level}
            position = float(value_by_axis[condition.each])
            label = label_by_source.get(condition.source, condition.source)
            lines.setdefault(label, []).append((position, accuracy["mean"], *accuracy["ci95"]))
    return {label: points for label, points in lines.items() if len(points) > 1}


def _collect_losses(view: LedgerView, contents: dict[str, Any]) -> tuple[CurvePoints, CurvePoints]:
    """The training loss of each step, and the dev loss after each epoch, in the first training run of each condition.
    The position of each point is its epoch, such as 1.5 in the middle of the second epoch.
    """
    training_losses: CurvePoints = {}
    dev_losses: CurvePoints = {}
    for entry in contents["conditions"]:
        if not entry.get("trainings"):
            continue
        curve = view.training_curve(entry["trainings"][0])
        steps = curve.steps
        last_step = max((step.step for step in steps), default=1)
        steps_per_epoch = last_step / max(1, len({step.epoch for step in steps}))
        title = entry["title"]
        training_losses[title] = [(step.step / steps_per_epoch, step.loss) for step in steps]
        dev_losses[title] = [(step / steps_per_epoch, loss) for step, loss in curve.dev_losses]
    return training_losses, dev_losses
