"""Parameter types for names (of runs, domains, profiles, …) that a shell can complete.

The types accept any string; the commands check the names. Completion reads NANOFLUX_HOME without writing to it,
and offers nothing if it cannot be read.
"""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import current_home
from nanoflux_local.paths import Home

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MAX_COMPLETIONS = 200
"""Maximum number of completions. Of runs and other work, the newest come first."""


class Name(click.ParamType[str]):
    """The type of a parameter that a shell completes from the names that `list_names` returns for a home."""

    def __init__(self, name: str, list_names: Callable[[Home], Iterable[str]]) -> None:
        self.name = name
        self._list_names = list_names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        del param
        home = ctx.find_root().params.get("home")
        if home:
            os.environ["NANOFLUX_HOME"] = str(home)
        try:
            names = [name for name in dict.fromkeys(self._list_names(current_home())) if name.startswith(incomplete)]
        except Exception:  # noqa: BLE001 - a message would land in the middle of the user's command line
            return []
        return [CompletionItem(name) for name in names[:MAX_COMPLETIONS]]


def _make_column_lister(sql: str) -> Callable[[Home], list[str]]:
    """Make a function that lists the values of the single column that `sql` selects from a home's ledger."""

    def list_names(home: Home) -> list[str]:
        from nanoflux_local.ledger.views import LedgerView

        with LedgerView(home.ledger) as view:
            return [str(row[0]) for row in view.rows(sql)]

    return list_names


def _list_runs(home: Home) -> list[str]:
    """The names and the ids of the runs; commands accept both."""
    names = _make_column_lister("SELECT name FROM runs ORDER BY rowid DESC")(home)
    return [*names, *_make_column_lister("SELECT id FROM runs ORDER BY rowid DESC")(home)]


def _list_domains(home: Home) -> list[str]:
    from nanoflux_local.domains.own import list_domain_names

    return list(list_domain_names(home.root))


def _list_profiles(home: Home) -> list[str]:
    from nanoflux_local.run.configs import list_profiles

    return list_profiles(home)


def _list_models(home: Home) -> list[str]:
    from nanoflux_models.manifest import list_manifests

    return [manifest.name for manifest in list_manifests(home.root)]


def _list_datasets(home: Home) -> list[str]:
    from nanoflux_local.seeds.benchmarks.base import list_built_in_benchmarks

    imported_names = []
    if home.ledger.exists():
        imported_names = _make_column_lister("SELECT name FROM datasets ORDER BY name")(home)
    return [*list_built_in_benchmarks(), *imported_names]


def _list_adapters(home: Home) -> list[str]:
    from nanoflux_local.adapters.store import list_adapters

    return [adapter.hash[:16] for adapter in list_adapters(home.adapters)]


RUN = Name("run", _list_runs)
DOMAIN = Name("domain", _list_domains)
PROFILE = Name("profile", _list_profiles)
MODEL = Name("model", _list_models)
DATASET = Name("dataset", _list_datasets)
ADAPTER = Name("adapter", _list_adapters)
EVALUATION = Name("eval", _make_column_lister("SELECT id FROM evaluations ORDER BY rowid DESC"))
EXAMPLE = Name("example", _make_column_lister("SELECT id FROM examples ORDER BY rowid DESC"))
TRAINING = Name("training", _make_column_lister("SELECT id FROM trainings ORDER BY rowid DESC"))
EXPERIMENT = Name("experiment", _make_column_lister("SELECT id FROM experiments ORDER BY rowid DESC"))
