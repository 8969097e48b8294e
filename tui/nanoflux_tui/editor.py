"""Lets the user edit a text in an editor ($VISUAL or $EDITOR), while the application is suspended."""

import click
from textual.app import App, SuspendNotSupported

from nanoflux_local.errors import NanofluxError


def edit_text(app: App[None], text: str) -> str:
    """Open `text` in the user's editor. Returns the edited text.

    Raises:
        NanofluxError: there is no terminal for an editor, or the editor cannot be started.
    """
    try:
        with app.suspend():
            return (click.edit(text, extension=".md", require_save=False) or "").rstrip("\n")
    except SuspendNotSupported:
        raise NanofluxError(
            "an editor cannot be opened here: the application does not run in a terminal", "type the text in the form"
        ) from None
    except (click.ClickException, ValueError) as error:  # ValueError: an unclosed quotation mark in $EDITOR
        cause = error.format_message() if isinstance(error, click.ClickException) else error
        raise NanofluxError(f"the editor did not start: {cause}", "set EDITOR to the command of your editor") from None
