"""`nanoflux eval`: evaluate a model, an adapter or an endpoint of a profile on held-out items; list evaluations."""

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from nanoflux_local.cli import evaluations
from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import FiniteRange, current_home, print_json, print_table, with_json
from nanoflux_local.cli.names import ADAPTER, DATASET, DOMAIN, MODEL, PROFILE
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nanoflux_local.endpoints.base import Endpoint
    from nanoflux_local.evaluate.soft import SoftJudge
    from nanoflux_local.evaluate.summary import Accuracy, Correction, EvaluationSummary


OPTIONS_OF_MODEL = {"adapter": "--adapter", "endpoint_kind": "--via", "args": "--arg"}
"""The options that apply only to --model, by parameter: an endpoint states these settings in its profile."""
OPTIONS_OF_SOFT_MODE = {"judge": "--judge", "judge_errors": "--judge-errors"}
"""The options that apply only to --mode soft, by parameter."""
OPTIONS_OF_PROFILE = {"profile": "--profile"}
"""The options that apply only if the profile has an endpoint to evaluate or to judge with, by parameter."""


class AdapterKind(click.ParamType[str]):
    """The name of an endpoint kind that supports adapters. The endpoint kinds are imported only when this type is used,
    so that the command line starts quickly.
    """

    name = "kind"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        return f"[{'|'.join(self._names())}]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self._names():
            self.fail(f"{value!r} is not one of {', '.join(map(repr, self._names()))}.", param, ctx)
        return str(value)

    @staticmethod
    def _names() -> tuple[str, ...]:
        from nanoflux_local.endpoints.kinds.base import list_adapter_kinds

        return list_adapter_kinds()


