"""Grids: the conditions that an experiment compares, declared in a TOML file, and the plan of a grid at one scale.

This module defines the names, ranges and defaults of the settings in a grid. A plan and the ledger suffice to repeat an
experiment.
"""

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from nanoflux_local.config import Strict, read_toml, validate_model
from nanoflux_local.endpoints.kinds.base import list_adapter_kinds
from nanoflux_local.errors import ConfigError
from nanoflux_local.records import digest
from nanoflux_local.suggestions import suggest
from nanoflux_local.train.solutions import SolutionRule

RowSource = Literal["none", "benchmark", "run", "endpoint"]
"""Where the training rows of a condition come from (`Condition.source`)."""
Solved = Literal["", "ever", "always", "sometimes", "never"]
"""How often the base model must solve an item for a condition to select it (`Condition.solved`)."""
ScaleList = Literal["", "sizes", "seed_counts", "levels"]
"""A list in the scale: a condition is repeated for each of its values."""
Size = int | Literal["all", "run", "least"]
"""The number of rows of a condition, or the rule that determines it (`Condition.size`)."""
GENERATE = "generate"
"""The condition of the cells that generate a run. They run before all others."""
ANSWERS = "answers"
"""The condition and the id of the cell in which the base model answers train items. It also runs before the others."""
DEFAULT_RUN = "0"
"""The key of the run with the scale's own rules and the domain's range of seed questions."""


class Condition(Strict):
    """One of the alternatives that a grid compares. `source` says where its training rows come from: the benchmark's
    train split, or the run; "none" evaluates the base model without training, and "endpoint" evaluates the frontier
    model. `size` says how many of these rows the training seed draws: a number, "all", "run" (as many as the run kept),
    or "least" (as many as the rarest quality level has).

    `each` names a list of the scale. The condition is repeated for every value of that list, which replaces "{value}"
    in `name` and `title`. If `size` is "all", at most `full` benchmark rows (a setting of the scale) are used. `level`
    selects the run's examples of one quality level (0: all levels). `seed_count` is the number of seed questions for
    each question of the condition's run (0: the domain's range).

    `rules` names the rule set of the condition's run ("": the scale's settings alone). `solution` chooses the solution
    of each example to train on: the author's, or one of another origin (`train.solutions`). For benchmark rows, the
    base model answers each train item `tries` times (a setting of the scale): the `solution` "own" is a right solution
    by that model, and `solved` selects the items that it solves at least once ("ever"), always, sometimes or never.
    `mix` is the number of benchmark rows for each row of the run; `size` counts both. If `equal` is "tokens", the
    benchmark rows together have as many tokens as `size` rows of the run.

    In experiments on the judge, a condition measures the judge's own verdicts, its verdicts with the code check (if
    `code_check` is true), or its verdicts with all checks (if `check` is "all") or with some of them ("code+blind").
    Any other value of `check` names a check that is measured alone: "blind" accepts what the check does not contradict,
    "blind supports" what it supports.
    """

    name: str = Field(min_length=1)
    title: str = ""
    source: RowSource = "none"
    each: ScaleList = ""
    size: Size = "all"
    level: int = Field(default=0, ge=0, le=5)
    seed_count: int = Field(default=0, ge=0)
    rules: str = ""
    solution: SolutionRule = "author"
    solved: Solved = ""
    mix: float = Field(default=0, ge=0)
    equal: Literal["rows", "tokens"] = "rows"
    code_check: bool = False
    check: str = ""

    @property
    def run_key(self) -> str:
        """The key of the condition's run among the experiment's runs: the rule set, the number of seed questions, or
        both.
        """
        if self.rules and self.seed_count:
            return f"{self.rules}-{self.seed_count}"
        return self.rules if self.rules else str(self.seed_count)

    @property
    def needs_run(self) -> bool:
        """Whether the condition's rows, or their number, depend on a run."""
        return self.source == "run" or self.size in ("run", "least") or self.equal == "tokens"

    @property
    def needs_answers(self) -> bool:
        """Whether the base model has to answer the benchmark's train items first."""
        return self.source == "benchmark" and (self.solution != "author" or self.solved != "")


class Frontier(Strict):
    """The frontier model that the conditions are compared with: the endpoint `endpoint` of the profile `profile`."""

    profile: str
    endpoint: str


