"""Benchmarks by name: those built in, and those imported into the ledger, with their splits."""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from nanoflux_local.domains.starter.items import load_choice_items
from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.importers import restated, stem
from nanoflux_local.seeds.source import Items, SeedSource, StarterTemplates, instance
from nanoflux_local.transcript import Seed

_LOG = logging.getLogger(__name__)
SPLITS = ("train", "dev", "test")
STARTER_DRAWS = 4
"""How often each starter template is drawn for a list of items."""
EASY_DRAWS, EASY_STEPS, EASY_SHARE = 4, 2, 0.3
"""The same for the easy items: one or two steps, numbers from the lowest part of each range."""


def starter_items(split: str) -> list[Seed]:
    """Every template of a split with its numbers drawn several times; always the same list."""
    return [
        instance(template, random.Random(derive_seed("starter", template.id, number)), number)
        for number in range(STARTER_DRAWS)
        for template in load_templates()
        if template.split == split
    ]


def easy_items(split: str) -> list[Seed]:
    """The shorter templates of a split with small numbers: what the smallest models can partly solve."""
    return [
        instance(template, random.Random(derive_seed("starter-easy", template.id, number)), number, EASY_SHARE)
        for number in range(EASY_DRAWS)
        for template in load_templates()
        if template.split == split and template.steps <= EASY_STEPS
    ]


def _choice_items(name: str) -> Callable[[str], list[Seed]]:
    def of_split(split: str) -> list[Seed]:
        return [
            Seed(item.id, f"starter-{name}", item.question, item.answer, item.solution, options=dict(item.options))
            for item in load_choice_items(name)
            if item.split == split
        ]

    return of_split


BUILT_IN: dict[str, Callable[[str], list[Seed]]] = {
    "starter": starter_items,
    "starter-easy": easy_items,
    "starter-genetics": _choice_items("genetics"),
    "starter-medicine": _choice_items("medicine"),
}


LICENCES = {
    **dict.fromkeys(BUILT_IN, "Apache-2.0 (written for this project)"),
    "gsmhard": "MIT (says its page on the hub)",
}
"""Under what a benchmark's questions were published, where that is known here."""


def load_items(ledger: Path, dataset: str, split: str) -> list[Seed]:
    """The items of one split.

    Raises:
        NothingMatchedError: the benchmark is neither built in nor imported, or has no such items.
        UsageError: there is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}", f"choose one of: {', '.join(SPLITS)}")
    if dataset in BUILT_IN:
        return BUILT_IN[dataset](split)
    items = []
    if ledger.exists():
        with LedgerView(ledger) as view:
            items = view.items(dataset, split)
    if not items:
        raise NothingMatchedError(
            f"the benchmark {dataset!r} has no {split} items here",
            f"built in: {', '.join(BUILT_IN)}; others come with `nanoflux data import {dataset} PATH`",
        )
    return items


def items_here(ledger: Path, dataset: str, split: str) -> list[Seed]:
    """The same, and [] where the benchmark or its split is not here."""
    with suppress(NothingMatchedError):
        return load_items(ledger, dataset, split)
    return []


def with_seeds(ledger: Path, datasets: Sequence[str]) -> tuple[str, ...]:
    """Those of a domain's benchmarks that have train items here; all of them where none has, so that the first one is
    asked for by name.
    """
    here = tuple(name for name in datasets if _has(ledger, name, "train"))
    missing = [name for name in datasets if name not in here]
    if here and missing:
        _LOG.warning("no seeds come from %s: they have no train items here", ", ".join(missing))
    return here or tuple(datasets)


def held_out_here(ledger: Path, datasets: Sequence[str], evaluated: Iterable[str]) -> tuple[str, ...]:
    """Those of `evaluated` whose imported test items no question may repeat. One that the seeds themselves restate
    cannot be held out any more: it is named in a warning, since no model of such a run may be reported on it.
    """
    found = tuple(dict.fromkeys(name for name in evaluated if name not in BUILT_IN and _has(ledger, name, "test")))
    if not found:
        return ()
    stems = {stem(seed.question) for name in datasets for seed in load_items(ledger, name, "train")}
    shared = {name: restated(stems, load_items(ledger, name, "test")) for name in found}
    for name, count in shared.items():
        if count:
            _LOG.warning(
                "%d of the seeds have the words of test items of %s, which is not held out for that: "
                "report no model of this run on it",
                count,
                name,
            )
    return tuple(name for name in found if not shared[name])


def _has(ledger: Path, dataset: str, split: str) -> bool:
    if dataset in BUILT_IN:
        return True
    if not ledger.exists():
        return False
    with LedgerView(ledger) as view:
        return view.row("SELECT 1 FROM items WHERE dataset = ? AND split = ?", dataset, split) is not None


def seed_source(ledger: Path, datasets: Sequence[str], chained: bool) -> SeedSource:
    """Seeds from the train splits of these benchmarks alone. `chained`: the stitching attacker will chain them."""
    if tuple(datasets) == ("starter",):
        return StarterTemplates([template for template in load_templates() if template.split == "train"])
    return Items([item for dataset in datasets for item in load_items(ledger, dataset, "train")], chained)
