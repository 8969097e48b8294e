"""Sessions on pages print the output that is shown, and all other commands and options on pages exist."""

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
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$|((?:^    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)


def page_name(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def list_commands(page: Path) -> Iterator[list[str]]:
    """The words of each `nanoflux …` command in a page's shell blocks and indented blocks."""
    for fenced, indented in SHELL_BLOCK.findall(page.read_text("utf-8")):
        lines = (fenced or indented).replace("\\\n", " ").splitlines()
        for line in (line.strip().removeprefix("$ ") for line in lines):
            command = re.match(r"(?:[A-Z_]+=\S+ |\S*/)*nanoflux ([a-z].*)", line)
            if command is not None:
                yield split_words(command[1])


def split_words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quotation that ends on another line
        return line.split()


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
    parameters = command.get_params(context)
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    matches = (re.fullmatch(r"\[?(--?[a-z][\w-]*)(?:=\S*)?\]?", word) for word in words)
    shown_options = [match[1] for match in matches if match is not None]
    return [option for option in shown_options if option not in options]


def test_pages_show_at_least_sixty_commands() -> None:
    assert sum(1 for page in PAGES if page.name not in UNCHECKED_PAGES for _ in list_commands(page)) >= 60


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in UNCHECKED_PAGES], ids=page_name)
def test_shown_commands_and_options_exist(page: Path) -> None:
    unknown_by_command = {" ".join(words): find_unknown_words(words) for words in list_commands(page)}
    assert not {command: unknown for command, unknown in unknown_by_command.items() if unknown}


@pytest.mark.parametrize("page", list_session_pages(), ids=page_name)
def test_sessions_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    assert mask_volatile(run_sessions(text, tmp_path)) == mask_volatile(text), "run: python tests/docs/sessions.py"