@click.group(name="eval", invoke_without_command=True, subcommand_metavar="[list | show | items]")
@click.option("--model", type=MODEL, default="", help="Name of an installed model, e.g. smollm2-135m.")
@click.option("--adapter", type=ADAPTER, default="", help="Hash of an adapter, or the start of the hash.")
@click.option(
    "--profile", type=PROFILE, default="", help="Profile that defines --endpoint and the judge of --mode soft."
)
@click.option("--endpoint", default="", help="Endpoint of the profile to evaluate instead of --model.")
@click.option("--data", type=DATASET, default="", help="Benchmark; `nanoflux data list` lists them.")
@click.option("--split", default="test", show_default=True, help="Split of the benchmark.")
@click.option("--domain", type=DOMAIN, default="", help="Domain that supplies the prompts [default: the benchmark's].")
@click.option("--limit", type=click.IntRange(1), help="Number of items, from the start of the split [default: all].")
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Number of repeats, each with a different seed.",
)
@click.option(
    "--temperature", type=FiniteRange(0), default=0.7, show_default=True, help="Sampling temperature; 0 is greedy."
)
@click.option(
    "--via",
    "endpoint_kind",
    type=AdapterKind(),
    default="in_process",
    show_default=True,
    help="How to serve the model: in_process; vllm: a running vLLM server, else one started for this command; merged: "
    "vLLM on a copy of the weights with the adapter merged in, much faster on a CPU.",
)
@click.option(
    "--reasoning-tokens",
    type=click.IntRange(0),
    help="Tokens for reasoning, in addition to the answer's budget [default: the endpoint's, else the manifest's].",
)
@click.option(
    "--arg", "args", multiple=True, help="Argument passed to vLLM unchanged, e.g. --arg=--enforce-eager; repeatable."
)
@click.option(
    "--mode",
    type=click.Choice(["strict", "soft"]),
    default="strict",
    show_default=True,
    help="Scoring; soft also asks the judge of the profile.",
)
@click.option(
    "--judge", default="", help="Endpoint of the profile that judges [default: the endpoint of the judge's role]."
)
@click.option(
    "--judge-errors",
    default="",
    metavar="RUN",
    help="Run whose judge trial is used to correct the soft accuracy for the judge's errors.",
)
@with_json
@click.pass_context
def command(
    context: click.Context,
    model: str,
    adapter: str,
    profile: str,
    endpoint: str,
    data: str,
    split: str,
    domain: str,
    limit: int | None,
    runs: int,
    temperature: float,
    endpoint_kind: str,
    reasoning_tokens: int | None,
    args: tuple[str, ...],
    mode: str,
    judge: str,
    judge_errors: str,
    as_json: bool,
) -> None:
    """Evaluate a model: strictly (the exact letter, or the number within tolerance) and optionally softly, by a judge.

    Run the same command again to resume an interrupted evaluation; a finished one sends no requests. If replies are
    missing, the command says why and exits with 1. `eval list`, `eval show` and `eval items` show stored evaluations.
    """
    if context.invoked_subcommand:
        return
    if not data:
        raise click.UsageError("Missing option '--data'.")
    if runs > 1 and temperature == 0:
        raise UsageError(
            "with --temperature 0, every repeat gives the same replies", "use --runs 1 or a temperature above 0"
        )
    if bool(model) == bool(endpoint):
        raise UsageError("eval needs either --model or --endpoint", "pass --model NAME, or --profile P --endpoint NAME")
    if (endpoint or mode == "soft") and not profile:
        raise UsageError("--endpoint and --mode soft need a profile", "add --profile NAME|FILE")
    if endpoint:
        _refuse_options(context, OPTIONS_OF_MODEL, "--model", "set them for the endpoint in the profile")
    if mode != "soft":
        _refuse_options(context, OPTIONS_OF_SOFT_MODE, "--mode soft", "add --mode soft")
    if mode != "soft" and not endpoint:
        _refuse_options(context, OPTIONS_OF_PROFILE, "--endpoint and --mode soft", "add --mode soft")
    home = current_home().prepare()

    def build_endpoint() -> "Endpoint":
        if endpoint:
            return _build_profile_endpoint(home, profile, endpoint, reasoning_tokens)
        return _build_model_endpoint(home, model, adapter, endpoint_kind, args, reasoning_tokens)

    soft_judge = _build_judge(home, profile, judge) if mode == "soft" else None
    summary = evaluate_endpoint(home, build_endpoint, data, split, limit, runs, temperature, soft_judge, domain)
    if judge_errors and summary.soft:
        summary = replace(summary, corrected=_correct_for_judge_errors(home, judge_errors, summary.soft, summary.judge))
    if as_json:
        print_json(summary.to_json())
    else:
        show_evaluation(summary)
    summary.require_all_replies()


def _refuse_options(
    context: click.Context, option_by_parameter: "Mapping[str, str]", required_option: str, alternative: str
) -> None:
    """Raise UsageError if the user passed an option that applies only together with `required_option`; the error
    suggests to leave it out, or `alternative`.
    """
    passed_options = [
        option
        for parameter, option in option_by_parameter.items()
        if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE
    ]
    if passed_options:
        verb = "applies" if len(passed_options) == 1 else "apply"
        raise UsageError(
            f"{' and '.join(passed_options)} {verb} only to {required_option}",
            f"leave out {' and '.join(passed_options)}, or {alternative}",
        )


