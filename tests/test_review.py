"""Human reviews of questions: the blind export, the import of verdicts, and the agreement of reviewers and judge."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nanoflux_local.cli.examples import describe_agreement
from nanoflux_local.errors import DataError, NothingMatchedError, UsageError
from nanoflux_local.evaluate.agreement import ReviewerAgreement
from nanoflux_local.examples import review
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.transcript import Attack, Attempt, Defence, TurnRecord, Verdict

CONFIG = {"domain": "starter-genetics", "target": 5, "max_turns": 9, "seed": 0, "judge": {}}
"""The configuration of the reviewed run, reduced to the keys that the tests need."""
TURN_COUNT = 12
REJECTED_COUNT = 4
"""The number of turns with a rejected question: every third turn."""


class CommandResult(NamedTuple):
    """The exit code and the output of a command."""

    exit_code: int
    stdout: str
    stderr: str


def make_turn(number: int) -> TurnRecord:
    """A kept turn. In every third turn, the judge rejected the first question, and the second was kept."""

    def make_attempt(attempt_number: int, accepted: bool) -> Attempt:
        attack = Attack(f"Question {number}.{attempt_number}", "a solution", "4")
        validation = Verdict(accepted, 0.95, "SECRET REASON")
        if not accepted:
            return Attempt(attempt_number, ("s",), "invalid", attack=attack, validation=validation)
        return Attempt(
            attempt_number, ("s",), "kept_failed", attack=attack, validation=validation, defence=Defence("d", "5"),
            evaluation=Verdict(False, 0.95, "it fails"),
        )  # fmt: skip

    if number % 3 == 0:
        attempts = (make_attempt(0, accepted=False), make_attempt(1, accepted=True))
    else:
        attempts = (make_attempt(0, accepted=True),)
    return TurnRecord(number, "one", "other", "judge", attempts)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a run of `TURN_COUNT` turns."""
    home = Home(tmp_path / "home").prepare()
    with Ledger(home.ledger) as ledger:
        ledger.create_run("run", "a name", CONFIG, {"identities": {}})
        for number in range(TURN_COUNT):
            ledger.commit_turn("run", make_turn(number), [])
    return home


def export_rows(home: Home, **options: Any) -> list[dict[str, Any]]:
    """Export the run's questions for a blind review into a new file. Returns the rows of the file."""
    path = home.root / f"blind-{len(list(home.root.iterdir()))}.jsonl"
    review.export_blind(home, "run", path, **options)
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_verdicts(home: Home, rows: list[dict[str, Any]], choose_verdict: Callable[[dict[str, Any]], str]) -> Path:
    """Write the file that a reviewer returns: the exported rows with the verdicts that `choose_verdict` chooses."""
    path = home.root / "reviewed.jsonl"
    lines = [json.dumps({**row, "verdict": choose_verdict(row)}) for row in rows]
    path.write_text("\n".join(lines))
    return path


def was_rejected(row: dict[str, Any]) -> bool:
    """Whether the judge rejected the question of this row (see `make_turn`)."""
    turn_number, attempt_number = row["question"].removeprefix("Question ").split(".")
    return int(turn_number) % 3 == 0 and attempt_number == "0"


def read_agreement(home: Home, reviewer: str) -> dict[str, Any]:
    """The agreement of a reviewer with the judge on the run's questions."""
    with LedgerView(home.ledger) as view:
        agreement = review.summarize_agreement(view, "run")
    assert agreement is not None
    return asdict(agreement.reviewers[reviewer])


def test_review_export_is_blind_shuffled_and_complete(home: Home) -> None:
    rows = export_rows(home)
    assert len(rows) == TURN_COUNT + REJECTED_COUNT
    assert sum(was_rejected(row) for row in rows) == REJECTED_COUNT
    assert set(rows[0]) == {"id", "question", "solution", "answer", "verdict", "note"}
    assert "SECRET" not in str(rows) and not any(row["verdict"] or row["note"] for row in rows)
    assert [row["id"] for row in rows] != [row["id"] for row in export_rows(home, seed=1)]
    assert len(export_rows(home, size=5)) == 5
    with pytest.raises(NothingMatchedError, match="16 judged questions, but 99 are requested"):
        export_rows(home, size=99)
    existing_file = home.root / "existing.jsonl"
    existing_file.write_text("")
    with pytest.raises(UsageError):
        review.export_blind(home, "run", existing_file)


def test_kappa_is_1_for_a_reviewer_who_agrees_and_0_for_one_who_keeps_every_question(home: Home) -> None:
    """One reviewer always agrees with the judge, one keeps every question, and one alternates between two verdicts."""
    rows = export_rows(home)
    agreeing_file = write_verdicts(home, rows, lambda row: "drop" if was_rejected(row) else "keep")
    assert review.import_blind(home, agreeing_file, "agreeing") == review.BlindImport("agreeing", 16, 0, ["run"])
    agreement = read_agreement(home, "agreeing")
    assert (agreement["agree"], agreement["reviewed"], agreement["kappa"]) == (16, 16, 1)
    review.import_blind(home, write_verdicts(home, rows, lambda _: "keep"), "keeping")
    agreement = read_agreement(home, "keeping")
    assert agreement["kappa"] == 0 and agreement["agree"] == TURN_COUNT
    verdicts = iter(["fix", "keep"] * 8)
    review.import_blind(home, write_verdicts(home, rows, lambda _: next(verdicts)), "alternating")
    agreement = read_agreement(home, "alternating")
    low, high = agreement["ci95"]
    assert low < agreement["kappa"] < high and agreement["fix"] == 8


