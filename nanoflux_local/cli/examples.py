"""`nanoflux examples`: list, show and review the examples of a run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import (
    NewPath,
    PlainName,
    current_home,
    print_json,
    print_table,
    sanitize,
    say,
    with_json,
)
from nanoflux_local.cli.names import EXAMPLE, RUN
from nanoflux_local.cli.notes import edit_text
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.evaluate.agreement import ReviewerAgreement
    from nanoflux_local.examples.lineage import Lineage
    from nanoflux_local.transcript import Exhibit

VERDICTS = ("keep", "drop", "fix", "open")
"""The verdicts of a reviewer: a copy of those in `examples.review`, so that `--help` does not import that module."""
MAX_QUESTION_CHARS = 60
"""Maximum length of a question in the table of examples, in characters."""
MAX_OUTCOME_CHARS = 60
"""Maximum length of an outcome in the table of calls, in characters."""


@click.group(name="examples")
def command() -> None:
    """List, show and review the examples that a run kept."""


@command.command("list")
@click.argument("run", type=RUN)
@with_json
def list_examples(run: str, as_json: bool) -> None:
    """List the examples of RUN in turn order, with quality level and reviews."""
    from nanoflux_local.examples.review import load_reviews
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(current_home().ledger) as view:
        run_id = view.find_run(run)["id"]
        examples = [dict(row) for row in view.rows(
            "SELECT examples.id, turn, reason, question, answer, level, passes, tries, attempts"
            " FROM examples JOIN turns ON turns.run = examples.run AND turns.number = examples.turn"
            " WHERE examples.run = ? ORDER BY turn", run_id
        )]  # fmt: skip
        reviews_by_attempt = load_reviews(view, run_id)
    for row in examples:
        last_attempt_number = len(row.pop("attempts").split()) - 1  # "attempts" has one outcome for each attempt
        reviews = reviews_by_attempt.get((row["turn"], last_attempt_number), {})
        row["pass_rate"] = [row.pop("passes"), row.pop("tries")]
        row["reviews"] = {reviewer: review["verdict"] for reviewer, review in reviews.items()}
    if as_json:
        print_json(examples)
        return
    if not examples:
        raise NothingMatchedError(f"run {run} kept no examples", f"see why with `nanoflux run show {run}`")
    # If the defender answered each question once, the column "reason" already shows the result.
    shows_pass_rate = any(row["pass_rate"][1] != 1 for row in examples)
    pass_rate_heading = ["pass rate"] if shows_pass_rate else []
    print_table(
        ("id", "turn", "reason", *pass_rate_heading, "level", "review", "answer", "question"),
        [_example_cells(row, shows_pass_rate) for row in examples],
    )


def _example_cells(row: dict[str, Any], shows_pass_rate: bool) -> list[object]:
    pass_rate_cell = [format_pass_rate(*row["pass_rate"])] if shows_pass_rate else []
    level = f"L{row['level']}" if row["level"] else ""
    distinct_verdicts = dict.fromkeys(row["reviews"].values())
    question = row["question"][:MAX_QUESTION_CHARS].replace("\n", " ")
    return [
        row["id"], row["turn"], row["reason"], *pass_rate_cell, level, " ".join(distinct_verdicts), row["answer"],
        question,
    ]  # fmt: skip


@command.command()
@click.argument("example", type=EXAMPLE)
@with_json
def show(example: str, as_json: bool) -> None:
    """Show one example and how it was made.

    Prints the turn (seeds, attack, defence, verdicts, checks, ratings, reviews), its calls, the training runs that used
    the example, and the held-out items nearest to it. `--json` includes every prompt, reply and program in full.
    """
    from nanoflux_local.examples.lineage import trace_lineage
    from nanoflux_local.examples.review import load_reviews
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.transcript import attempt_from_json

    home = current_home()
    with LedgerView(home.ledger) as view:
        example_row = view.row(
            "SELECT examples.id, examples.run, examples.level, passes, tries, turns.record FROM examples JOIN turns"
            " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.id = ?",
            example,
        )
        if example_row is None:
            raise NothingMatchedError(
                f"no example {example!r} in this home", "list a run's examples with `nanoflux examples list RUN`"
            )
        run, passes, tries = example_row["run"], example_row["passes"], example_row["tries"]
        turn_record = json.loads(example_row["record"])
        last_attempt = turn_record["attempts"][-1]
        reviews = load_reviews(view, run).get((turn_record["number"], last_attempt["number"]), {})
        lineage = trace_lineage(home, view, example)
    attempt = attempt_from_json(last_attempt)
    citations = attempt.citations
    if as_json:
        print_json({
            "id": example_row["id"],
            "run": run,
            "level": example_row["level"],
            "pass_rate": [passes, tries],
            "reviews": reviews,
            "citations": [asdict(citation) for citation in citations],
            "turn": turn_record,
            "lineage": lineage.to_json(),
        })  # fmt: skip
        return
    click.echo(f"example {example_row['id']} of run {run}, turn {turn_record['number']}: {last_attempt['outcome']}")
    click.echo(sanitize(f"seeds: {', '.join(last_attempt['seeds'])}"))
    attack, defence = last_attempt["attack"], last_attempt["defence"]
    is_graded_by_judge = attempt.evaluation is not None and attempt.evaluation.asked > 0
    grader = turn_record["judge"] if is_graded_by_judge else "a program"
    citation_lines = [f'{citation.source}, {citation.place}: "{citation.quotation}"' for citation in citations]
    review_lines = [f"{reviewer}: {review['verdict']} {review['note']}".strip() for reviewer, review in reviews.items()]
    text_by_title = {
        "Question": attack["question"],
        f"Solution by {turn_record['attacker']}": attack["solution"],
        "Answer": attack["answer"],
        "Citations": "\n".join(citation_lines),
        f"Validation by {turn_record['judge']}": _describe_validation(last_attempt["validation"]),
        f"Reply of {turn_record['defender']}": f"{defence['solution']}\n= {defence['answer']}",
        f"Verdict of {grader}": last_attempt["evaluation"]["explanation"],
        f"All answers of {turn_record['defender']}": _describe_samples(last_attempt, passes, tries),
        "Reasoning": _describe_quality(last_attempt),
        "Reviews": "\n".join(review_lines),
    }
    for title, text in text_by_title.items():
        if text:
            click.echo(f"\n{title}:\n{sanitize(text)}")
    _show_lineage(lineage)


def _show_lineage(lineage: "Lineage") -> None:
    """Print the calls in order, the training runs that used the example, and the nearest held-out items."""
    click.echo("\nCalls of this turn (--json prints them in full):")
    print_table(
        ("call", "role", "kind", "model", "outcome"),
        [[call.id, call.role, call.kind, call.model, call.outcome[:MAX_OUTCOME_CHARS]] for call in lineage.calls],
    )
    for training in lineage.trainings:
        click.echo(f"used by training {training.id} ({training.status}), adapter {training.adapter[:16] or 'none'}")
    for item in lineage.near:
        click.echo(sanitize(f"near held-out item {item.item} of {item.dataset}: similarity {item.similarity:.3f}"))


def _describe_validation(verdict: dict[str, Any]) -> str:
    """The judge's reason, the findings of the checks with their evidence, and the votes of a panel."""
    from nanoflux_local.transcript import verdict_from_json

    validation = verdict_from_json(**verdict)
    lines = [validation.explanation]
    for finding in validation.findings:
        check = finding.check.capitalize().replace("_", "-")
        lines.append(f"{check} check: {finding.conclusion}. {finding.reason}".rstrip(". "))
        lines += [_describe_exhibit(exhibit) for exhibit in finding.evidence]
    verbs = {True: "accepts", False: "rejects", None: "does not judge"}
    lines += [f"  {vote.judge} {verbs[vote.positive]}: {vote.explanation}" for vote in validation.votes]
    return "\n".join(lines)


