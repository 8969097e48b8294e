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
"""lm_eval's filters: the pattern of an answer, and which match counts (0: the first, -1: the last)."""
IGNORED_PATTERNS = [",", r"\$", r"(?s).*#### ", r"\.$"]
"""Patterns that lm_eval's metric removes before it compares answers."""


def export(evaluation: str) -> None:
    """Print one line for each reply: item, reply, the item's answer, and our reading and mark."""
    from nanoflux_local.ledger.packing import CALLS
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.paths import Home, default_home
    from nanoflux_local.seeds.datasets import load_items

    home = Home(default_home())
    with LedgerView(home.ledger) as view:
        evaluation_row = view.row("SELECT data, split FROM evaluations WHERE id = ?", evaluation)
        assert evaluation_row is not None, evaluation
        items = load_items(home.ledger, evaluation_row["data"], evaluation_row["split"])
        answer_by_item = {item.id: item.answer for item in items}
        query = (
            "SELECT item, repeat, reading, verdict, reply FROM evaluation_items"
            f" JOIN {CALLS} AS whole ON whole.id = call WHERE evaluation = ? ORDER BY item, repeat"
        )
        for row in view.rows(query, evaluation):
            line = {key: row[key] for key in ("item", "repeat", "reading", "verdict")}
            line |= {"reply": json.loads(row["reply"])["text"], "answer": answer_by_item[row["item"]]}
            print(json.dumps(line))


def read_answers(reply: str) -> dict[str, str]:
    """The answer that each of lm_eval's two filters extracts from a reply, by the filter's name."""
    from lm_eval.filters.extraction import RegexFilter

    readings: dict[str, str] = {}
    for name, (pattern, match_index) in FILTERS.items():
        [[reading]] = RegexFilter(pattern, match_index).apply([[reply]], [{}])  # one item with one reply
        readings[name] = reading
    return readings


def is_right(reading: str, answer: str) -> bool:
    """Whether lm_eval's metric marks an extracted answer as right."""
    from lm_eval.api.metrics import exact_match_hf_evaluate

    metric = exact_match_hf_evaluate(
        [reading], [f"#### {answer}"], regexes_to_ignore=IGNORED_PATTERNS, ignore_case=True
    )
    return bool(metric["exact_match"] == 1.0)


def score(path: Path) -> None:
    """Print how often the scorers agree, and every reply on which our mark and that of the flexible filter differ."""
    counts: Counter[tuple[str, bool, bool]] = Counter()  # by our mark, and the marks of the two filters
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        lm_eval_readings = read_answers(row["reply"])
        strict = is_right(lm_eval_readings["strict-match"], row["answer"])
        flexible = is_right(lm_eval_readings["flexible-extract"], row["answer"])
        counts[row["verdict"], strict, flexible] += 1
        if (row["verdict"] == "right") != flexible:
            line_values = {key: row[key] for key in ("item", "answer", "reading", "verdict")}
            line_values |= {"lm_eval": lm_eval_readings, "end": row["reply"][-160:]}
            print(json.dumps(line_values, ensure_ascii=False))
    for (verdict, strict, flexible), count in sorted(counts.items()):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["export", "score", "record"])
    parser.add_argument("source", help="the id of an evaluation (export), or a file (score, record)")
    options = parser.parse_args()
    if options.action == "export":
        export(options.source)
    elif options.action == "score":
        score(Path(options.source))
    else:
        record(Path(options.source))


if __name__ == "__main__":
    main()
