"""Human reviews: blind export, import, and agreement with the judge."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.errors import DataError, NothingMatchedError, UsageError
from nanoflux_local.examples import review
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.transcript import Attack, Attempt, Defence, TurnRecord, Verdict

CONFIG = {"domain": "starter-genetics", "target": 5, "max_turns": 9, "seed": 0, "judge": {}}
TURNS = 12


def make_turn(number: int) -> TurnRecord:
    """A kept turn; in every third turn, an earlier question was rejected."""

    def make_attempt(position: int, accepted: bool) -> Attempt:
        attack = Attack(f"Question {number}.{position}", "a solution", "4")
        validation = Verdict(accepted, 0.95, "SECRET REASON")
        if not accepted:
            return Attempt(position, ("s",), "invalid", attack=attack, validation=validation)
        evaluation = Verdict(False, 0.95, "it fails")
        return Attempt(position, ("s",), "kept_failed", "", attack, None, validation, Defence("d", "5"), evaluation)

    attempts = [make_attempt(0, True)] if number % 3 else [make_attempt(0, False), make_attempt(1, True)]
    return TurnRecord(number, "one", "other", "judge", tuple(attempts))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home").prepare()
    with Ledger(home.ledger) as ledger:
        ledger.create_run("run", "a name", CONFIG, {"identities": {}})
        for number in range(TURNS):
            ledger.commit_turn("run", make_turn(number), [])
    return home


def export(home: Home, **options: Any) -> list[dict[str, Any]]:
    out = home.root / f"blind-{len(list(home.root.iterdir()))}.jsonl"
    review.export_blind(home, "run", out, **options)
    return [json.loads(line) for line in out.read_text().splitlines()]


def write_verdicts(home: Home, rows: list[dict[str, Any]], verdict: Callable[[dict[str, Any]], str]) -> Path:
    path = home.root / "filled.jsonl"
    path.write_text("\n".join(json.dumps({**row, "verdict": verdict(row)}) for row in rows))
    return path


def was_rejected(row: dict[str, Any]) -> bool:
    number, position = row["question"].removeprefix("Question ").split(".")
    return int(number) % 3 == 0 and position == "0"


def read_agreement(home: Home, reviewer: str) -> dict[str, Any]:
    with LedgerView(home.ledger) as view:
        agreement = review.summarize_agreement(view, "run")
    assert agreement is not None
    return asdict(agreement.reviewers[reviewer])


def test_review_export_is_blind_shuffled_and_complete(home: Home) -> None:
    rows = export(home)
    assert len(rows) == TURNS + 4 and sum(map(was_rejected, rows)) == 4
    assert set(rows[0]) == {"id", "question", "solution", "answer", "verdict", "note"}
    assert "SECRET" not in str(rows) and not any(row["verdict"] or row["note"] for row in rows)
    assert [row["id"] for row in rows] != [row["id"] for row in export(home, seed=1)]
    assert len(export(home, size=5)) == 5
    with pytest.raises(NothingMatchedError, match="16 judged questions, but 99 are requested"):
        export(home, size=99)
    existing_file = home.root / "existing.jsonl"
    existing_file.write_text("")
    with pytest.raises(UsageError):
        review.export_blind(home, "run", existing_file)


def test_agreement_separates_a_careful_from_a_random_reviewer(home: Home) -> None:
    rows = export(home)
    agreeing = write_verdicts(home, rows, lambda row: "drop" if was_rejected(row) else "keep")
    assert review.import_blind(home, agreeing, "ada") == review.BlindImport("ada", 16, 0, ["run"])
    ada = read_agreement(home, "ada")
    assert (ada["agree"], ada["reviewed"], ada["kappa"]) == (16, 16, 1)
    review.import_blind(home, write_verdicts(home, rows, lambda _: "keep"), "bo")
    assert read_agreement(home, "bo")["kappa"] == 0 and read_agreement(home, "bo")["agree"] == 12
    verdicts = iter(["fix", "keep"] * 8)
    review.import_blind(home, write_verdicts(home, rows, lambda _: next(verdicts)), "cy")
    low, high = read_agreement(home, "cy")["ci95"]
    assert low < read_agreement(home, "cy")["kappa"] < high and read_agreement(home, "cy")["fix"] == 8


def test_newest_verdict_counts_and_missing_verdicts_are_ignored(home: Home) -> None:
    rows = export(home)
    review.import_blind(home, write_verdicts(home, rows, lambda _: "drop"), "ada")
    second_import = review.import_blind(
        home, write_verdicts(home, rows, lambda row: "" if was_rejected(row) else "keep"), "ada"
    )
    assert (second_import.taken, second_import.open) == (12, 4)
    assert read_agreement(home, "ada")["agree"] == 16


BROKEN = {
    "no JSON": ("{", "line 2: not JSON"),
    "a list": ("[]", "line 2: `id` or `verdict` is missing or invalid"),
    "an unknown verdict": ('{"id": "x", "verdict": "maybe"}', "line 2: `id` or `verdict` is missing or invalid"),
    "an unknown id": ('{"id": "x", "verdict": "keep"}', "line 2: no question with the id 'x'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_review_file_is_named_and_imports_nothing(home: Home, name: str) -> None:
    line, message = BROKEN[name]
    path = write_verdicts(home, export(home, size=1), lambda _: "keep")
    path.write_text(f"{path.read_text()}\n{line}\n")
    with pytest.raises(DataError) as error:
        review.import_blind(home, path)
    assert message in error.value.message
    with LedgerView(home.ledger) as view:
        assert review.summarize_agreement(view, "run") is None


def test_review_is_shown_with_the_example_and_listed(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    from nanoflux_local.cli.main import main

    def run_command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            main(list(arguments))
        return int(exit_info.value.code or 0), *capsys.readouterr()

    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    listed = json.loads(run_command("examples", "list", "run", "--json")[1])
    assert len(listed) == TURNS and listed[3]["reviews"] == {} and listed[3]["level"] is None
    example = listed[3]["id"]  # the example of a turn whose first question was rejected
    code, _, err = run_command(
        "examples", "review", example, "--verdict", "fix", "--note", "a unit lacks", "--reviewer", "ada"
    )
    assert code == 0 and "ada on example" in err
    assert json.loads(run_command("examples", "list", "run", "--json")[1])[3]["reviews"] == {"ada": "fix"}
    assert "fix" in run_command("examples", "list", "run")[1]
    document = json.loads(run_command("examples", "show", example, "--json")[1])
    assert document["reviews"]["ada"]["note"] == "a unit lacks" and document["turn"]["number"] == 3
    text = run_command("examples", "show", example)[1]
    assert "ada: fix a unit lacks" in text and "SECRET REASON" in text
    assert "review by ada" in run_command("run", "show", "run")[1]
    assert run_command("examples", "review", "none", "--verdict", "keep")[0] == 4
    assert run_command("examples", "review", example, "--verdict", "perhaps")[0] == 2
    out = home.root / "r.jsonl"
    assert run_command("examples", "export-review", "run", "-o", str(out), "--size", "6")[0] == 0
    path = write_verdicts(home, [json.loads(line) for line in out.read_text().splitlines()], lambda _: "keep")
    code, out, _ = run_command("examples", "import-review", str(path), "--json", "--reviewer", "bo")
    assert code == 0 and json.loads(out)["agreement"]["run"]["reviewers"]["bo"]["reviewed"] == 6
    assert "kappa" in run_command("examples", "import-review", str(path), "--reviewer", "bo")[2]
