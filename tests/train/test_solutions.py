"""The right solutions of each example are collected, a rule chooses one of them, and examples without a right solution
are left out.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nanoflux_local.adapters.store import read_adapter
from nanoflux_local.cli.main import nanoflux
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Message, digest
from nanoflux_local.run import configs
from nanoflux_local.train import trainings
from nanoflux_local.train.choice import Choice
from nanoflux_local.train.data import Codec, TrainingExample
from nanoflux_local.train.run_rows import load_run_rows
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.solutions import collect_right_solutions, list_candidates, list_wrong_defences
from nanoflux_local.transcript import Attack, Attempt, Defence, Exhibit, Finding, Sample, TurnRecord, Verdict
from nanoflux_models.weights import import_path

RIGHT_VERDICT, WRONG_VERDICT = Verdict(True, 0.95, "it is right"), Verdict(False, 0.95, "it is wrong")
ATTACK = Attack("What is 2 + 2?", "Two and two make four.", "4")


def make_blind_verdict(*evidence: Exhibit) -> Verdict:
    """A verdict with a finding of the blind check."""
    return Verdict(True, 0.95, "valid", findings=(Finding("blind", "supports", "", evidence),))


def make_turn(number: int, attempt: Attempt) -> TurnRecord:
    return TurnRecord(number, "attacker", "defender", "judge", (attempt,))


SOLVED_BY_ALL = Attempt(
    0, ("s",), "kept_failed", "", ATTACK, None,
    make_blind_verdict(
        Exhibit("solution", "First 2 and then 2 more gives 4.", "4.0", author="solver-a", agrees=True),
        Exhibit("program", "print(2 + 2)", "4", author="solver-a", agrees=True),
        Exhibit("solution", "It is five.", "5", author="solver-b", agrees=False),
        Exhibit("solution", "Two  and two\nmake four.", "4", author="solver-b", agrees=True),
        Exhibit("solution", "First 2 and then 2 more gives 4.", "4", author="solver-b", agrees=True),
    ),
    Defence("It must be 5.", "5"), WRONG_VERDICT,
    samples=(
        Sample(Defence("2+2=4", "4"), True), Sample(Defence("Perhaps 6.", "6"), False), Sample(None, None),
        Sample(Defence("2 + 2 = 4, because", "4", cut=("SOLUTION",)), True),
    ),
)  # fmt: skip
"""An attempt with right solutions by the author, by two blind solvers and by the defender, and with wrong, truncated
and repeated solutions.
"""
SOLVED_BY_AUTHOR_ONLY = Attempt(
    0, ("s",), "kept_failed", "", ATTACK, None, RIGHT_VERDICT, Defence("No idea: 7.", "7"), WRONG_VERDICT
)
OTHER_ATTACK = Attack("How many are 2 and 2?", ATTACK.solution, "4")
SOLVED_BY_AUTHOR_AND_DEFENDER = Attempt(
    0, ("s",), "kept_novel", "", OTHER_ATTACK, None, RIGHT_VERDICT, Defence("Count on fingers: 4.", "4"), RIGHT_VERDICT
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a run of three kept examples, in turns 0 to 2. The first has right solutions by the author, the
    solvers and the defender; the second by the author only; the third by the author and the defender.
    """
    home = Home(tmp_path / "home").prepare()
    config = configs.resolve("starter", "scripted", {"target": 3, "max_turns": 3}, home)
    with Ledger(home.ledger) as ledger:
        ledger.create_run("run", "a name", config.model_dump(mode="json"), {"identities": {}, "versions": {}})
        attempts = (SOLVED_BY_ALL, SOLVED_BY_AUTHOR_ONLY, SOLVED_BY_AUTHOR_AND_DEFENDER)
        for number, attempt in enumerate(attempts):
            ledger.commit_turn("run", make_turn(number, attempt), [])
    return home


def load_chosen_solutions(home: Home, base: str = "", **choice: Any) -> dict[int, str]:
    """The chosen solution of each chosen example, by turn. `choice` has the fields of a `Choice`."""
    run_rows = load_run_rows(home, "run", Choice(**choice), base).rows
    return {row.columns["turn"]: row.columns["solution"] for row in run_rows}


def test_right_solutions_are_those_of_author_solvers_and_defender() -> None:
    solutions = collect_right_solutions(SOLVED_BY_ALL, "attacker", "defender")
    assert [(solution.origin, solution.author, solution.answer) for solution in solutions] == [
        ("author", "attacker", "4"), ("solver", "solver-a", "4.0"), ("solver", "solver-b", "4"),
        ("own", "defender", "4"),
    ], "programs, wrong or truncated solutions and repetitions must be left out"  # fmt: skip
    candidates = list_candidates(solutions, "likeliest")
    assert [solution.author for solution in candidates] == ["attacker", "solver-a", "defender"], (
        "the solution of solver-b must be left out, because it repeats the author's words"
    )
    assert [solution.origin for solution in collect_right_solutions(SOLVED_BY_AUTHOR_AND_DEFENDER)] == ["author", "own"]


