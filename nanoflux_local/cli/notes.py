"""Notes on runs and training runs, for `nanoflux run note` and `nanoflux trainings note`."""

from collections.abc import Callable
from typing import Literal

import click

from nanoflux_local.cli.common import current_home, print_json, sanitize, say
from nanoflux_local.errors import UsageError

with_edit = click.option("--edit", is_flag=True, help="Write the note in $EDITOR, starting from the current one.")


def show_or_change_note(
    kind: Literal["run", "training"], find_id: Callable[[], str], text: str | None, edit: bool, as_json: bool
) -> None:
    """Store a note on the run or training whose id `find_id` returns: `text` or, with `edit`, the text that the user
    writes in an editor. Without `text` and `edit`, print the newest note.
    """
    from nanoflux_local.ledger.notes import add_note
    from nanoflux_local.ledger.views import LedgerView

    if text is not None and edit:
        raise click.UsageError(
            "TEXT and --edit are mutually exclusive: pass the note as TEXT, or write it in the editor."
        )
    home = current_home()
    subject_id = find_id()
    with LedgerView(home.ledger) as view:
        note = view.note(kind, subject_id)
    new_text = edit_text(note) if edit else text
    if new_text is not None:
        note = add_note(home.ledger, kind, subject_id, new_text)
    if as_json:
        print_json({kind: subject_id, "note": note})
    elif new_text is None:
        if note:
            click.echo(sanitize(note))
        else:
            say(f"{kind} {subject_id} has no note")
    else:
        say(f"{kind} {subject_id}: {'note stored' if note else 'note removed'}")


def edit_text(text: str) -> str:
    """Open `text` in $EDITOR and return the edited text; click reports an editor that cannot be started.

    Raises:
        UsageError: $VISUAL or $EDITOR is not a shell command.
    """
    try:
        return click.edit(text, extension=".md", require_save=False) or ""
    except ValueError as error:  # an unclosed quotation mark
        raise UsageError(
            f"$VISUAL or $EDITOR is not a command: {error}", "correct the variable, e.g. export EDITOR=nano"
        ) from error
