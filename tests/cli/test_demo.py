"""The demo with a tiny model and a few examples and items, and its sentence about the difference in accuracy."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from nanoflux_local.cli import demo
from nanoflux_local.cli.demo import describe_difference
from nanoflux_local.cli.main import nanoflux
from nanoflux_local.evaluate.comparison import Side, compare_sides
from nanoflux_local.paths import Home
from nanoflux_models.weights import import_path


@pytest.mark.parametrize(("gained", "word"), [(30, "excludes"), (1, "includes")])
def test_describe_difference_says_whether_the_interval_excludes_zero(gained: int, word: str) -> None:
    base_marks = {f"item-{number}": [False] for number in range(100)}
    tuned_marks = {item: [number < gained] for number, item in enumerate(base_marks)}
    sentence = describe_difference(compare_sides(Side("base", base_marks), Side("tuned", tuned_marks)))
    assert sentence.startswith(f"+{gained}.0 points (95% interval ") and f"which {word} zero" in sentence


@pytest.mark.real_model
def test_demo_compares_the_untuned_model_the_tuned_model_and_a_control(
    tmp_path: Path, tiny_base: Path, minilm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home").prepare()
    import_path(tiny_base, "tiny", home.root)
    (home.root / "weights" / minilm_dir.name).symlink_to(minilm_dir)
    monkeypatch.setattr(demo, "MODEL", "tiny")
    monkeypatch.setattr(demo, "_pull_weights", lambda _: None)  # the tiny model is not in a package index
    monkeypatch.setattr(demo, "EXAMPLE_COUNT", 3)
    monkeypatch.setattr(demo, "TEST_ITEM_COUNT", 3)
    result = CliRunner().invoke(nanoflux, ["--home", str(home.root), "demo", "--out", str(tmp_path / "report")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception}"
    for line in ("untuned", "tuned on the run's examples", "tuned on random train items"):
        assert f"%  {line} (" in result.output
    assert "tuned on the run's examples against untuned: " in result.output
    assert "tuned on random train items against tuned on the run's examples: " in result.output
    assert (tmp_path / "report" / "index.html").exists()
