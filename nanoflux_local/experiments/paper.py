"""The results that the paper reports, shown next to the measured results and kept separate from them."""

from importlib import resources
from pathlib import Path
from typing import Any

from nanoflux_local.config import read_toml

BENCHMARKS = {"gsmhard": "GSMHard", "genomebench": "GenomeBench", "multimedqa": "MultiMedQA"}
"""The paper's name for a domain's benchmark; other domains are shown next to all three."""


def load_paper_results(table: str, domain: str) -> dict[str, Any] | None:
    """The paper's results for a table: those of the domain's benchmark, else all; None if the table is unknown."""
    results = read_toml(Path(str(resources.files(__package__) / "paper.toml"))).get(table)
    if results is None:
        return None
    rows = results["rows"]
    rows_of_domain = [row for row in rows if row["benchmark"] == BENCHMARKS.get(domain)]
    return {"where": results["where"], "rows": rows_of_domain or rows}