def _describe_exhibit(exhibit: "Exhibit") -> str:
    """A program or solution as a block of text; a search or quotation on one line."""
    if exhibit.kind not in ("program", "solution"):
        results = "; ".join(f"{result.title} ({result.place})" for result in exhibit.results)
        outcome = results or exhibit.outcome  # only a search has results
        return f"  {exhibit.text!r}: {outcome} {exhibit.detail}".rstrip()
    agreement = {True: "agrees", False: "disagrees", None: "inconclusive"}[exhibit.agrees]
    if exhibit.kind == "solution" and exhibit.outcome and exhibit.detail:
        source = f" ({exhibit.author}, {exhibit.detail}, {agreement})"
    else:
        source = f" ({exhibit.author}, {agreement})" if exhibit.author else ""
    outcome = f"= {exhibit.outcome}" if exhibit.outcome else exhibit.detail
    outcome_line = f"{outcome}{source}\n" if outcome else ""
    return f"\n{exhibit.text}\n{outcome_line}"


def format_pass_rate(passes: int | None, tries: int | None) -> str:
    """How often the defender answered correctly, for a table; "" for examples without a pass rate."""
    return "" if tries is None else f"{passes} of {tries}"


def _describe_samples(attempt: dict[str, Any], passes: int, tries: int) -> str:
    """The pass rate, and a line for each further answer; "" if the defender answered only once."""
    if not attempt.get("samples"):
        return ""
    marks = {True: "right", False: "wrong", None: "not judged"}
    lines = [f"{passes} of {tries} right"]
    for sample in attempt["samples"]:
        answer = sample["defence"]["answer"] if sample["defence"] else "no readable answer"
        lines.append(f"  = {answer}  {marks[sample['right']]}: {sample['reason']}".rstrip(": "))
    return "\n".join(lines)


