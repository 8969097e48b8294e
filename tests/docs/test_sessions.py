"""The sessions on pages print the output that the page shows, and all other commands and options on pages exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nanoflux_local.cli.main import nanoflux
from tests.docs.sessions import PROJECT, list_session_pages, mask_volatile, run_sessions

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
UNCHECKED_PAGES = {"log.md", "commands.md"}  # the log shows old commands; commands.md is generated
CHECKED_PAGES = [page for page in PAGES if page.name not in UNCHECKED_PAGES]
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$|((?:^    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)
"""A block fenced with ```sh, or an indented block."""


def name_page(page: Path) -> str:
    """The path of a page in the project, as the id of a test."""
    return str(page.relative_to(PROJECT))


def list_commands(page: Path) -> Iterator[list[str]]:
    """The words of each `nanoflux …` command in a page's shell blocks and indented blocks."""
    for fenced, indented in SHELL_BLOCK.findall(page.read_text("utf-8")):
        for line in (fenced or indented).replace("\\\n", " ").splitlines():
            command_line = line.strip().removeprefix("$ ")
            match = re.match(r"(?:[A-Z_]+=\S+ |\S*/)*nanoflux ([a-z].*)", command_line)
            if match is not None:
                yield split_words(match[1])


def split_words(command_line: str) -> list[str]:
    try:
        return shlex.split(command_line, comments=True)
    except ValueError:  # a quotation continues on the next line
        return command_line.split()


def find_unknown_words(words: list[str]) -> list[str]:
    """The subcommands and options of a command line that do not exist."""
    command: click.Command = nanoflux
    context = click.Context(nanoflux, info_name="nanoflux", **nanoflux.context_settings)
    while words and isinstance(command, click.Group):
        subcommand = command.get_command(context, words[0])
        if subcommand is None:
            return words[:1]
        command, words = subcommand, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    known_options: set[str] = set()
    for parameter in command.get_params(context):
        known_options.update(parameter.opts, parameter.secondary_opts)
    matches = (re.fullmatch(r"\[?(--?[a-z][\w-]*)(?:=\S*)?\]?", word) for word in words)
    shown_options = [match[1] for match in matches if match is not None]
    return [option for option in shown_options if option not in known_options]


def test_pages_show_at_least_sixty_commands() -> None:
    commands = [words for page in CHECKED_PAGES for words in list_commands(page)]
    assert len(commands) >= 60, "the search for commands finds too few of them"


@pytest.mark.parametrize("page", CHECKED_PAGES, ids=name_page)
def test_shown_commands_and_options_exist(page: Path) -> None:
    unknown_by_command = {" ".join(words): find_unknown_words(words) for words in list_commands(page)}
    assert not {command: unknown for command, unknown in unknown_by_command.items() if unknown}


@pytest.mark.parametrize("page", list_session_pages(), ids=name_page)
def test_sessions_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    assert mask_volatile(run_sessions(text, tmp_path)) == mask_volatile(text), "run: python tests/docs/sessions.py"