def test_solver_solution_without_a_heading_is_recorded_without_its_answer() -> None:
    verdict = make_blind_verdict(
        Exhibit("solution", "2 plus 2 is 4.\n\n**ANSWER:** 4", "4", author="solver", agrees=True),
        Exhibit("solution", "ANSWER: 4", "4", author="solver", agrees=True),
    )
    solutions = collect_right_solutions(replace(SOLVED_BY_ALL, validation=verdict, samples=()))
    assert [solution.text for solution in solutions if solution.origin == "solver"] == ["2 plus 2 is 4."], (
        "a solution that is only an answer must be left out"
    )


def test_answers_with_the_passages_are_right_solutions() -> None:
    finding = Finding("open_book", "supports", "", (Exhibit("solution", "By rule 3.", "4", agrees=True),))
    attempt = replace(SOLVED_BY_ALL, validation=Verdict(True, 0.95, "valid", findings=(finding,)), samples=())
    assert [solution.text for solution in collect_right_solutions(attempt)][1:] == ["By rule 3."]


def test_defence_with_the_right_answer_is_not_a_wrong_defence() -> None:
    defence = Defence("The steps that the judge did not accept.", "4.0")
    assert list_wrong_defences(replace(SOLVED_BY_ALL, defence=defence)) == (Defence("Perhaps 6.", "6"),)


def test_list_wrong_defences_lists_those_judged_wrong() -> None:
    assert [defence.answer for defence in list_wrong_defences(SOLVED_BY_ALL)] == ["5", "6"]
    assert list_wrong_defences(SOLVED_BY_AUTHOR_AND_DEFENDER) == ()


def test_solution_rule_chooses_the_completion(home: Home) -> None:
    author_solution = "Two and two make four."
    assert load_chosen_solutions(home) == {0: author_solution, 1: author_solution, 2: author_solution}
    assert load_chosen_solutions(home, solution="solver") == {0: "First 2 and then 2 more gives 4."}
    assert load_chosen_solutions(home, solution="own") == {0: "2+2=4", 2: "Count on fingers: 4."}
    assert load_chosen_solutions(home, solution="shortest") == {
        0: "2+2=4",
        1: author_solution,
        2: "Count on fingers: 4.",
    }


def test_examples_without_the_chosen_solution_are_left_out_and_counted(home: Home) -> None:
    run_rows = load_run_rows(home, "run", Choice(solution="own"))
    assert run_rows.record["solution"] == {"rule": "own", "without": 1, "origins": {"own": 2}}
    assert (run_rows.record["matched"], run_rows.record["rows"]) == (2, 2)
    assert load_chosen_solutions(home, solution="own", size=2).keys() == {0, 2}, (
        "examples must be drawn from those that have a solution by the defender"
    )
    with pytest.raises(NothingMatchedError, match="has a solver solution"):
        load_chosen_solutions(home, solution="solver", where="turn > 0")


def test_record_of_the_default_choice_has_the_keys_of_earlier_versions(home: Home) -> None:
    record = load_run_rows(home, "run", Choice()).record
    assert list(record) == ["query", "values", "matched", "size", "seed", "rows", "ids_digest"]
    with LedgerView(home.ledger) as view:
        example_ids = [row["id"] for row in view.rows("SELECT id FROM examples ORDER BY turn")]
    assert record["ids_digest"] == digest(example_ids)


def test_dropped_examples_are_left_out_unless_included(home: Home) -> None:
    with Ledger(home.ledger) as ledger:
        ledger.add_reviews("run", [(0, 0, "drop", ""), (1, 0, "drop", "")], "ada", blind=False)
        ledger.add_reviews("run", [(1, 0, "keep", "")], "ada", blind=False)
        ledger.add_reviews("run", [(2, 7, "drop", "another attempt")], "bo", blind=True)
    assert load_chosen_solutions(home).keys() == {1, 2}, (
        "only a reviewer's newest review of the kept attempt must count"
    )
    data = trainings.load_run_data(home, "run")
    assert data.source["dropped"] == {"included": False, "rows": 1}
    assert load_chosen_solutions(home, include_dropped=True).keys() == {0, 1, 2}
    with pytest.raises(NothingMatchedError, match="dropped the only matching example"):
        load_chosen_solutions(home, where="turn = 0")


