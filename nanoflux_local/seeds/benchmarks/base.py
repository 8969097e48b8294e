"""The definition of a benchmark, and the list of all benchmarks: one for each module of this package that defines
`BENCHMARK`.

A module contains everything about its benchmark: how its rows are read, where its files are published, its licence, its
size, and the domains whose runs draw seeds from it. To add a benchmark, add a module; nothing else is necessary.
"""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from nanoflux_local.seeds.rows import ParsedRow
from nanoflux_local.transcript import Seed

OWN_WORK = "Apache-2.0 (written for this project)"
"""The licence of the built-in benchmarks."""


@dataclass(frozen=True, slots=True)
class Format:
    """How to read the files of a dataset.

    With `official_splits`, a file's name says which split it contains. With `carves_dev`, a dev split is taken from
    train, because there is no official dev split. `columns` are the names of the columns if a CSV file has no header;
    `row_element` is the XML element of a row. `finish_file` corrects rows once all rows of their file have been read;
    its second argument, like that of `parse_row`, is the file's name. Both functions may raise `BadRowError`.
    """

    parse_row: Callable[[Mapping[str, Any], str], ParsedRow]
    official_splits: bool = False
    carves_dev: bool = False
    columns: tuple[str, ...] = ()
    row_element: str = ""
    finish_file: Callable[[Sequence[ParsedRow], str], list[ParsedRow]] | None = None


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset repository on the Hugging Face Hub, and the patterns of the files in it that contain labelled items."""

    repo: str
    files: tuple[str, ...] = ("*.parquet", "*.jsonl", "*.csv")
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark that users import.

    `licence` is "" if the publisher states none. `counts` are the numbers of labelled items by official split, if
    known. If the benchmark has no official splits, the only key is "". `domains` are the built-in domains whose runs
    draw seeds from the train split. `hub` is None if the Hugging Face Hub has no copy; `homepage` then says where the
    files are.
    """

    name: str
    format: Format
    hub: HubDataset | None = None
    homepage: str = ""
    licence: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuiltInBenchmark:
    """A benchmark that ships with the package. `items` returns the items of a split, the same at every call."""

    name: str
    items: Callable[[str], list[Seed]]
    licence: str = OWN_WORK
    domains: tuple[str, ...] = ()


@cache
def list_benchmarks() -> Mapping[str, Benchmark | BuiltInBenchmark]:
    """Every benchmark by name, sorted by name."""
    package = __name__.rpartition(".")[0]
    paths = import_module(package).__path__
    modules = [import_module(f"{package}.{entry.name}") for entry in pkgutil.iter_modules(paths)]
    benchmarks: list[Benchmark | BuiltInBenchmark] = [
        module.BENCHMARK for module in modules if hasattr(module, "BENCHMARK")
    ]
    return {benchmark.name: benchmark for benchmark in sorted(benchmarks, key=lambda benchmark: benchmark.name)}


def list_importable_benchmarks() -> dict[str, Benchmark]:
    """The benchmarks that users import, by name."""
    return {name: entry for name, entry in list_benchmarks().items() if isinstance(entry, Benchmark)}


def list_built_in_benchmarks() -> dict[str, BuiltInBenchmark]:
    """The benchmarks that ship with the package, by name."""
    return {name: entry for name, entry in list_benchmarks().items() if isinstance(entry, BuiltInBenchmark)}
