"""`nanoflux examples`: the kept examples of a run, and people's word on them and on what the judge rejected."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import home, plain, print_json, print_table, say, with_json
from nanoflux_local.errors import NothingMatchedError

if TYPE_CHECKING:
    from nanoflux_local.transcript import Exhibit

WORDS = ("keep", "drop", "fix", "open")
"""As `review` has them; help loads no records."""
SHOWN_TEXT = 60
"""Characters of a call's outcome in its line."""


@click.group(name="examples")
def command() -> None:
    """The kept examples of a run, and what people say of them."""


@command.command("list")
@click.argument("run")
@with_json
def list_examples(run: str, as_json: bool) -> None:
    """All examples of RUN, in turn order, with the level of their reasoning and people's words."""
    from nanoflux_local.examples.review import reviews_of
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(home().ledger) as view:
        name = view.find_run(run)["id"]
        found = [dict(row) for row in view.rows(
            "SELECT examples.id, turn, reason, question, answer, level, attempts FROM examples JOIN turns"
            " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.run = ? ORDER BY turn", name
        )]  # fmt: skip
        reviews = reviews_of(view, name)
    for row in found:
        last = len(row.pop("attempts").split()) - 1
        row["reviews"] = {who: word["verdict"] for who, word in reviews.get((row["turn"], last), {}).items()}
    if as_json:
        print_json(found)
        return
    if not found:
        raise NothingMatchedError(f"run {run} has kept no examples", f"see `nanoflux run show {run}`")
    print_table(
        ("id", "turn", "reason", "level", "review", "answer", "question"),
        [
            [row["id"], row["turn"], row["reason"], f"L{row['level']}" if row["level"] else "",
             " ".join(dict.fromkeys(row["reviews"].values())), row["answer"], row["question"][:60].replace("\n", " ")]
            for row in found
        ],
    )  # fmt: skip


@command.command()
@click.argument("example")
@with_json
def show(example: str, as_json: bool) -> None:
    """One example with the turn that made it: seeds, attack, defence, verdicts, checks, ratings, people's words; the
    calls behind it, the trainings that learned from it, the held-out items nearest to it. `--json` has every prompt,
    reply and program whole.
    """
    from nanoflux_local.examples.lineage import lineage
    from nanoflux_local.examples.review import reviews_of
    from nanoflux_local.ledger.views import LedgerView

    here = home()
    with LedgerView(here.ledger) as view:
        row = view.row(
            "SELECT examples.id, examples.run, examples.level, turns.record FROM examples JOIN turns"
            " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.id = ?",
            example,
        )
        if row is None:
            raise NothingMatchedError(f"there is no example {example!r}", "see `nanoflux examples list RUN`")
        record = json.loads(row["record"])
        place = (record["number"], record["attempts"][-1]["number"])
        reviews = reviews_of(view, row["run"]).get(place, {})
        found = lineage(here, view, example)
    if as_json:
        told = {"id": row["id"], "run": row["run"], "level": row["level"], "reviews": reviews}
        print_json({**told, "turn": record, "lineage": found})
        return
    last = record["attempts"][-1]
    click.echo(f"example {row['id']} of run {row['run']}, turn {record['number']}: {last['outcome']}")
    click.echo(plain(f"seeds: {', '.join(last['seeds'])}"))
    for title, text in (
        ("Question", last["attack"]["question"]),
        (f"Solution by {record['attacker']}", last["attack"]["solution"]),
        ("Answer", last["attack"]["answer"]),
        (f"Validation by {record['judge']}", _told_validation(last["validation"])),
        (f"Reply of {record['defender']}", f"{last['defence']['solution']}\n= {last['defence']['answer']}"),
        (f"Verdict of {record['judge']}", last["evaluation"]["explanation"]),
        ("Reasoning", _told_quality(last)),
        ("Reviews", "\n".join(f"{name}: {word['verdict']} {word['note']}".strip() for name, word in reviews.items())),
    ):
        if text:
            click.echo(f"\n{title}:\n{plain(text)}")
    _show_lineage(found)


def _show_lineage(found: dict[str, Any]) -> None:
    """The calls in order, then where the example went and what it came near."""
    click.echo("\nCalls that it rests on (--json has them whole):")
    print_table(
        ("call", "role", "kind", "model", "came back"),
        [
            [call["call"], call["role"], call["kind"], call["model"], _came_back(call)[:SHOWN_TEXT]]
            for call in found["calls"]
        ],
    )
    for training in found["trainings"]:
        click.echo(
            f"trained on by {training['id']} ({training['status']}), adapter {training['adapter'][:16] or 'none'}"
        )
    for item in found["near"]:
        click.echo(
            plain(f"near held-out item {item['item']} of {item['dataset']}: similarity {item['similarity']:.3f}")
        )


