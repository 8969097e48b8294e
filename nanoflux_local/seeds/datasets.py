"""Datasets by name: the built-in benchmarks and those imported into the ledger, with their splits."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.starter.stories import load_one_step_stories, load_stories
from nanoflux_local.domains.starter.templates import Template, load_templates
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.seeds.benchmarks.base import list_benchmarks, list_built_in_benchmarks
from nanoflux_local.seeds.related_passages import RelatedPassages
from nanoflux_local.seeds.source import Items, SeedSource, StarterTemplates
from nanoflux_local.seeds.splits import SPLITS, count_restated, extract_stem
from nanoflux_local.transcript import Seed

_LOG = logging.getLogger(__name__)


def load_items(ledger: Path, dataset: str, split: str) -> list[Seed]:
    """The items of one split of a built-in or imported benchmark.

    Raises:
        NothingMatchedError: the benchmark is neither built in nor imported, or this split of it has no items.
        UsageError: `split` is not the name of a split.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}", f"choose one of: {', '.join(SPLITS)}")
    built_in = list_built_in_benchmarks()
    if dataset in built_in:
        return built_in[dataset].items(split)
    items = []
    if ledger.exists():
        with LedgerView(ledger) as view:
            items = view.items(dataset, split)
    if not items:
        raise NothingMatchedError(
            f"the benchmark {dataset!r} has no {split} items in this home",
            f"choose a built-in one ({', '.join(built_in)}), import it with `nanoflux data import {dataset} PATH`,"
            f" or import your documents with `nanoflux data documents PATH --as {dataset}`",
        )
    return items


def load_available_items(ledger: Path, dataset: str, split: str) -> list[Seed]:
    """The items of one split; [] if the ledger has no such benchmark or split."""
    with suppress(NothingMatchedError):
        return load_items(ledger, dataset, split)
    return []


def list_seed_datasets(domain: Domain) -> tuple[str, ...]:
    """The benchmarks from which a domain's runs draw seeds: those that the domain's file lists, in that order, then
    those whose modules list the domain.
    """
    benchmarks_of_domain = (name for name, benchmark in list_benchmarks().items() if domain.name in benchmark.domains)
    return tuple(dict.fromkeys([*domain.datasets, *benchmarks_of_domain]))


def find_dataset_licence(dataset: str) -> str:
    """The licence of a dataset's questions; "" if its publisher states none, or if it is a user's own data."""
    benchmark = list_benchmarks().get(dataset)
    return benchmark.licence if benchmark else ""


def list_datasets_with_seeds(ledger: Path, datasets: Sequence[str]) -> tuple[str, ...]:
    """The datasets that have train items; if none has any, all of `datasets`, so that a later error names the first of
    them. A warning names the datasets that are left out.
    """
    datasets_with_items = tuple(name for name in datasets if _has_items(ledger, name, "train"))
    if not datasets_with_items:
        return tuple(datasets)
    datasets_without_items = [name for name in datasets if name not in datasets_with_items]
    if datasets_without_items:
        _LOG.warning("no seeds are drawn from %s: no train items in this home", ", ".join(datasets_without_items))
    return datasets_with_items


def choose_held_out(ledger: Path, datasets: Sequence[str], evaluated: Iterable[str]) -> tuple[str, ...]:
    """The benchmarks in `evaluated` whose imported test items no generated question may repeat. Runs draw their seeds
    from `datasets`.

    A benchmark whose test items are restated by these seeds cannot be held out: a warning names it, because models
    trained on such a run must not be evaluated on it.
    """
    built_in = list_built_in_benchmarks()
    imported = [name for name in evaluated if name not in built_in and _has_items(ledger, name, "test")]
    if not imported:
        return ()
    seed_stems = {extract_stem(seed.question) for name in datasets for seed in load_items(ledger, name, "train")}
    restated_counts = {name: count_restated(seed_stems, load_items(ledger, name, "test")) for name in imported}
    for name, count in restated_counts.items():
        if count:
            _LOG.warning(
                "%d of the seeds %s test items of %s, so it is not held out: do not test this run's models on it",
                count,
                "restates" if count == 1 else "restate",
                name,
            )
    return tuple(name for name, count in restated_counts.items() if count == 0)


def _has_items(ledger: Path, dataset: str, split: str) -> bool:
    """Whether the benchmark is built in, or is imported and has items in this split."""
    if dataset in list_built_in_benchmarks():
        return True
    if not ledger.exists():
        return False
    with LedgerView(ledger) as view:
        return view.row("SELECT 1 FROM items WHERE dataset = ? AND split = ?", dataset, split) is not None


def _load_train_templates(datasets: Sequence[str]) -> list[Template]:
    """The train templates from which the items of `datasets` are made; [] if any of them is not made from templates."""
    load_by_dataset: dict[str, Callable[[], tuple[Template, ...]]] = {
        "starter": load_templates,
        "starter-stories": partial(load_stories, "train"),
        "starter-one-step": partial(load_one_step_stories, "train"),
    }
    if not set(datasets) <= set(load_by_dataset):
        return []
    return [template for name in datasets for template in load_by_dataset[name]() if template.split == "train"]


def build_seed_source(ledger: Path, datasets: Sequence[str], chainable: bool) -> SeedSource:
    """Build a source of seeds from the train splits of `datasets`. With `chainable`, the source draws only seeds that
    the built-in attacker can chain.

    Raises:
        NothingMatchedError: a dataset has no train items in this home.
        UsageError: some of the datasets are passages of documents and others are questions.
    """
    templates = _load_train_templates(datasets)
    if templates:
        return StarterTemplates(templates)
    items = [item for dataset in datasets for item in load_items(ledger, dataset, "train")]
    has_passages = any(item.source for item in items)
    has_questions = any(not item.source for item in items)
    if has_passages and has_questions:
        raise UsageError(
            f"the datasets {', '.join(datasets)} hold passages and questions, which one run cannot mix",
            "choose datasets of one kind: --set 'datasets=[\"NAME\"]'",
        )
    return RelatedPassages(items) if has_passages else Items(items, chainable)
