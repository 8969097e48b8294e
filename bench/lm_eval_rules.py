"""Compares our strict scorer with lm-evaluation-harness's GSM8K rules, on the same replies.

    python bench/lm_eval_rules.py export EVAL > replies.jsonl         # the replies and our marks of an evaluation
    python bench/lm_eval_rules.py score replies.jsonl                 # compare our marks with those of lm_eval
    python bench/lm_eval_rules.py record tests/evaluate/lm_eval.json  # update lm_eval's readings in the tests' table

`score` and `record` need lm_eval installed; they use its filter and metric, with the settings of its gsm8k.yaml.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

FILTERS: dict[str, tuple[str, int]] = {
    "strict-match": (r"#### (\-?[0-9\.\,]+)", 0),
    "flexible-extract": (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
}
IGNORED_PATTERNS = [",", r"\$", r"(?s).*#### ", r"\.$"]


def export(evaluation: str) -> None:
    """Print one line for each reply: item, reply, the item's answer, and our reading and mark."""
    from nanoflux_local.ledger.packing import CALLS
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.paths import Home, default_home
    from nanoflux_local.seeds.datasets import load_items

    home = Home(default_home())
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT data, split FROM evaluations WHERE id = ?", evaluation)
        assert row is not None, evaluation
        answers = {item.id: item.answer for item in load_items(home.ledger, row["data"], row["split"])}
        for row in view.rows(
            f"SELECT item, repeat, reading, verdict, reply FROM evaluation_items"
            f" JOIN {CALLS} AS whole ON whole.id = call WHERE evaluation = ? ORDER BY item, repeat",
            evaluation,
        ):
            line = {key: row[key] for key in ("item", "repeat", "reading", "verdict")}
            print(json.dumps({**line, "reply": json.loads(row["reply"])["text"], "answer": answers[row["item"]]}))


def read_answers(reply: str) -> dict[str, str]:
    """The answers that lm_eval's two filters extract from a reply."""
    from lm_eval.filters.extraction import RegexFilter

    return {name: RegexFilter(*rule).apply([[reply]], [{}])[0][0] for name, rule in FILTERS.items()}


def is_right(reading: str, answer: str) -> bool:
    from lm_eval.api.metrics import exact_match_hf_evaluate

    metric = exact_match_hf_evaluate(
        [reading], [f"#### {answer}"], regexes_to_ignore=IGNORED_PATTERNS, ignore_case=True
    )
    return bool(metric["exact_match"] == 1.0)


def score(path: Path) -> None:
    """Print how often the scorers agree, and every reply on which our mark and that of the flexible filter differ."""
    table: Counter[tuple[str, bool, bool]] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        lm_eval_readings = read_answers(row["reply"])
        strict, flexible = (is_right(lm_eval_readings[name], row["answer"]) for name in FILTERS)
        table[row["verdict"], strict, flexible] += 1
        if (row["verdict"] == "right") != flexible:
            line_values = {key: row[key] for key in ("item", "answer", "reading", "verdict")}
            line_values |= {"lm_eval": lm_eval_readings, "end": row["reply"][-160:]}
            print(json.dumps(line_values, ensure_ascii=False))
    for (verdict, strict, flexible), count in sorted(table.items()):
        print(f"{count:5}  ours {verdict:10}  strict-match {strict!s:5}  flexible-extract {flexible}", file=sys.stderr)


def record(path: Path) -> None:
    """Write lm_eval's readings and marks into the table that the tests use."""
    from importlib.metadata import version

    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    table["lm_eval"] = version("lm_eval")
    for row in table["replies"]:
        for name, reading in read_answers(row["reply"]).items():
            row[name] = [reading, is_right(reading, row["answer"])]
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["export", "score", "record"])
    parser.add_argument("source", help="an evaluation's id, or a file")
    arguments = parser.parse_args()
    if arguments.action == "export":
        export(arguments.source)
    elif arguments.action == "score":
        score(Path(arguments.source))
    else:
        record(Path(arguments.source))
