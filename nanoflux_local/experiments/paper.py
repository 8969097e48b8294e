"""Loads the results that the paper reports, which are shown next to the measured results."""

from importlib import resources
from pathlib import Path
from typing import Any

from nanoflux_local.config import read_toml

BENCHMARKS = {"gsmhard": "GSMHard", "genomebench": "GenomeBench", "multimedqa": "MultiMedQA"}
"""The paper's name of a domain's benchmark. For other domains, the results of all three benchmarks are shown."""


def load_paper_results(table: str, domain: str) -> dict[str, Any] | None:
    """The paper's results for a table: those for the domain's benchmark, or for all benchmarks if the paper does not
    cover the domain. None if the table is unknown.
    """
    results = read_toml(Path(str(resources.files(__package__) / "paper.toml"))).get(table)
    if results is None:
        return None
    rows = results["rows"]
    rows_of_domain = [row for row in rows if row["benchmark"] == BENCHMARKS.get(domain)]
    return {"where": results["where"], "rows": rows_of_domain or rows}