class Scale(Strict):
    """The scale of a grid: the base model, the domain, the amounts of data, and the seeds.

    A generated run has the target `examples`. `run` holds the other settings of generation, `train` those of training;
    each trained condition has one cell for each of `train_seeds`. `sizes`, `seed_counts` and `levels` are the lists
    that `Condition.each` names. Models are evaluated on the test items of the benchmarks in `test`; if the grid selects
    a condition, the selection uses the dev items of the benchmarks in `dev`. At most `limit` items of each benchmark
    are used (0: all), and the question of each is asked `runs` times. `via` is the kind of endpoint: in this process
    ("in_process"), or a vLLM server started with `args`, which loads the adapter in addition to the weights ("vllm") or
    merged into a copy of them ("merged", much faster on a CPU). Benchmark rows are train items of the benchmarks in
    `benchmark`, or, if it is empty, of the domain's benchmarks; `full` limits their number in conditions whose `size`
    is "all" (0: no limit). For conditions that depend on the base model's answers, the model answers each of `sampled`
    train items (0: all) `tries` times.
    """

    base: str
    domain: str
    profile: str = "embedded"
    examples: int = Field(default=200, ge=1)
    run: dict[str, Any] = Field(default={})
    train: dict[str, Any] = Field(default={})
    train_seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    test: tuple[str, ...] = Field(min_length=1)
    dev: tuple[str, ...] = ()
    benchmark: tuple[str, ...] = ()
    limit: int = Field(default=0, ge=0)
    runs: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    via: str = "in_process"
    args: tuple[str, ...] = ()
    full: int = Field(default=0, ge=0)
    tries: int = Field(default=4, ge=2)
    sampled: int = Field(default=0, ge=0)
    sizes: tuple[int, ...] = ()
    seed_counts: tuple[int, ...] = ()
    levels: tuple[int, ...] = (1, 2, 3, 4, 5)
    frontier: Frontier | None = None

    @model_validator(mode="after")
    def _check_settings(self) -> "Scale":
        if self.runs > 1 and self.temperature == 0:
            raise ValueError(
                "with temperature 0 every run gives the same replies: set a temperature above 0, or one run"
            )
        if self.via not in list_adapter_kinds():
            raise ValueError(f"via is {self.via!r}, and should be one of: {', '.join(list_adapter_kinds())}")
        return self


class Grid(Strict):
    """The declaration of an experiment: its question, its conditions, and the compared pairs (a, b) whose differences,
    b minus a, answer the question.

    `paper` names the paper's results that are shown next to the measured ones. If `select` is true, dev accuracy
    chooses one of the conditions that `each` created.
    """

    title: str
    question: str
    kind: str = "train"
    paper: str = ""
    select: bool = False
    conditions: tuple[Condition, ...] = Field(min_length=1)
    compare: tuple[tuple[str, str], ...] = ()
    scales: dict[str, Scale] = Field(min_length=1)


class Cell(Strict):
    """One unit of work: a condition under one training seed. In a cell that generates a run, `seed` is the run's number
    of seed questions, and `rules` its rule set.
    """

    id: str
    condition: str
    seed: int = 0
    rules: str = ""

    @property
    def seed_count(self) -> int:
        """The run's number of seed questions, in a cell that generates a run. Stored plans keep it as `seed`."""
        return self.seed

    @property
    def run_key(self) -> str:
        """The key of the run that the cell generates; see `Condition.run_key`."""
        return Condition(name=self.id, seed_count=self.seed_count, rules=self.rules).run_key


class GridPlan(Strict):
    """A grid at one scale, with a condition for every value of `each`. `run` is the run that supplies the examples, or
    "" to generate one.
    """

    name: str
    scale_name: str
    grid: Grid
    scale: Scale
    conditions: tuple[Condition, ...]
    cells: tuple[Cell, ...]
    run: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}-{self.scale_name}-{digest(self.model_dump(mode='json'))[:8]}"

    def condition(self, name: str) -> Condition:
        """The condition with the name `name`."""
        return next(condition for condition in self.conditions if condition.name == name)

    @property
    def compared_pairs(self) -> list[tuple[str, str]]:
        """The declared pairs whose conditions both exist. A pair with "{value}" is repeated for every value."""
        names = {condition.name for condition in self.conditions}
        pairs: list[tuple[str, str]] = []
        for a, b in self.grid.compare:
            values = self._list_values() if "{value}" in a + b else [""]
            pairs += [(a.replace("{value}", value), b.replace("{value}", value)) for value in values]
        return [(a, b) for a, b in dict.fromkeys(pairs) if a in names and b in names]

    def _list_values(self) -> list[str]:
        """The values of all the scale's lists, without repetitions."""
        values = (*self.scale.sizes, *self.scale.seed_counts, *self.scale.levels)
        return list(dict.fromkeys(str(value) for value in values))


def list_grids() -> list[str]:
    """The names of the built-in grids."""
    folder = resources.files(__package__) / "grids"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_grid(name: str) -> tuple[str, Grid]:
    """Load a built-in grid by name, or a grid file by its path. Returns the grid's name and the grid.

    Raises:
        ConfigError: the grid is unknown or invalid.
    """
    if name in list_grids():
        path = Path(str(resources.files(__package__) / "grids" / f"{name}.toml"))
    elif name.endswith(".toml"):
        path = Path(name)
    else:
        raise ConfigError(f"no grid {name!r}", f"{suggest(name, list_grids())}; or pass a .toml file")
    values = read_toml(path)
    return path.stem, validate_model(Grid, values, str(path))