def _correct_for_judge_errors(home: Home, run: str, soft: "Accuracy", judge: str) -> "Correction":
    """Correct a soft accuracy for the errors of its judge (Rogan and Gladen 1978), as measured by the judge's trial in
    a run. `judge` is the model of the judge.

    Raises:
        NothingMatchedError: the run has no trial, or its trial has only right or only wrong solutions.
        UsageError: the run has a different judge, or its judge did no better than chance in the trial.
    """
    from nanoflux_local.evaluate.statistics import correct_prevalence
    from nanoflux_local.evaluate.summary import Correction
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.trials.result import summarize_trial

    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
        trial = summarize_trial(view, row["id"])
    config = json.loads(row["config"])
    judge_endpoint = config["roles"]["judge"]["endpoint"]
    run_judge_model = config["endpoints"].get(judge_endpoint, {}).get("model")
    if run_judge_model != judge:
        raise UsageError(
            f"the judge of run {run} is {run_judge_model or 'a program'}, not {judge}",
            "pass a run judged by the same model to --judge-errors",
        )
    rates = trial.judge if trial else None
    if rates is None or not rates.sensitivity.n or not rates.specificity.n:
        raise NothingMatchedError(
            f"run {run} has no judge trial", "pass a run started with --set judge.trial=50 to --judge-errors"
        )
    # In a trial, specificity is the share of right solutions that the judge accepts, and sensitivity the share of wrong
    # solutions that it rejects. `correct_prevalence` expects the counts of right solutions first.
    specificity, sensitivity = rates.specificity, rates.sensitivity
    accepted_right = round((specificity.share or 0) * specificity.n)
    rejected_wrong = round((sensitivity.share or 0) * sensitivity.n)
    prevalence = correct_prevalence(
        round(soft.mean * soft.n), soft.n, accepted_right, specificity.n, rejected_wrong, sensitivity.n
    )
    if prevalence is None:
        raise UsageError(f"the judge of run {run} did no better than chance in its trial", "use another judge")
    return Correction(prevalence.estimate, prevalence.ci95, row["id"])


def show_evaluation(summary: "EvaluationSummary") -> None:
    """Print the outcome of an evaluation as a table."""
    adapter = f" + {summary.adapter[:16]}" if summary.adapter else ""
    runs = format_quantity(summary.runs, "run")
    print_table(
        ("eval", summary.id),
        [
            ("model", f"{summary.model}{adapter}"),
            ("data", f"{summary.data} {summary.split}, {_format_items(summary)}, {runs}"),
            *_strict_rows(summary.strict),
            *_soft_rows(summary),
            ("unanswered", summary.unanswered),
            *_truncation_rows(summary),
            ("unscored", _format_unscored(summary)),
        ],
    )


def _format_items(summary: "EvaluationSummary") -> str:
    """The number of items; if some have no score, also the number of scored items."""
    scored, total = summary.n, summary.items
    items = format_quantity(total, "item")
    return items if scored == total else f"{scored} of {items} scored"


def _format_unscored(summary: "EvaluationSummary") -> str:
    from nanoflux_local.evaluate.shortfall import describe_causes

    return f"{summary.unscored}: {describe_causes(summary.causes)}" if summary.causes else str(summary.unscored)


def _strict_rows(strict: "Accuracy | None") -> list[tuple[str, str]]:
    if strict is None:
        return [("strict", "free text, which cannot be graded without a judge")]
    low, high = strict.ci95
    return [
        ("strict", f"{strict.mean:.1%} ± {strict.sd:.1%} over runs"),
        ("95% interval", f"{low:.1%} to {high:.1%}"),
    ]


def _soft_rows(summary: "EvaluationSummary") -> list[tuple[str, str]]:
    if summary.soft is None:
        return []
    rows = [("soft", f"{summary.soft.mean:.1%}, {summary.soft.unscored} unscored, judged by {summary.judge}")]
    if corrected := summary.corrected:
        low, high = corrected.ci95
        accuracy = f"{corrected.estimate:.1%} ({low:.1%} to {high:.1%})"
        rows.append(("soft, corrected", f"{accuracy}, by the judge's errors in run {corrected.run}"))
    return rows


def _truncation_rows(summary: "EvaluationSummary") -> list[tuple[str, str]]:
    """How many replies ran out of tokens while the model was reasoning; no row if none did."""
    if not summary.cut_in_reasoning:
        return []
    advice = f"raise --reasoning-tokens, or reasoning_tokens of the endpoint (now {summary.reasoning_tokens})"
    count = summary.cut_in_reasoning
    replies = "1 reply during its reasoning" if count == 1 else f"{count} replies during their reasoning"
    return [("  out of tokens", f"the token limit ended {replies}; {advice}")]


