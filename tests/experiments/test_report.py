"""The report of an experiment loads nothing from other files or hosts, marks the paper's results, and has no
spreadsheet formulas in its tables.
"""

import csv
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.experiments.experiment import create_experiment
from nanoflux_local.experiments.kinds.base import find_experiment_kind
from nanoflux_local.experiments.planning import make_plan
from nanoflux_local.paths import Home
from nanoflux_local.report.experiment_report import HEADINGS, write_experiment_report
from nanoflux_local.report.tables import format_csv, format_markdown

HOSTILE_TEXT = '=HYPERLINK("http://x") <script>alert(1)</script> {{ 7*7 }} \u202e|`'
"""A text with a spreadsheet formula, a script, a template expression, a direction override and Markdown characters."""


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text without tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_page_starts_with_the_answer_and_loads_nothing(resumed_experiment, tmp_path: Path) -> None:
    home, _ = resumed_experiment
    text = write_experiment_report(home, "small", tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "form", "base"})
    references = [
        value
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href")
    ]
    assert [reference for reference in references if not str(reference).startswith("#")] == []
    assert "default-src 'none'" in text and "@import" not in text
    visible_text = " ".join(page.text.split())
    answer_position = visible_text.index("the run's examples against the model as it is")
    heading_positions = [visible_text.index(heading) for heading in ("Conditions", "Paired tests", "Cost")]
    assert answer_position < heading_positions[0] and heading_positions == sorted(heading_positions)
    assert "run-99-0: 99 examples are requested" in visible_text and "nanoflux experiment run small" in visible_text
    assert [tag for tag, _ in page.tags].count("svg") == 2, (
        "expected a plot of accuracies and a plot of losses, but none of accuracy over size: only one size is measured"
    )


def test_paper_rows_of_the_report_contain_only_the_papers_benchmarks(resumed_experiment, tmp_path: Path) -> None:
    home, _ = resumed_experiment
    text = write_experiment_report(home, "small", tmp_path).read_text(encoding="utf-8")
    paper_rows = re.findall(r'<tr class="paper">(.*?)</tr>', text)
    assert len(paper_rows) == 12 and any("63.3%" in row for row in paper_rows)
    assert not any("starter-easy" in row for row in paper_rows), (
        "a row of the paper names a benchmark that the paper does not report"
    )
    assert "none of these results is used here" in text


def test_tables_are_written_as_csv_and_markdown(resumed_experiment, tmp_path: Path) -> None:
    home, _ = resumed_experiment
    write_experiment_report(home, "small", tmp_path)
    headings, *condition_rows = parse_csv((tmp_path / "conditions.csv").read_text(encoding="utf-8"))
    assert headings == list(HEADINGS) and len(condition_rows) == 4
    values_by_title = {row[0]: dict(zip(headings, row, strict=True)) for row in condition_rows}
    run_values = values_by_title["the run's examples"]
    assert float(run_values["rows"]) == 3 and run_values["generation FLOPs"] == ""
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith("# A small grid\n") and "Not measured here" in markdown
    pair_rows = parse_csv((tmp_path / "pairs.csv").read_text(encoding="utf-8"))
    assert len(pair_rows) == 3, "expected the headings and two pairs"


def parse_csv(text: str) -> list[list[str]]:
    """The rows of a CSV text, the headings first."""
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "|calc", "%0A"])
def test_csv_strings_are_never_spreadsheet_formulas(text: str) -> None:
    _, (cell,) = parse_csv(format_csv(["a"], [[text]]))
    assert cell.startswith("'")


def test_csv_cells_with_plain_values_are_unchanged() -> None:
    _, cells = parse_csv(format_csv(["a", "b", "c"], [[-1.5, None, "plain"]]))
    assert cells == ["-1.5", "", "plain"]


def test_markdown_cells_are_escaped() -> None:
    table = format_markdown(["a", "b"], [["x|y\nz", "<b>`"]])
    assert table.count("\n") == 2 and table.splitlines()[2] == r"| x\|y z | \<b>\` |"


def test_report_of_an_unfinished_experiment_escapes_a_hostile_question(
    create_home, grid_file: Path, tmp_path: Path
) -> None:
    home = create_home()
    hostile_grid = tmp_path / "hostile.toml"
    escaped_text = HOSTILE_TEXT.replace("\\", "\\\\").replace('"', '\\"')
    question = "Do the run's examples help more than random ones?"
    hostile_grid.write_text(grid_file.read_text().replace(question, escaped_text))
    experiment = create_experiment(home, make_plan(str(hostile_grid), "tiny"))
    text = write_experiment_report(home, experiment, tmp_path / "out").read_text(encoding="utf-8")
    assert "<script>" not in text and "{{ 7*7 }}" in text and "\u202e" not in text
    assert "Too few cells are done to answer the question yet." in text and "10 cells are not done yet" in text


def test_answer_states_significance_before_and_after_correction() -> None:
    pair = {"a": "x", "b": "y", "data": "d", "difference": 0.1, "ci95": [0.02, 0.18], "holm_p": 0.2}
    conditions = [{"condition": "x", "title": "X"}, {"condition": "y", "title": "Y"}]
    results = {"kind": "train", "conditions": conditions, "pairs": [pair]}
    (sentence,) = find_experiment_kind("train").write_answer(results)
    assert sentence.startswith("Y against X: +10.0 points") and "though not after Holm's correction" in sentence
    (sentence,) = find_experiment_kind("train").write_answer({**results, "pairs": [{**pair, "ci95": [-0.1, 0.2]}]})
    assert "the difference is not settled" in sentence


def test_report_command_writes_the_report_of_an_experiment(
    resumed_experiment, tmp_path: Path, monkeypatch, capfd
) -> None:
    original_home, _ = resumed_experiment
    home = Home(tmp_path / "home")
    shutil.copytree(original_home.root, home.root)
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    with pytest.raises(SystemExit) as exit_info:
        main(["report", "small"])
    assert exit_info.value.code == 0
    report_path = Path(capfd.readouterr().out.strip())
    assert report_path.parent.name.startswith("small-tiny-")
    with pytest.raises(SystemExit) as exit_info:
        main(["report", "nothing"])
    assert exit_info.value.code == 4