def test_newest_verdict_counts_and_missing_verdicts_are_ignored(home: Home) -> None:
    rows = export_rows(home)
    review.import_blind(home, write_verdicts(home, rows, lambda _: "drop"), "ada")
    partly_filled_file = write_verdicts(home, rows, lambda row: "" if was_rejected(row) else "keep")
    second_import = review.import_blind(home, partly_filled_file, "ada")
    assert (second_import.taken, second_import.open) == (12, 4)
    assert read_agreement(home, "ada")["agree"] == 16


BROKEN_LINES = {
    "no JSON": ("{", "line 2: not JSON"),
    "a list": ("[]", "line 2: `id` or `verdict` is missing or invalid"),
    "an unknown verdict": ('{"id": "x", "verdict": "maybe"}', "line 2: `id` or `verdict` is missing or invalid"),
    "a note that is not a string": ('{"id": "x", "verdict": "keep", "note": 5}', "line 2: `note` is not a string"),
    "an unknown id": ('{"id": "x", "verdict": "keep"}', "line 2: no question with the id 'x'"),
}
"""Second lines of a review file, each with a part of the error message."""


@pytest.mark.parametrize(("line", "message"), BROKEN_LINES.values(), ids=BROKEN_LINES)
def test_error_on_an_invalid_review_line_names_the_line_and_nothing_is_imported(
    home: Home, line: str, message: str
) -> None:
    path = write_verdicts(home, export_rows(home, size=1), lambda _: "keep")
    path.write_text(f"{path.read_text()}\n{line}\n")
    with pytest.raises(DataError) as caught:
        review.import_blind(home, path)
    assert message in caught.value.message
    with LedgerView(home.ledger) as view:
        assert review.summarize_agreement(view, "run") is None


def test_contradictory_verdicts_in_one_review_file_are_refused(home: Home) -> None:
    (row,) = export_rows(home, size=1)
    verdicts = iter(["", "keep", "keep", "drop"])
    path = write_verdicts(home, [row] * 4, lambda _: next(verdicts))
    with pytest.raises(DataError, match=r"line 4: the verdict on '\w+' is 'drop', but it is 'keep' in line 2"):
        review.import_blind(home, path)
    with LedgerView(home.ledger) as view:
        assert review.summarize_agreement(view, "run") is None
    path = write_verdicts(home, [row] * 2, lambda _: "keep")
    review.import_blind(home, path, "ada")
    assert read_agreement(home, "ada")["reviewed"] == 1


def test_agreement_prints_no_negative_zero() -> None:
    agreement = ReviewerAgreement(4, 2, 2, 0, 2, -0.0, (-0.001, 0.5))
    assert "kappa 0.00 (0.00 to 0.50)" in describe_agreement(agreement)


def test_review_commands_store_list_and_show_verdicts(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    from nanoflux_local.cli.main import main

    def run_command(*arguments: str) -> CommandResult:
        with pytest.raises(SystemExit) as exit_info:
            main(list(arguments))
        stdout, stderr = capsys.readouterr()
        return CommandResult(int(exit_info.value.code or 0), stdout, stderr)

    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    examples = json.loads(run_command("examples", "list", "run", "--json").stdout)
    assert len(examples) == TURN_COUNT and examples[3]["reviews"] == {} and examples[3]["level"] is None
    example_id = examples[3]["id"]  # the example of a turn whose first question was rejected
    result = run_command(
        "examples", "review", example_id, "--verdict", "fix", "--note", "a unit is missing", "--reviewer", "ada"
    )
    assert result.exit_code == 0 and "recorded ada's verdict on example" in result.stderr
    examples = json.loads(run_command("examples", "list", "run", "--json").stdout)
    assert examples[3]["reviews"] == {"ada": "fix"}
    assert "fix" in run_command("examples", "list", "run").stdout
    document = json.loads(run_command("examples", "show", example_id, "--json").stdout)
    assert document["reviews"]["ada"]["note"] == "a unit is missing" and document["turn"]["number"] == 3
    text = run_command("examples", "show", example_id).stdout
    assert "ada: fix a unit is missing" in text and "SECRET REASON" in text
    assert "review by ada" in run_command("run", "show", "run").stdout
    assert run_command("examples", "review", "none", "--verdict", "keep").exit_code == 4
    assert run_command("examples", "review", example_id, "--verdict", "perhaps").exit_code == 2
    export_path = home.root / "exported.jsonl"
    result = run_command("examples", "export-review", "run", "-o", str(export_path), "--size", "6")
    assert result.exit_code == 0
    exported_rows = [json.loads(line) for line in export_path.read_text().splitlines()]
    path = write_verdicts(home, exported_rows, lambda _: "keep")
    result = run_command("examples", "import-review", str(path), "--json", "--reviewer", "bo")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["agreement"]["run"]["reviewers"]["bo"]["reviewed"] == 6
    assert "kappa" in run_command("examples", "import-review", str(path), "--reviewer", "bo").stderr
