"""Opens the user's editor ($VISUAL or $EDITOR) on a text, while the application is suspended."""

import click
from textual.app import App, SuspendNotSupported

from nanoflux_local.errors import NanofluxError


def edit_text(app: App[None], text: str) -> str:
    """The text after the user has edited it in the editor.

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
    except click.ClickException as error:
        raise NanofluxError(
            f"the editor did not start: {error.format_message()}", "set EDITOR to the command of your editor"
        ) from None
