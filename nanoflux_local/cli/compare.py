"""`nanoflux compare`: paired tests between evaluations of the same items."""

from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, say, with_json
from nanoflux_local.cli.names import EVALUATION
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.evaluate.comparison import Comparison


MAX_FLIPS = 20
"""Maximum number of flipped items in the output; `--json` and `nanoflux eval items` list all of them."""


@click.command(name="compare")
@click.argument("evaluations", nargs=-1, required=True, type=EVALUATION)
@click.option(
    "--partial", is_flag=True, help="Also compare evaluations with missing replies, on the items that both have scored."
)
@with_json
def command(evaluations: tuple[str, ...], partial: bool, as_json: bool) -> None:
    """Compare all pairs of EVALUATIONS with paired tests, and list the items that flip.

    Each difference is an evaluation minus its base. The base of a pair is the evaluation without an adapter; if both or
    neither have one, it is the evaluation that comes first on the command line.
    """
    from nanoflux_local.cli.evaluations import show_flips
    from nanoflux_local.evaluate.comparison import compare
    from nanoflux_local.evaluate.items import load_questions
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(current_home().ledger) as view:
        comparison = compare(view, evaluations, partial)
        questions = load_questions(view, comparison.pairs[0].a)
    if as_json:
        print_json(comparison.to_json())
        return
    show_comparison(comparison)
    pair = comparison.pairs[0]
    if len(comparison.pairs) == 1 and pair.flips:
        click.echo()
        show_flips(pair.flips, pair.a, pair.b, questions, MAX_FLIPS)


def show_comparison(comparison: "Comparison") -> None:
    """Print the pairs as a table, and how many items each comparison leaves out."""
    from nanoflux_local.experiments.tables import format_detectable_difference

    print_table(
        (
            "base",
            "compared",
            "items",
            "difference",
            "95% interval",
            "gained",
            "lost",
            "McNemar p",
            "Holm p",
            "bootstrap p",
            "paired t p",
            "detectable",
        ),
        [
            [
                pair.a,
                pair.b,
                pair.n,
                f"{pair.difference:+.1%}",
                f"{pair.ci95[0]:+.1%} to {pair.ci95[1]:+.1%}",
                pair.gained,
                pair.lost,
                f"{pair.mcnemar_p:.3g}",
                f"{pair.holm_p:.3g}",
                f"{pair.bootstrap_p:.3g}",
                "" if pair.paired_t_p is None else f"{pair.paired_t_p:.3g}",
                format_detectable_difference(pair.minimum_detectable),
            ]
            for pair in comparison.pairs
        ],
    )
    for pair in comparison.pairs:
        if pair.left_out:
            items = format_quantity(pair.left_out, "item")
            say(f"{pair.a} and {pair.b}: {items} left out because one evaluation has no score for them")
