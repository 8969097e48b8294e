"""The protocol of experiment kinds, and their registry: every module of this package that has a `KIND` defines a kind.

A grid names its kind. The rest of the program calls the kind for everything that differs between kinds of experiments:
to plan and run cells, and to show results in `experiment show`, the report and the terminal application.
"""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Protocol

from nanoflux_local.errors import ConfigError
from nanoflux_local.evaluate.comparison import Pair
from nanoflux_local.experiments.grid import Condition, GridPlan, Scale
from nanoflux_local.experiments.tables import TableColumn
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.suggestions import suggest

CellResult = dict[str, Any]
"""A cell's result as it is stored in the ledger."""
CellOutcome = CellResult | Exception
"""A cell's result, or the error that made the cell fail."""
OnStep = Callable[[str, int, int], None]
"""A function that is called with a unit of progress ("steps", "items"), the number done, and the total."""


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A cell as read from the ledger. `message` says why the cell failed or was left out, otherwise it is ""; `result`
    is {} until the cell is done.
    """

    condition: str
    seed: int
    status: str
    message: str
    result: CellResult


@dataclass(frozen=True, slots=True)
class RecordedExperiment:
    """An experiment as stored in the ledger. `cells` are its cells by id, `runs` its runs by `Condition.run_key`."""

    home: Home
    view: LedgerView
    plan: GridPlan
    cells: Mapping[str, StoredCell]
    runs: Mapping[str, str]

    def done_cells(self, condition: str) -> list[StoredCell]:
        """The cells of a condition that are done."""
        return [cell for cell in self.cells.values() if cell.condition == condition and cell.status == "done"]

    def cells_if_all_done(self, condition: str) -> list[StoredCell]:
        """The cells of a condition if all are done; otherwise an empty list."""
        cells = [cell for cell in self.cells.values() if cell.condition == condition]
        return cells if cells and all(cell.status == "done" for cell in cells) else []


@dataclass(frozen=True, slots=True)
class ConditionEntry:
    """A condition of an experiment. `seeds` are the training seeds of its finished cells, and `measurements` are what
    the kind measured, by JSON key.
    """

    condition: str
    title: str
    source: str
    seeds: tuple[int, ...]
    measurements: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The entry in `experiment show --json`."""
        entry = {"condition": self.condition, "title": self.title, "source": self.source, "seeds": list(self.seeds)}
        return {**entry, **self.measurements}


@dataclass(frozen=True, slots=True)
class ChosenCondition:
    """The condition with the best mean accuracy on dev items, and its accuracy on each test benchmark."""

    condition: str
    title: str
    dev: float
    test: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ConditionComparison:
    """What a kind concludes from all conditions: the paired tests, the condition chosen on dev items, and how much
    compute the run's examples saved (see `compute.compare_compute`).
    """

    pairs: tuple[Pair, ...] = ()
    chosen: ChosenCondition | None = None
    compute_ratios: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys `pairs`, `chosen` and `less_compute` of `experiment show --json`."""
        return {
            "pairs": [pair.to_json() for pair in self.pairs],
            "chosen": asdict(self.chosen) if self.chosen else None,
            "less_compute": self.compute_ratios,
        }


class ExperimentKind(Protocol):
    """One kind of experiment.

    `columns` are the columns of the table of conditions. If a kind `measures_accuracy`, its entries have `test`
    accuracies, which the report plots and compares in pairs.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[TableColumn, ...]]
    measures_accuracy: ClassVar[bool]

    def list_seeds(self, condition: Condition, scale: Scale) -> Sequence[int]:
        """The training seeds of a condition; each seed gives one cell."""
        ...

    def run_cell(self, home: Home, plan: GridPlan, condition: Condition, seed: int, on_step: OnStep) -> CellResult:
        """Run one cell.

        Raises:
            NothingMatchedError, RefusedError: this home lacks the data for the condition.
            NanofluxError: the cell failed; the next start retries it.
        """
        ...

    def measure_condition(self, experiment: RecordedExperiment, condition: Condition) -> Mapping[str, Any]:
        """What this kind measured, by the keys of the condition's entry in `experiment show --json`."""
        ...

    def compare_conditions(
        self, experiment: RecordedExperiment, entries: Sequence[ConditionEntry]
    ) -> ConditionComparison:
        """Compare the conditions. Returns `NO_COMPARISON` if this kind does not compare conditions."""
        ...

    def list_rows(self, experiment_json: Mapping[str, Any]) -> list[list[object]]:
        """The rows of the table of conditions, with a value for each of `columns`.

        `experiment_json` is what `experiment show --json` prints.
        """
        ...

    def write_answer(self, experiment_json: Mapping[str, Any]) -> list[str]:
        """The experiment's answer in sentences; [] if too few cells are done.

        `experiment_json` is what `experiment show --json` prints.
        """
        ...


NO_COMPARISON = ConditionComparison()
"""The comparison of a kind that does not compare conditions."""


@cache
def experiment_kinds() -> Mapping[str, ExperimentKind]:
    """All kinds by name."""
    package_name = __name__.rpartition(".")[0]
    package_paths = import_module(package_name).__path__
    modules = [import_module(f"{package_name}.{entry.name}") for entry in pkgutil.iter_modules(package_paths)]
    kinds: list[ExperimentKind] = [module.KIND for module in modules if hasattr(module, "KIND")]
    return {kind.name: kind for kind in kinds}


def find_experiment_kind(name: str) -> ExperimentKind:
    """The kind with the name `name`.

    Raises:
        ConfigError: the kind is unknown.
    """
    kinds = experiment_kinds()
    if name not in kinds:
        raise ConfigError(f"kind: unknown kind of experiment {name!r}", suggest(name, kinds))
    return kinds[name]