def _describe_quality(attempt: dict[str, Any]) -> str:
    """The rating of an attempt's reasoning, or why it has none; "" if the run rates no reasoning."""
    quality = attempt.get("quality")
    if quality is None:
        return f"not rated: {attempt['unrated']}" if attempt.get("unrated") else ""
    scores = ", ".join(f"{name} {score:g}" for name, score in quality["scores"].items())
    return f"L{quality['level']}, {quality['score']:.2f} ({scores})\n{quality['explanation']}"


@command.command()
@click.argument("example", type=EXAMPLE)
@click.option(
    "--verdict",
    required=True,
    type=click.Choice(VERDICTS),
    help="Your verdict: keep, drop, fix (keep once corrected), or open to withdraw an earlier verdict.",
)
@click.option("--note", default="", help="Reason for the verdict.")
@click.option("--edit", is_flag=True, help="Write the note in $EDITOR.")
@click.option("--reviewer", type=PlainName(), default="", help="Name of the reviewer [default: the account's name].")
@with_json
def review(example: str, verdict: Any, note: str, edit: bool, reviewer: str, as_json: bool) -> None:
    """Record your verdict on an example. Earlier verdicts stay in the ledger; the newest one applies."""
    from nanoflux_local.examples.review import record_review

    if note and edit:
        raise click.UsageError("--note and --edit are mutually exclusive: pass the note, or write it in the editor.")
    if edit:
        note = edit_text("").strip()
    recorded_review = record_review(current_home(), example, verdict, note, reviewer)
    if as_json:
        print_json(asdict(recorded_review))
    else:
        say(f"recorded {recorded_review.reviewer}'s verdict on example {recorded_review.example}: {verdict}")


@command.command("export-review")
@click.argument("run", type=RUN)
@click.option("--out", "-o", required=True, type=NewPath(dir_okay=False), help="File to write.")
@click.option("--size", type=click.IntRange(1), default=None, help="Number of questions [default: all].")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed that draws and shuffles the questions."
)
@with_json
def export_review(run: str, out: Path, size: int | None, seed: int, as_json: bool) -> None:
    """Write questions of RUN for a blind review: JSON Lines without the judge's verdicts.

    Fill in `verdict` (keep, drop, fix) and optionally `note`, then run `nanoflux examples import-review FILE`.
    """
    from nanoflux_local.examples.review import export_blind

    summary = export_blind(current_home(), run, out, size or 0, seed)
    if as_json:
        print_json(asdict(summary))
    else:
        questions = format_quantity(summary.questions, "question")
        say(f"wrote {questions} of run {summary.run} to {out}: accepted and rejected, in random order")


@command.command("import-review")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--reviewer", type=PlainName(), default="", help="Name of the reviewer [default: the account's name].")
@with_json
def import_review(file: Path, reviewer: str, as_json: bool) -> None:
    """Import a filled-in review file and report the agreement of judge and reviewer."""
    from nanoflux_local.examples.review import import_blind, summarize_agreement
    from nanoflux_local.ledger.views import LedgerView

    review_import = import_blind(current_home(), file, reviewer)
    with LedgerView(current_home().ledger) as view:
        agreements = {run: summarize_agreement(view, run) for run in review_import.runs}
    if as_json:
        agreement_json = {run: asdict(agreement) if agreement else None for run, agreement in agreements.items()}
        print_json({**asdict(review_import), "agreement": agreement_json})
        return
    verdicts = format_quantity(review_import.taken, "verdict")
    say(f"{verdicts} of {review_import.reviewer} imported, {review_import.open} left open")
    for run, agreement in agreements.items():
        if agreement is not None:
            say(f"run {run}: {describe_agreement(agreement.reviewers[review_import.reviewer])}")


def describe_agreement(agreement: "ReviewerAgreement") -> str:
    """The agreement of a reviewer and the judge in one sentence."""
    agreement_text = f"the judge agrees on {agreement.agree} of {agreement.reviewed}"
    if agreement.kappa is None or agreement.ci95 is None:
        return f"{agreement_text}; kappa is undefined because one of the two gives every example the same verdict"
    low, high = agreement.ci95
    return f"{agreement_text}, Cohen's kappa {agreement.kappa:z.2f} ({low:z.2f} to {high:z.2f})"
