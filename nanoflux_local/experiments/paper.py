"""The paper's figures: reference data, shown next to measured figures and kept separate from them (SPEC §4)."""

from importlib import resources
from pathlib import Path
from typing import Any

from nanoflux_local.config import read_toml

BENCHMARKS = {"gsmhard": "GSMHard", "genomebench": "GenomeBench", "multimedqa": "MultiMedQA"}
"""The paper's name for a domain's benchmark; other domains are shown next to all three."""


def load_paper_figures(table: str, domain: str) -> dict[str, Any] | None:
    """The paper's figures for a table: those of the domain's benchmark, else all; None if the table is unknown."""
    figures = read_toml(Path(str(resources.files(__package__) / "paper.toml"))).get(table)
    if figures is None:
        return None
    rows = figures["rows"]
    rows_of_domain = [row for row in rows if row["benchmark"] == BENCHMARKS.get(domain)]
    return {"where": figures["where"], "rows": rows_of_domain or rows}
