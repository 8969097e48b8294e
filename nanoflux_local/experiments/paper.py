"""The paper's own figures, kept as reference data beside every measured one, and never mixed up with it (SPEC §4)."""

from importlib import resources
from pathlib import Path
from typing import Any

from nanoflux_local.config import read_toml

BENCHMARKS = {"gsmhard": "GSMHard", "genomebench": "GenomeBench", "multimedqa": "MultiMedQA"}
"""The paper's name of a domain's benchmark; other domains are none of the paper's and stand beside all three."""


def paper_figures(table: str, domain: str) -> dict[str, Any] | None:
    """What the paper reports for one of its tables, of the domain's benchmark or of all three; None of others."""
    figures = read_toml(Path(str(resources.files(__package__) / "paper.toml"))).get(table)
    if figures is None:
        return None
    rows = figures["rows"]
    own = [row for row in rows if row["benchmark"] == BENCHMARKS.get(domain)]
    return {"where": figures["where"], "rows": own or rows}
