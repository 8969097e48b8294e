"""Generates the reference page of all commands: `python -m nanoflux_local.cli.manual`.

The texts of the page are the commands' help texts; this module defines the layout.
"""

from collections.abc import Iterator

import click

from nanoflux_local.cli.main import nanoflux

HEAD = """# Commands

*For anyone who uses the command line. Afterwards you know the options of each command, and what the exit codes mean.*

`make docs` generates this page from the help of the commands; do not edit it. Exit codes: 0 done, 1 failed, 2 wrong
usage or input, 3 refused by a rule, 4 nothing matched, 130 interrupted (committed work is kept). With `--json`, a
command prints one document on stdout; progress and messages go to stderr.
"""


def render_manual() -> str:
    """Render the page as Markdown."""
    context = nanoflux.make_context("nanoflux", [], resilient_parsing=True)
    page = "\n".join([HEAD, *_render_sections(context, level=2)])
    return f"{page.rstrip()}\n"


def _render_sections(context: click.Context, level: int) -> Iterator[str]:
    """The section of a command, followed by the sections of its subcommands."""
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    heading = f"{'#' * min(level, 3)} {context.command_path}"
    yield f"{heading}\n\n{_format_paragraphs(command.help or '')}\n\n```\n{usage}\n```\n"
    options = list(_list_options(command, context))
    if options:
        yield "| option | meaning |\n|---|---|"
        yield from (f"| `{_escape_cell(option)}` | {_escape_cell(meaning)} |" for option, meaning in options)
        yield ""
    if isinstance(command, click.Group):
        for subcommand_name in command.list_commands(context):
            subcommand = command.get_command(context, subcommand_name)
            assert subcommand is not None  # its name comes from list_commands
            yield from _render_sections(click.Context(subcommand, parent=context, info_name=subcommand_name), level + 1)


def _list_options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """The options of a command, except `--help`, as click writes them, each with its meaning."""
    for parameter in command.get_params(context):
        help_record = parameter.get_help_record(context)
        if help_record is not None and "--help" not in help_record[0]:
            yield help_record


def _format_paragraphs(text: str) -> str:
    """A help text as Markdown paragraphs, without click's formatting marks."""
    lines = [line.strip() for line in text.replace("\b", "").strip().splitlines()]
    return "\n".join(lines).replace("<", "&lt;")


def _escape_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    click.echo(render_manual(), nl=False)