def _came_back(call: dict[str, Any]) -> str:
    """A call's outcome in a line."""
    if "status" in call:
        return f"{call['status']}: {call['stdout']}"
    return str(call.get("reason") or call.get("reply", call.get("text", "damaged on disk")))


def _told_validation(verdict: dict[str, Any]) -> str:
    """The judge's reason, the findings of the checks with their evidence, and how a panel voted."""
    from nanoflux_local.transcript import verdict_from_json

    validation = verdict_from_json(**verdict)
    lines = [validation.explanation]
    for finding in validation.findings:
        lines.append(f"{finding.check.capitalize()} check: {finding.conclusion}. {finding.reason}".rstrip(". "))
        lines += [_describe_exhibit(exhibit) for exhibit in finding.evidence]
    words = {True: "accepts", False: "rejects", None: "does not judge"}
    lines += [f"  {vote.judge} {words[vote.positive]}: {vote.explanation}" for vote in validation.votes]
    return "\n".join(lines)


def _describe_exhibit(exhibit: "Exhibit") -> str:
    """A program or solution as a block of text; a search or quotation in one line."""
    if exhibit.kind in ("program", "solution"):
        return f"\n{exhibit.text}\n" + (f"= {exhibit.outcome}\n" if exhibit.outcome else "")
    results = "; ".join(f"{result.title} ({result.place})" for result in exhibit.results)
    return f"  {exhibit.text!r}: {results or exhibit.outcome} {exhibit.detail}".rstrip()


def _told_quality(attempt: dict[str, Any]) -> str:
    quality = attempt.get("quality")
    if quality is None:
        return f"not rated: {attempt['unrated']}" if attempt.get("unrated") else ""
    scores = ", ".join(f"{name} {score:g}" for name, score in quality["scores"].items())
    return f"L{quality['level']}, {quality['score']:.2f} ({scores})\n{quality['explanation']}"


@command.command()
@click.argument("example")
@click.option(
    "--verdict",
    required=True,
    type=click.Choice(WORDS),
    help="Keep it, drop it, or keep it once mended; open takes your word back.",
)
@click.option("--note", default="", help="Why, in your words.")
@click.option("--reviewer", default="", help="Your name [default: the account's].")
@with_json
def review(example: str, verdict: Any, note: str, reviewer: str, as_json: bool) -> None:
    """Write your word on an example down. Nothing is overwritten; your newest word counts."""
    from nanoflux_local.examples.review import review as add_review

    found = add_review(home(), example, verdict, note, reviewer)
    if as_json:
        print_json(found)
    else:
        say(f"{found['reviewer']} on example {found['example']}: {verdict}")


@command.command("export-review")
@click.argument("run")
@click.option("--out", "-o", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@click.option("--size", type=click.IntRange(1), default=None, help="This many questions [default: all].")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws and shuffles them.")
@with_json
def export_review(run: str, out: Path, size: int | None, seed: int, as_json: bool) -> None:
    """Questions of RUN to be judged by a person who does not see the judge's word: a JSON object a line.

    Fill in `verdict` (keep, drop, fix) and, if you like, `note`; then `nanoflux examples import-review FILE`.
    """
    from nanoflux_local.examples.review import export_blind

    found = export_blind(home(), run, out, size or 0, seed)
    if as_json:
        print_json(found)
    else:
        say(f"{found['questions']} questions of run {found['run']} in {out}, accepted ones and rejected ones mixed")


@command.command("import-review")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--reviewer", default="", help="Who filled it in [default: the account's name].")
@with_json
def import_review(file: Path, reviewer: str, as_json: bool) -> None:
    """Take a filled-in file back, and tell how far the judge and the person agree."""
    from nanoflux_local.examples.review import agreement, import_blind
    from nanoflux_local.ledger.views import LedgerView

    found = import_blind(home(), file, reviewer)
    with LedgerView(home().ledger) as view:
        found["agreement"] = {run: agreement(view, run) for run in found["runs"]}
    if as_json:
        print_json(found)
        return
    say(f"{found['taken']} words of {found['reviewer']} taken, {found['open']} left open")
    for run, told in found["agreement"].items():
        say(f"run {run}: {told_agreement(told['reviewers'][found['reviewer']])}")


def told_agreement(told: dict[str, Any]) -> str:
    """A person and the judge in words."""
    line = f"the judge agrees on {told['agree']} of {told['reviewed']}"
    if told["kappa"] is None:
        return f"{line}; kappa is not defined, since one of the two says the same of all"
    return f"{line}, Cohen's kappa {told['kappa']:.2f} ({told['ci95'][0]:.2f} to {told['ci95'][1]:.2f})"