def test_reviewing_an_example_as_fix_keeps_the_training_run_id(home: Home, tiny_base: Path) -> None:
    import_path(tiny_base, "tiny", home.root)

    def create_training() -> str:
        data, settings = trainings.load_run_data(home, "run"), TrainSettings()
        return trainings.create_training(home, "tiny", settings, data)

    training = create_training()
    with Ledger(home.ledger) as ledger:
        ledger.add_reviews("run", [(0, 0, "fix", "")], "ada", blind=False)
    assert trainings.load_run_data(home, "run").source["fix"] == {"rows": 1}
    assert create_training() == training, "the same command must resume the training run"


def test_likeliest_solution_has_the_highest_mean_log_probability(home: Home, tiny_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with pytest.raises(UsageError, match="under a model"):
        load_chosen_solutions(home, solution="likeliest")
    import_path(tiny_base, "tiny", home.root)
    run_rows = load_run_rows(home, "run", Choice(solution="likeliest"), "tiny")
    assert run_rows.record["solution"]["model"] == "tiny" and run_rows.record["solution"]["without"] == 0
    with LedgerView(home.ledger) as view:
        calls = [
            (json.loads(row["request"]), json.loads(row["reply"]))
            for row in view.rows("SELECT request, reply FROM calls WHERE kind = 'score' ORDER BY id")
        ]
    assert len(calls) == 5, (
        "the first example has three candidates and the third has two; a single candidate needs no score"
    )
    model, codec = AutoModelForCausalLM.from_pretrained(tiny_base), Codec.load(tiny_base)
    for request, reply in calls:
        prompt = tuple(Message(**message) for message in request["messages"])
        row = codec.encode(TrainingExample(prompt, request["completion"]), 0)
        with torch.no_grad():
            log_probabilities = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        scores = [
            float(log_probabilities[position - 1, row.ids[position]])
            for position in range(row.prompt_length, len(row.ids))
        ]
        assert reply["mean_log_probability"] == pytest.approx(sum(scores) / len(scores), abs=2e-4)
    for calls_of_example, example in ((calls[:3], run_rows.examples[0]), (calls[3:], run_rows.examples[2])):
        best_request, _ = max(calls_of_example, key=lambda call: call[1]["mean_log_probability"])
        assert example.completion == best_request["completion"]


def test_likelihood_scores_are_reused(home: Home, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's weights are deleted before the second choice, so that it cannot compute scores."""
    folder = import_path(tiny_base, "tiny", home.root)
    first_solutions = load_chosen_solutions(home, "tiny", solution="likeliest")
    (folder / "model.safetensors").unlink()
    assert load_chosen_solutions(home, "tiny", solution="likeliest") == first_solutions


def test_origin_of_the_rows_is_shown_before_and_after_training(home: Home, tiny_base: Path) -> None:
    """The audit, `trainings show` and the adapter's card show the solution rule, the examples left out, the mixed-in
    rows, and the examples that a reviewer marked `fix`.
    """
    import_path(tiny_base, "tiny", home.root)
    arguments = ["train", "run", "--base", "tiny", "--solution", "own", "--mix", "starter=1.5"]
    settings = ["--set", "epochs=1", "--set", "max_length=2048", "--set", "threads=1"]
    with Ledger(home.ledger) as ledger:
        ledger.add_reviews("run", [(2, 0, "fix", "")], "ada", blind=False)
    audit = run_cli(home, *arguments, "--dry-run")
    outcome = json.loads(run_cli(home, *arguments, *settings, "--json"))
    state = run_cli(home, "trainings", "show", outcome["training"])
    (card,) = home.adapters.glob("*/README.md")
    for text in (audit, state, card.read_text("utf-8")):
        assert "own: 2 own" in text and "1 of 3 without a right solution by the defender" in text, text
        assert "1 that a reviewer marked `fix`: correct or drop it" in text
        assert "3 of " in text and "train rows of starter, digest " in text
    assert outcome["examples"] == 5
    assert ", 1 epoch, learning rate" in run_cli(home, "adapters", "show", card.parent.name)
    source = read_adapter(card.parent).manifest["source"]
    assert source["solution"] == {"rule": "own", "without": 1, "origins": {"own": 2}}
    assert [(mix["dataset"], mix["rows"]) for mix in source["mix"]] == [("starter", 3)]


def run_cli(home: Home, *arguments: str) -> str:
    """Run a command in `home` and return its standard output."""
    result = CliRunner().invoke(nanoflux, ["--home", str(home.root), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_options_for_runs_are_refused_if_the_rows_come_from_a_file(home: Home) -> None:
    file = home.root / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(UsageError, match="--solution"):
        trainings.load_file_data(home, file, Choice(solution="own"))
    result = CliRunner().invoke(nanoflux, ["--home", str(home.root), "train", "--data", str(file), "--mix", "starter"])
    assert isinstance(result.exception, UsageError) and "--mix needs a run" in result.exception.message
