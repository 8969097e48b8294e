"""Runs the terminal sessions on pages: the ```console blocks of a page, in order, in one new home.

The command in a comment `<!-- setup: nanoflux … -->` runs before the sessions; the page does not show its output.
A comment `<!-- files: FOLDER -->` copies a folder of the project into the directory in which the commands run.

`python tests/docs/sessions.py` and `make docs` write the current output into the pages.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]
NANOFLUX = (sys.executable, "-m", "nanoflux_local.cli")
SESSION_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
SETUP_COMMENT = re.compile(r"^<!-- setup: (.*) -->$", re.MULTILINE)
FILES_COMMENT = re.compile(r"^<!-- files: (.*) -->$", re.MULTILINE)
COMMAND_WITH_OUTPUT = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
RUN_OR_EXAMPLE_ID = re.compile(r"\b(?:(?:starter|northfield)-[0-9a-f]{8}|[0-9a-f]{16})\b")
VOLATILE = (
    (r"^(seconds|kept per hour|calls|tokens|SHA-256) +.*", r"\1"),  # these depend on the machine or on ids
    (r"(?:(?<= turn)|(?<= turns)), .* left$", ""),  # the time left is printed only on a slow machine
    (r"^\d+ +(?=(attacker|judge|defender|embed) )", ""),  # a call's number depends on the order of replies
)
"""Patterns of figures that change whenever a command is run, each with its replacement."""


def list_session_pages() -> list[Path]:
    """The README and the pages of docs/ that have at least one session."""
    pages = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
    return [page for page in pages if SESSION_BLOCK.search(page.read_text("utf-8"))]


def run_sessions(text: str, folder: Path) -> str:
    """Run the commands of a page in `folder`, an empty directory; return the page's text with their current output.

    Ids of runs and examples are random, so the page keeps the ids that it shows. If only volatile figures of an output
    have changed, the page keeps the output that it shows.
    """
    for source_folder in FILES_COMMENT.findall(text):
        shutil.copytree(PROJECT / source_folder, folder / Path(source_folder).name)
    for command in SETUP_COMMENT.findall(text):
        _run_command(command, folder)
    id_by_shown_id: dict[str, str] = {}
    return SESSION_BLOCK.sub(lambda match: _run_block(match[0], folder, id_by_shown_id), text)


def mask_volatile(text: str) -> str:
    """The text without the figures that change whenever a command is run."""
    for pattern, replacement in VOLATILE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def _run_block(block: str, folder: Path, id_by_shown_id: dict[str, str]) -> str:
    """Run the commands of a block; return each with its current output. Adds new ids to `id_by_shown_id`."""
    commands_with_output = []
    for command, shown_output in COMMAND_WITH_OUTPUT.findall(block):
        raw_output = _run_command(_replace_ids(command, id_by_shown_id), folder)
        shown_ids, new_ids = RUN_OR_EXAMPLE_ID.findall(shown_output), RUN_OR_EXAMPLE_ID.findall(raw_output)
        for shown_id, new_id in zip(shown_ids, new_ids, strict=False):
            id_by_shown_id.setdefault(shown_id, new_id)
        shown_id_by_id = {new_id: shown_id for shown_id, new_id in id_by_shown_id.items()}
        output = _replace_ids(raw_output, shown_id_by_id)
        if mask_volatile(shown_output) == mask_volatile(output):
            output = shown_output
        commands_with_output.append(f"$ {command}\n{output}")
    return "".join(commands_with_output)


def _replace_ids(text: str, replacement_by_id: dict[str, str]) -> str:
    return RUN_OR_EXAMPLE_ID.sub(lambda match: replacement_by_id.get(match[0], match[0]), text)


def _run_command(command: str, folder: Path) -> str:
    """Run a command and return its output on both streams, without trailing spaces."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "nanoflux", f"a session may contain only nanoflux commands: {command}"
    environment = {**os.environ, "NANOFLUX_HOME": str(folder / "home")}
    result = subprocess.run(
        [*NANOFLUX, *arguments], cwd=folder, env=environment, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stdout}"
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


if __name__ == "__main__":
    for page in list_session_pages():
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(run_sessions(page.read_text("utf-8"), Path(folder)), "utf-8")
