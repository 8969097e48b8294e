"""An experiment's report fetches nothing, marks the paper's results, and has tables without spreadsheet formulas."""

import csv
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.experiments.experiment import create_experiment
from nanoflux_local.experiments.kinds.base import find_kind
from nanoflux_local.experiments.planning import make_plan
from nanoflux_local.paths import Home
from nanoflux_local.report.experiment_report import HEADINGS, write_experiment_report
from nanoflux_local.report.tables import as_csv, as_markdown

HOSTILE = '=HYPERLINK("http://x") <script>alert(1)</script> {{ 7*7 }} \u202e|`'


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_page_answers_first_and_fetches_nothing(resumed_experiment, tmp_path: Path) -> None:
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
    assert (
        answer_position
        < visible_text.index("Conditions")
        < visible_text.index("Paired tests")
        < visible_text.index("Cost")
    )
    assert "run-99-0: 99 examples are requested" in visible_text and "nanoflux experiment run small" in visible_text
    assert [tag for tag, _ in page.tags].count("svg") == 2, (
        "expected a plot of accuracies and one of losses; a single size gives no plot"
    )


def test_report_marks_paper_results_and_keeps_other_benchmarks_out(resumed_experiment, tmp_path: Path) -> None:
    home, _ = resumed_experiment
    text = write_experiment_report(home, "small", tmp_path).read_text(encoding="utf-8")
    rows = re.findall(r'<tr class="paper">(.*?)</tr>', text)
    assert len(rows) == 12 and any("63.3%" in row for row in rows)
    assert not any("starter-easy" in row for row in rows), "the paper's rows contain a benchmark of this experiment"
    assert "none of these results is used here" in text


def test_tables_are_written_as_csv_and_markdown(resumed_experiment, tmp_path: Path) -> None:
    home, _ = resumed_experiment
    write_experiment_report(home, "small", tmp_path)
    rows = list(csv.reader((tmp_path / "conditions.csv").open(encoding="utf-8", newline="")))
    assert rows[0] == list(HEADINGS) and len(rows) == 5
    by_name = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert float(by_name["the run's examples"]["rows"]) == 3 and by_name["the run's examples"]["generation FLOPs"] == ""
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith("# A small grid\n") and "Not measured here" in markdown
    assert len(list(csv.reader((tmp_path / "pairs.csv").open(encoding="utf-8", newline="")))) == 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "|calc", "%0A"])
def test_csv_strings_are_never_spreadsheet_formulas(text: str) -> None:
    (row,) = list(csv.reader(io.StringIO(as_csv(["a"], [[text]]))))[1:]
    assert row[0].startswith("'")
    assert list(csv.reader(io.StringIO(as_csv(["a", "b", "c"], [[-1.5, None, "plain"]]))))[1] == ["-1.5", "", "plain"]


def test_markdown_cells_stay_in_their_table() -> None:
    table = as_markdown(["a", "b"], [["x|y\nz", "<b>`"]])
    assert table.count("\n") == 2 and table.splitlines()[2] == r"| x\|y z | \<b>\` |"


def test_hostile_grid_is_shown_as_text_while_unfinished(create_home, grid_file: Path, tmp_path: Path) -> None:
    home = create_home()
    grid = tmp_path / "evil.toml"
    question = HOSTILE.replace("\\", "\\\\").replace('"', '\\"')
    grid.write_text(grid_file.read_text().replace("Do the run's examples help more than random ones?", question))
    experiment = create_experiment(home, make_plan(str(grid), "tiny"))
    text = write_experiment_report(home, experiment, tmp_path / "out").read_text(encoding="utf-8")
    assert "<script>" not in text and "{{ 7*7 }}" in text and "\u202e" not in text
    assert "Too few cells are done to answer the question yet." in text and "10 cells are not done yet" in text


def test_answer_states_significance_before_and_after_correction() -> None:
    pair = {"a": "x", "b": "y", "data": "d", "difference": 0.1, "ci95": [0.02, 0.18], "holm_p": 0.2}
    results = {"kind": "train", "conditions": [{"condition": c, "title": c.upper()} for c in "xy"], "pairs": [pair]}
    (line,) = find_kind("train").write_answer(results)
    assert line.startswith("Y against X: +10.0 points") and "though not after Holm's correction" in line
    (line,) = find_kind("train").write_answer({**results, "pairs": [{**pair, "ci95": [-0.1, 0.2]}]})
    assert "the difference is not settled" in line


def test_report_command_writes_run_and_experiment_reports(
    resumed_experiment, tmp_path: Path, monkeypatch, capfd
) -> None:
    original_home, _ = resumed_experiment
    home = Home(tmp_path / "home")
    shutil.copytree(original_home.root, home.root)
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    with pytest.raises(SystemExit) as result:
        main(["report", "small"])
    assert result.value.code == 0
    assert Path(capfd.readouterr().out.strip()).parent.name.startswith("small-tiny-")
    with pytest.raises(SystemExit) as result:
        main(["report", "nothing"])
    assert result.value.code == 4
