"""The dialog for the note on a run or a training run."""

from typing import Literal

from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.dialogs import Field, FormDialog


def edit_note(screen: BaseScreen, command: Literal["run", "trainings"], job_id: str, note: str) -> None:
    """Let the user edit `note`, the current note on the run or training run `job_id`, and save it with the command
    `nanoflux run note` or `nanoflux trainings note`.
    """
    fields = (Field("note", "note", note, "what you want to remember", multiline=True),)

    def save(values: dict[str, str] | None) -> None:
        if values is not None:
            screen.run_command(command, "note", "--", job_id, values["note"], success="Saved the note.")

    screen.app.push_screen(FormDialog(f"Note on {job_id}", fields, "Save"), save)
