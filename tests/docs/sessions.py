"""Runs the terminal sessions on pages: the ```console blocks of a page, in order, in one new home.

The command in a comment `<!-- setup: nanoflux … -->` runs first; its output is not shown.
A comment `<!-- files: FOLDER -->` copies a folder of the project to where the commands run.

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
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
SETUP_COMMENT = re.compile(r"^<!-- setup: (.*) -->$", re.MULTILINE)
FILES_COMMENT = re.compile(r"^<!-- files: (.*) -->$", re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
ID = re.compile(r"\b(?:(?:starter|northfield)-[0-9a-f]{8}|[0-9a-f]{16})\b")
VOLATILE = (
    (r"^(seconds|kept per hour|calls|tokens|SHA-256) +.*", r"\1"),  # depend on the machine or on ids
    (r"(?:(?<= turn)|(?<= turns)), .* left$", ""),  # a rate is measured only if the machine is slow
    (r"^\d+ +(?=(attacker|judge|defender|embed) )", ""),  # a call's number depends on the order of replies
)


def list_session_pages() -> list[Path]:
    """The README and the pages of docs/ that have at least one session."""
    pages = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
    return [page for page in pages if BLOCK.search(page.read_text("utf-8"))]


def run_sessions(text: str, folder: Path) -> str:
    """A page's text with the current output of its commands, which run in `folder`, an empty directory.

    Ids of runs and examples are random, so the page keeps the ids that it shows. If only volatile figures of an output
    have changed, the page keeps the output that it shows.
    """
    for name in FILES_COMMENT.findall(text):
        shutil.copytree(PROJECT / name, folder / Path(name).name)
    for command in SETUP_COMMENT.findall(text):
        _run_command(command, folder)
    id_by_shown_id: dict[str, str] = {}
    return BLOCK.sub(lambda block: _run_block(block[0], folder, id_by_shown_id), text)


def mask_volatile(text: str) -> str:
    """The text without the figures that change whenever a command is run."""
    for pattern, replacement in VOLATILE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def _run_block(block: str, folder: Path, id_by_shown_id: dict[str, str]) -> str:
    """The commands of a block, each with its output. Adds new ids to `id_by_shown_id`."""
    lines = []
    for command, shown_output in COMMAND.findall(block):
        raw_output = _run_command(_replace_all(command, id_by_shown_id), folder)
        for shown_id, new_id in zip(ID.findall(shown_output), ID.findall(raw_output), strict=False):
            id_by_shown_id.setdefault(shown_id, new_id)
        output = _replace_all(raw_output, {new_id: shown_id for shown_id, new_id in id_by_shown_id.items()})
        if mask_volatile(shown_output) == mask_volatile(output):
            output = shown_output
        lines.append(f"$ {command}\n{output}")
    return "".join(lines)


def _replace_all(text: str, replacements: dict[str, str]) -> str:
    return ID.sub(lambda match: replacements.get(match[0], match[0]), text)


def _run_command(line: str, folder: Path) -> str:
    """The output of a command on both streams, without trailing spaces."""
    program, *arguments = shlex.split(line, comments=True)
    assert program == "nanoflux", f"a session may contain only nanoflux commands: {line}"
    environment = {**os.environ, "NANOFLUX_HOME": str(folder / "home")}
    result = subprocess.run(
        [*NANOFLUX, *arguments], cwd=folder, env=environment, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert result.returncode == 0, f"{line}\n{result.stdout}"
    return "".join(f"{output_line.rstrip()}\n" for output_line in result.stdout.splitlines())


if __name__ == "__main__":
    for page in list_session_pages():
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(run_sessions(page.read_text("utf-8"), Path(folder)), "utf-8")
