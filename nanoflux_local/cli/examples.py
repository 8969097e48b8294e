"""`nanoflux examples`: the kept examples of a run."""

import json

import click

from nanoflux_local.cli.common import home, plain, print_json, print_table, with_json
from nanoflux_local.errors import NothingMatchedError


@click.group(name="examples")
def command() -> None:
    """The kept examples of a run."""


@command.command("list")
@click.argument("run")
@with_json
def list_examples(run: str, as_json: bool) -> None:
    """All examples of RUN, in turn order."""
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(home().ledger) as view:
        found = [dict(row) for row in view.rows(
            "SELECT id, turn, reason, question, answer FROM examples WHERE run = ? ORDER BY turn",
            view.find_run(run)["id"],
        )]  # fmt: skip
    if as_json:
        print_json(found)
        return
    if not found:
        raise NothingMatchedError(f"run {run} has kept no examples", f"see `nanoflux run show {run}`")
    print_table(
        ("id", "turn", "reason", "answer", "question"),
        [
            [row["id"], row["turn"], row["reason"], row["answer"], row["question"][:60].replace("\n", " ")]
            for row in found
        ],
    )


@command.command()
@click.argument("example")
@with_json
def show(example: str, as_json: bool) -> None:
    """One example, with the turn that made it: seeds, attack, defence, verdicts."""
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(home().ledger) as view:
        row = view.row(
            "SELECT examples.id, examples.run, turns.record FROM examples JOIN turns"
            " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.id = ?",
            example,
        )
    if row is None:
        raise NothingMatchedError(f"there is no example {example!r}", "see `nanoflux examples list RUN`")
    record = json.loads(row["record"])
    if as_json:
        print_json({"id": row["id"], "run": row["run"], "turn": record})
        return
    last = record["attempts"][-1]
    click.echo(f"example {row['id']} of run {row['run']}, turn {record['number']}: {last['outcome']}")
    click.echo(plain(f"seeds: {', '.join(last['seeds'])}"))
    for title, text in (
        ("Question", last["attack"]["question"]),
        (f"Solution by {record['attacker']}", last["attack"]["solution"]),
        ("Answer", last["attack"]["answer"]),
        (f"Reply of {record['defender']}", f"{last['defence']['solution']}\n= {last['defence']['answer']}"),
        (f"Verdict of {record['judge']}", last["evaluation"]["explanation"]),
    ):
        click.echo(f"\n{title}:\n{plain(text)}")
