"""`nanoflux eval list / show / items`: list and show the evaluations of this home and their items."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, sanitize, say, with_json
from nanoflux_local.cli.names import EVALUATION
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nanoflux_local.evaluate.items import Flip, ItemRecord
    from nanoflux_local.ledger.board import StoredEvaluation
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.transcript import Seed

SAMPLING_KEYS = ("temperature", "top_p", "max_tokens")
"""The keys of an evaluation's sampling settings that `eval show` prints."""
MAX_QUESTION_CHARS = 60
"""Maximum length of a question in a table, in characters."""


@click.command("list")
@with_json
def list_evaluations(as_json: bool) -> None:
    """List all evaluations, newest first."""
    from nanoflux_local.ledger import board
    from nanoflux_local.ledger.views import LedgerView

    home = current_home()
    entries = []
    if home.ledger.exists():
        with LedgerView(home.ledger) as view:
            entries = [_build_entry(home, view, line) for line in board.list_evaluations(view)]
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    if not entries:
        raise NothingMatchedError("there are no evaluations", "start one with `nanoflux eval --model NAME --data NAME`")
    print_table(
        ("eval", "model", "adapter", "data", "items", "runs", "correct", "95% interval", "status"),
        [
            [entry.eval, entry.model, entry.adapter[:12] or "none", f"{entry.data} {entry.split}",
             entry.items, entry.runs, *_accuracy_cells(entry.strict), entry.status]
            for entry in entries
        ],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EvaluationEntry:
    """An evaluation as `eval list --json` prints it. `strict`, the strict accuracy, is None until there is a result."""

    eval: str
    model: str
    adapter: str
    data: str
    split: str
    status: str
    message: str
    items: int | None
    runs: int | None
    strict: "Mapping[str, Any] | None"
    seconds: float
    started_at: str


def _build_entry(home: Home, view: "LedgerView", stored: "StoredEvaluation") -> EvaluationEntry:
    """The entry of an evaluation. Its status depends on its process: if the process was killed, the status is
    "interrupted", although the ledger still says "running".
    """
    from nanoflux_local.jobs import EVALUATION, Job, load_job_state

    state = load_job_state(home, view, Job(EVALUATION, stored.id), asdict(stored))
    settings, strict = stored.settings, stored.result.get("strict")
    return EvaluationEntry(
        stored.id, stored.model, stored.adapter, stored.data, stored.split, state.status, state.message,
        settings.get("n"), settings.get("runs"), strict, state.seconds, stored.started_at,
    )  # fmt: skip


def _describe_size(settings: "Mapping[str, Any]") -> str:
    return f"{format_quantity(settings.get('n', 0), 'item')}, {format_quantity(settings.get('runs', 0), 'run')}"


def _accuracy_cells(strict: "Mapping[str, Any] | None") -> list[str]:
    """The strict accuracy and its 95% interval as text; a dash for each if there is no result yet."""
    if strict is None:
        return ["–", "–"]
    low, high = strict["ci95"]
    return [f"{strict['mean']:.1%}", f"{low:.1%} to {high:.1%}"]


@click.command()
@click.argument("evaluation", type=EVALUATION)
@with_json
def show(evaluation: str, as_json: bool) -> None:
    """Show an evaluation: its settings, its accuracy and its missing replies."""
    from nanoflux_local.evaluate.items import find_evaluation
    from nanoflux_local.ledger.views import LedgerView

    home = current_home()
    with LedgerView(home.ledger) as view:
        stored_evaluation = find_evaluation(view, evaluation)
        entry = _build_entry(home, view, stored_evaluation)
    settings, result = stored_evaluation.settings, stored_evaluation.result
    if as_json:
        print_json({**asdict(entry), **result, "settings": settings})
        return
    adapter = f" + {entry.adapter[:16]}" if entry.adapter else ""
    sampling = settings.get("sampling", {})
    sampling_texts = [f"{key.replace('_', ' ')} {sampling[key]}" for key in SAMPLING_KEYS if key in sampling]
    accuracy, interval = _accuracy_cells(result.get("strict"))
    soft = result.get("soft")
    print_table(
        ("eval", entry.eval),
        [
            ("model", f"{entry.model}{adapter}"),
            ("data", f"{entry.data} {entry.split}, {_describe_size(settings)}"),
            ("sampling", ", ".join(sampling_texts)),
            ("status", f"{entry.status} {entry.message}".strip()),
            ("strict", accuracy),
            ("95% interval", interval),
            *([("soft", f"{soft['mean']:.1%}, judged by {soft['judge']}")] if soft else []),
            ("strict by run", ", ".join(f"{share:.1%}" for share in result.get("by_run", ())) or "–"),
            ("unanswered", result.get("unanswered", "–")),
            ("unscored", result.get("unscored", "–")),
        ],
    )
    say(f"list its items with `nanoflux eval items {entry.eval}`")


@click.command()
@click.argument("evaluation", type=EVALUATION)
@click.option(
    "--flips", "other", default="", metavar="EVAL", help="List only the items that flip between EVALUATION and EVAL."
)
@click.option("--item", default="", help="Show one item in full: question, expected answer and all replies.")
@with_json
def items(evaluation: str, other: str, item: str, as_json: bool) -> None:
    """List the items of EVALUATION with the share of right replies.

    With --flips: list the items whose share differs between EVALUATION and EVAL, lost ones first. The base is the
    evaluation without an adapter; if both or neither have one, it is EVALUATION.
    """
    from nanoflux_local.evaluate.items import find_evaluation, order_base_first
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(current_home().ledger) as view:
        named_ids = [find_evaluation(view, prefix).id for prefix in ([evaluation, other] if other else [evaluation])]
        evaluation_ids = order_base_first(view, named_ids)
        if item:
            _show_item(view, evaluation_ids, item, as_json)
        elif other:
            base_id, other_id = evaluation_ids
            _show_all_flips(view, base_id, other_id, as_json)
        else:
            _show_items(view, evaluation_ids[0], as_json)


def _show_items(view: "LedgerView", evaluation: str, as_json: bool) -> None:
    from nanoflux_local.evaluate.items import list_items, load_questions

    scores = list_items(view, evaluation)
    questions = load_questions(view, evaluation)
    if as_json:
        print_json({"eval": evaluation, "items": [asdict(score) for score in scores]})
        return
    if not scores:
        raise NothingMatchedError(f"evaluation {evaluation} has no replies yet", "run the same `nanoflux eval` again")
    print_table(
        ("item", "right", "answers", "question"),
        [
            [score.item, f"{score.right}/{score.scored}", ", ".join(map(repr, score.readings)),
             _shorten_question(questions, score.item)]
            for score in scores
        ],
    )  # fmt: skip


def _shorten_question(questions: "Mapping[str, Seed]", item: str) -> str:
    """The beginning of an item's question on one line; "" if the question is not in the ledger."""
    text = " ".join(questions[item].question.split()) if item in questions else ""
    return text if len(text) <= MAX_QUESTION_CHARS else f"{text[:MAX_QUESTION_CHARS]}…"


def _show_all_flips(view: "LedgerView", base: str, other: str, as_json: bool) -> None:
    """Print all items that flip between two evaluations; `--json` includes their questions and replies."""
    from nanoflux_local.evaluate.items import list_flips, load_item, load_questions

    flips = list_flips(view, base, other)
    questions = load_questions(view, base)
    if as_json:
        entries = []
        for flip in flips:
            base_record = load_item(view, base, flip.item, questions)
            other_record = load_item(view, other, flip.item, questions)
            entries.append({
                "item": flip.item, "base": flip.base, "other": flip.other, "gained": flip.is_gained,
                "question": base_record.question, "answer": base_record.answer,
                "replies": {"base": _replies_to_json(base_record), "other": _replies_to_json(other_record)},
            })  # fmt: skip
        print_json({"base": base, "other": other, "flips": entries})
        return
    if not flips:
        say(f"no item flips between {base} (base) and {other}")
        return
    show_flips(flips, base, other, questions)
    say(f"show an item in full with `nanoflux eval items {base} --flips {other} --item ITEM`")


def show_flips(flips: "Sequence[Flip]", base: str, other: str, questions: "Mapping[str, Seed]", limit: int = 0) -> None:
    """Print at most `limit` flipped items (0: all) as a table, and the rule that defines a flip."""
    from nanoflux_local.evaluate.items import FLIP_RULE

    gained = sum(flip.is_gained for flip in flips)
    listed_flips = flips[:limit] if limit else flips
    click.echo(f"{other} against {base} (base): {gained} gained, {len(flips) - gained} lost")
    print_table(
        ("flip", "item", "base", "compared", "question"),
        [
            ["gained" if flip.is_gained else "lost", flip.item, f"{flip.base:.0%}", f"{flip.other:.0%}",
             _shorten_question(questions, flip.item)]
            for flip in listed_flips
        ],
    )  # fmt: skip
    if len(listed_flips) < len(flips):
        click.echo(f"… and {len(flips) - len(listed_flips)} more: nanoflux eval items {base} --flips {other}")
    say(FLIP_RULE)


def _show_item(view: "LedgerView", evaluations: list[str], item: str, as_json: bool) -> None:
    from nanoflux_local.evaluate.items import load_item

    records = {evaluation: load_item(view, evaluation, item) for evaluation in evaluations}
    first_record = records[evaluations[0]]
    if as_json:
        replies = {evaluation: _replies_to_json(record) for evaluation, record in records.items()}
        print_json({"item": item, "question": first_record.question, "answer": first_record.answer, "replies": replies})
        return
    click.echo(sanitize(f"[{item}] {first_record.question}\n\nExpected: {first_record.answer}"))
    for evaluation, record in records.items():
        for reply in record.replies:
            soft = f", {reply.soft} by the judge" if reply.soft else ""
            answer = f", answer {reply.reading}" if reply.reading else ""
            click.echo(sanitize(f"\nEvaluation {evaluation}, run {reply.repeat + 1}: {reply.mark}{soft}{answer}"))
            click.echo(sanitize(reply.text))


def _replies_to_json(record: "ItemRecord") -> list[dict[str, Any]]:
    return [
        {
            "run": reply.repeat,
            "mark": reply.mark,
            "soft": reply.soft or None,
            "reading": reply.reading,
            "reply": reply.text,
        }
        for reply in record.replies
    ]
