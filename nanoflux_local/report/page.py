"""Renders the templates of all reports with every value escaped, and writes files completely or not at all."""

import re
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from nanoflux_local.errors import NanofluxError
from nanoflux_local.experiments.tables import format_percent, format_points
from nanoflux_local.quantities import format_quantity

MAX_CHARACTERS = 20_000
"""Maximum length of a string on a page, since a model may write a line of several megabytes."""
_CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tabs and line breaks, marks that change the writing direction, and surrogates."""


def render_page(template: str, values: dict[str, Any]) -> str:
    """Render a template of this package with `values`, which are escaped, so that no generated text can run as a script
    or change the structure of the page.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=sanitize
    )
    folder = resources.files(__package__)
    environment.loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment.filters |= {"percent": format_percent, "points": format_points, "quantity": format_quantity}
    return environment.get_template(template).render(values)


def sanitize(value: object) -> object:
    """Replace a string's control characters, including those that change the writing direction, and truncate a string
    that is longer than `MAX_CHARACTERS`. Other values are returned unchanged, including `Markup`, a subclass of str
    that contains the page's own HTML.
    """
    if type(value) is not str:
        return value
    omitted_count = len(value) - MAX_CHARACTERS
    noun = "character" if omitted_count == 1 else "characters"
    notice = f"… ({omitted_count:,} more {noun}: see nanoflux examples show)" if omitted_count > 0 else ""
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", value[:MAX_CHARACTERS]) + notice


def write_atomically(target: Path, text: str) -> Path:
    """Write a file completely, or leave the old one unchanged.

    Raises:
        NanofluxError: the file cannot be written.
    """
    temporary_file = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary_file.write_text(text, encoding="utf-8")
        temporary_file.replace(target)
    except OSError as error:
        with suppress(OSError):
            temporary_file.unlink()
        raise NanofluxError(
            f"{target} cannot be written: {error.strerror}", "choose another directory with -o"
        ) from error
    return target
