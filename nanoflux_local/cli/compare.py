"""`nanoflux compare`: paired tests between evaluations of the same items."""

from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, say, with_json

if TYPE_CHECKING:
    from nanoflux_local.evaluate.comparison import Comparison


@click.command(name="compare")
@click.argument("evaluations", nargs=-1, required=True)
@click.option(
    "--partial", is_flag=True, help="Compare evaluations with missing replies too, on the items that both scored."
)
@with_json
def command(evaluations: tuple[str, ...], partial: bool, as_json: bool) -> None:
    """Compare all pairs of EVALUATIONS with paired tests (second minus first)."""
    from nanoflux_local.evaluate.comparison import compare
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(current_home().ledger) as view:
        comparison = compare(view, evaluations, partial)
    if as_json:
        print_json(comparison.as_json())
    else:
        show_comparison(comparison)


def show_comparison(comparison: "Comparison") -> None:
    """Print the pairs as a table, and how many items each pair leaves out."""
    from nanoflux_local.experiments.tables import format_detectable

    print_table(
        (
            "a",
            "b",
            "items",
            "b − a",
            "95% interval",
            "McNemar p",
            "Holm p",
            "bootstrap p",
            "t over runs p",
            "detectable",
        ),
        [
            [
                pair.a,
                pair.b,
                pair.n,
                f"{pair.difference:+.1%}",
                f"{pair.ci95[0]:+.1%} to {pair.ci95[1]:+.1%}",
                f"{pair.mcnemar_p:.3g}",
                f"{pair.holm_p:.3g}",
                f"{pair.bootstrap_p:.3g}",
                "" if pair.paired_t_p is None else f"{pair.paired_t_p:.3g}",
                format_detectable(pair.minimum_detectable),
            ]
            for pair in comparison.pairs
        ],
    )
    for pair in comparison.pairs:
        if pair.left_out:
            say(f"{pair.a} and {pair.b}: {pair.left_out} items left out because one of them has no score")
