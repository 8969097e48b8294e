"""`nanoflux run attempts / calls / problems / log`: list or print the attempts, calls, problems and log of a run."""

from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, sanitize, say, with_json
from nanoflux_local.cli.names import RUN
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.run.attempts import StoredCall
    from nanoflux_local.transcript import Attempt

OUTCOMES = (
    "unparsed", "novelty_rejected", "contaminated", "invalid", "low_confidence", "defender_right", "unproven",
    "kept_failed", "kept_novel", "failed",
)  # fmt: skip
"""A copy of `transcript.OUTCOMES`, so that `--help` does not import that module."""
MAX_TEXT_CHARS = 60
"""Maximum length of a question or a reason in the table, in characters."""
MAX_TURN = 10**9
"""The largest number of a turn: the upper limit of the setting `max_turns`."""


@click.command()
@click.argument("run", type=RUN)
@click.option("--outcome", "outcomes", type=click.Choice(OUTCOMES), multiple=True,
              help="List only attempts with this outcome; repeatable.")  # fmt: skip
@click.option("--turn", type=click.IntRange(0, MAX_TURN), help="List only the attempts of this turn.")
@with_json
def attempts(run: str, outcomes: tuple[str, ...], turn: int | None, as_json: bool) -> None:
    """List the attempts of RUN, including those that were not kept.

    `--json` includes each attempt's question, replies and verdicts in full.
    """
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.records import to_plain_json as to_json
    from nanoflux_local.run.attempts import list_attempts, load_turns

    with LedgerView(current_home().ledger) as view:
        run = str(view.find_run(run)["id"])
        attempt_keys = list_attempts(view, run, outcomes, turn)
        turns = load_turns(view, run, sorted({turn_number for turn_number, _ in attempt_keys}))
    if as_json:
        print_json([
            {"turn": turn_number, "attempt": attempt_number, **to_json(turns[turn_number].attempts[attempt_number])}
            for turn_number, attempt_number in attempt_keys
        ])  # fmt: skip
        return
    if not attempt_keys and not outcomes and turn is None:
        raise NothingMatchedError(f"run {run} has no attempts yet", f"continue it with `nanoflux run resume {run}`")
    if not attempt_keys:
        raise NothingMatchedError(
            f"no attempt of run {run} matches the options", f"see the outcomes with `nanoflux run show {run}`"
        )
    print_table(
        ("turn", "attempt", "outcome", "reason", "question"),
        [
            [turn_number, attempt_number, *_attempt_cells(turns[turn_number].attempts[attempt_number])]
            for turn_number, attempt_number in attempt_keys
        ],
    )
    say(f"print the replies of a turn with `nanoflux run calls {run} TURN`")


def _attempt_cells(attempt: "Attempt") -> list[str]:
    question = attempt.attack.question if attempt.attack else ""
    return [attempt.outcome.replace("_", " "), _shorten(attempt.reason), _shorten(question)]


def _shorten(text: str) -> str:
    """The beginning of a text, on one line."""
    return " ".join(text.split())[:MAX_TEXT_CHARS]


@click.command()
@click.argument("run", type=RUN)
@click.argument("turn", type=click.IntRange(0, MAX_TURN))
@click.option("--attempt", type=click.IntRange(0), help="Print only the calls of this attempt.")
@with_json
def calls(run: str, turn: int, attempt: int | None, as_json: bool) -> None:
    """Print the calls of one TURN of RUN: every request and reply as stored, without secrets."""
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.attempts import load_calls

    home = current_home()
    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
        turn_calls = load_calls(home, view, row, turn)
        stored_calls = [call for call in turn_calls if attempt is None or call.attempt == attempt]
    if as_json:
        print_json([call.to_json() for call in stored_calls])
        return
    if not stored_calls:
        scope = f"turn {turn}" if attempt is None else f"attempt {attempt} of turn {turn}"
        raise NothingMatchedError(
            f"{scope} of run {row['id']} has no calls", f"see `nanoflux run attempts {row['id']} --turn {turn}`"
        )
    for call in stored_calls:
        _print_call(call)


def _print_call(call: "StoredCall") -> None:
    from nanoflux_local.run.attempts import describe_call

    request, reply = describe_call(call.kind, call.request, call.reply)
    step = f"{call.role} {call.step}".strip()
    completion_tokens = format_quantity(call.completion_tokens, "completion token")
    usage = f"{call.prompt_tokens} prompt + {completion_tokens}, {call.seconds:.1f} s"
    title = f"call {call.id}, attempt {call.attempt}, {step or call.kind}, {call.model}, {usage}"
    click.echo(sanitize(f"=== {title}\n--- request\n{request}\n--- reply\n{reply}\n"))


@click.command()
@click.argument("run", type=RUN)
@with_json
def problems(run: str, as_json: bool) -> None:
    """List the faults (failed requests) and warnings (e.g. unreadable replies) of RUN, each with a fix."""
    from nanoflux_local.jobs import RUN as RUN_KIND
    from nanoflux_local.jobs import Job, load_job_state
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.problems import list_problems

    home = current_home()
    with LedgerView(home.ledger) as view:
        row = dict(view.find_run(run))
        state = load_job_state(home, view, Job(RUN_KIND, row["id"]), row)
        run_problems = list_problems(view, row["id"], state)
    if as_json:
        print_json([problem.to_json() for problem in run_problems])
        return
    for problem in run_problems:
        times = format_quantity(problem.count, "time")
        click.echo(sanitize(f"{problem.severity}: {problem.where}: {problem.message} ({times})\n  → {problem.fix}"))
    if not run_problems:
        say(f"run {row['id']} has no faults and no warnings")


@click.command()
@click.argument("run", type=RUN)
@click.option("--lines", default=200, show_default=True, type=click.IntRange(1), help="Number of lines to print.")
@with_json
def log(run: str, lines: int, as_json: bool) -> None:
    """Print the last lines of the log that the background process of RUN writes, without secrets."""
    from nanoflux_local.jobs import RUN as RUN_KIND
    from nanoflux_local.jobs import Job, read_log
    from nanoflux_local.ledger.views import LedgerView

    home = current_home()
    with LedgerView(home.ledger) as view:
        job = Job(RUN_KIND, view.find_run(run)["id"])
    log_lines = read_log(home, job, lines)
    if as_json:
        print_json({"run": job.id, "log": str(job.log(home)), "lines": log_lines})
        return
    if not log_lines:
        raise NothingMatchedError(
            f"{job} has no log",
            f"run `nanoflux run resume {job.id} --detach`; only a run in the background writes a log",
        )
    click.echo(sanitize("\n".join(log_lines)))