def evaluate(
    home: Home,
    model: str,
    adapter: str,
    data: str,
    split: str,
    limit: int | None,
    runs: int,
    temperature: float,
    endpoint_kind: str = "in_process",
    args: tuple[str, ...] = (),
) -> "EvaluationSummary":
    """Evaluate an installed model with a progress bar. An adapter without effect is refused.

    Raises:
        EndpointError: replies are missing.
    """
    summary = evaluate_endpoint(
        home,
        lambda: _build_model_endpoint(home, model, adapter, endpoint_kind, args),
        data,
        split,
        limit,
        runs,
        temperature,
    )
    summary.require_all_replies()
    return summary


def evaluate_endpoint(
    home: Home,
    build_endpoint: "Callable[[], Endpoint]",
    data: str,
    split: str,
    limit: int | None,
    runs: int,
    temperature: float,
    judge: "SoftJudge | None" = None,
    domain: str = "",
) -> "EvaluationSummary":
    """Evaluate the endpoint that `build_endpoint` returns, with a progress bar.

    Raises:
        UsageError: the domain does not use the benchmark.
    """
    from nanoflux_local.evaluate.evaluation import choose_domain, make_plan
    from nanoflux_local.evaluate.evaluation import evaluate as run_evaluation
    from nanoflux_local.ledger.store import Ledger
    from nanoflux_local.seeds.datasets import load_items

    items = load_items(home.ledger, data, split)[:limit]
    if not items:
        raise NothingMatchedError(
            f"benchmark {data} has no {split} items", "list benchmarks and splits with `nanoflux data list`"
        )
    if domain and choose_domain(data, home.root, judge is not None, domain).name != domain:
        raise UsageError(
            f"the domain {domain!r} does not exist or does not use the benchmark {data!r}",
            "list domains with `nanoflux domains list`",
        )
    bar = Bar(f"evaluating on {data}", "replies")

    async def run_plan() -> "EvaluationSummary":
        endpoint = build_endpoint()
        try:
            plan = make_plan(endpoint.identity, data, split, items, runs, temperature,
                             root=home.root, judge=judge, domain_name=domain,
                             reasoning_tokens=endpoint.context.reasoning)  # fmt: skip
            with Ledger(home.ledger) as ledger:
                return await run_evaluation(ledger, endpoint, plan, bar.show)
        finally:
            await endpoint.close()
            if judge:
                await judge.endpoint.close()

    try:
        return asyncio.run(run_plan())
    finally:
        bar.close()


def _build_model_endpoint(
    home: Home, model: str, adapter: str, endpoint_kind: str, args: tuple[str, ...], reasoning_tokens: int | None = None
) -> "Endpoint":
    from nanoflux_local.endpoints.build import build_model_endpoint

    return build_model_endpoint(model, adapter, home, endpoint_kind, args, reasoning_tokens)


def _build_profile_endpoint(home: Home, profile: str, name: str, reasoning_tokens: int | None) -> "Endpoint":
    from nanoflux_local.run.configs import build_profile_endpoint

    settings = {} if reasoning_tokens is None else {"reasoning_tokens": reasoning_tokens}
    return build_profile_endpoint(profile, name, home, settings=settings)[0]


def _build_judge(home: Home, profile: str, name: str) -> "SoftJudge":
    """Build the judge of a profile: the endpoint `name` or, if `name` is "", the endpoint of the judge's role."""
    from nanoflux_local.evaluate.soft import SoftJudge
    from nanoflux_local.run.configs import build_profile_endpoint

    endpoint, config = build_profile_endpoint(profile, name, home, role="judge")
    return SoftJudge(name or "judge", endpoint, config.structured)


for subcommand in (evaluations.list_evaluations, evaluations.show, evaluations.items):
    command.add_command(subcommand)
