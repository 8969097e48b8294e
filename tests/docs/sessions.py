"""Runs the terminal sessions that pages show: each ```console block, in the page's order, in one new home.

A comment `<!-- setup: nanoflux … -->` runs before them; its output is not shown.

`python tests/docs/sessions.py` writes today's output into the pages; `make docs` does so too.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]
NANOFLUX = (sys.executable, "-m", "nanoflux_local.cli")
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
SETUP = re.compile(r"^<!-- setup: (.*) -->$", re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
ID = re.compile(r"\b(?:starter-[0-9a-f]{8}|[0-9a-f]{16})\b")
VOLATILE = (
    (r"^(seconds|kept per hour|calls|tokens|SHA-256) +.*", r"\1"),  # depend on the machine or on ids
    (r"(?<= turns), .* left$", ""),  # a slow machine has time to measure a rate
    (r"^\d+ +(?=(attacker|judge|defender|embed) )", ""),  # a call's number depends on the order of replies
)


def session_pages() -> list[Path]:
    """The pages with at least one session, among the README and those in docs/."""
    pages = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
    return [page for page in pages if BLOCK.search(page.read_text("utf-8"))]


def run_sessions(text: str, folder: Path) -> str:
    """A page's text with the output that its commands give today; they run in `folder`, an empty directory.

    Ids of runs and examples are drawn at random: the page keeps those that it shows. Output whose only differences are
    volatile figures is left as the page shows it.
    """
    for command in SETUP.findall(text):
        _run_command(command, folder)
    id_here: dict[str, str] = {}  # by the id that the page shows
    return BLOCK.sub(lambda block: _run_block(block[0], folder, id_here), text)


def mask_volatile(text: str) -> str:
    """The text without figures that differ between two runs of one command."""
    for pattern, replacement in VOLATILE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def _run_block(block: str, folder: Path, id_here: dict[str, str]) -> str:
    """Each command of a block, followed by what it prints."""
    lines = []
    for command, shown in COMMAND.findall(block):
        output = _run_command(_replace_all(command, id_here), folder)
        id_here |= {
            old: new for old, new in zip(ID.findall(shown), ID.findall(output), strict=False) if old not in id_here
        }
        output = _replace_all(output, {new: old for old, new in id_here.items()})
        lines.append(f"$ {command}\n{shown if mask_volatile(shown) == mask_volatile(output) else output}")
    return "".join(lines)


def _replace_all(text: str, replacements: dict[str, str]) -> str:
    return ID.sub(lambda match: replacements.get(match[0], match[0]), text)


def _run_command(line: str, folder: Path) -> str:
    """What a command prints, on both streams, without trailing spaces."""
    program, *arguments = shlex.split(line, comments=True)
    assert program == "nanoflux", f"a session shows commands of nanoflux alone: {line}"
    environment = {**os.environ, "NANOFLUX_HOME": str(folder / "home")}
    ended = subprocess.run(
        [*NANOFLUX, *arguments], cwd=folder, env=environment, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ended.returncode == 0, f"{line}\n{ended.stdout}"
    return "".join(f"{printed.rstrip()}\n" for printed in ended.stdout.splitlines())


if __name__ == "__main__":
    for page in session_pages():
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(run_sessions(page.read_text("utf-8"), Path(folder)), "utf-8")
