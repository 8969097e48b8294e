"""Reads the user's keymap, the file `keymap.toml` in the home directory, which assigns different keys to actions.

Each action has an id such as `run.export`. It consists of a section of the file, which stands for the class that binds
the action, and of the action's description in the footer.
"""

import re
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from textual.binding import Binding, BindingType
from textual.keys import KEY_NAME_REPLACEMENTS, Keys

from nanoflux_local.errors import ConfigError
from nanoflux_local.suggestions import suggest
from nanoflux_local.text_files import EncodingError, read_utf8

KEY_NAMES = {*(str(key.value) for key in Keys), *KEY_NAME_REPLACEMENTS.values()}
"""Textual's key names of more than one character, such as "f5" or "slash"."""
MODIFIERS = ("ctrl", "shift", "alt")
"""The names that may precede a key's name, each followed by "+"."""
ACTIONS: dict[str, dict[str, list[str]]] = {}
"""The default keys by section and action. Importing a class adds the actions that the class binds."""


def name_bindings(section: str, bindings: Sequence[BindingType]) -> list[BindingType]:
    """Give each binding of a class the id `section.action`, under which `keymap.toml` can assign other keys to it."""
    actions = ACTIONS.setdefault(section, {})
    named_bindings = list[BindingType]()
    for binding in Binding.make_bindings(bindings):
        action = re.sub(r"[^a-z0-9]+", "-", binding.description.lower()).strip("-")
        actions.setdefault(action, []).append(binding.key)
        named_bindings.append(replace(binding, id=f"{section}.{action}"))
    return named_bindings


def load_keymap(path: Path) -> dict[str, str]:
    """Read the user's keymap: for the id of each action in the file, its new keys, separated by commas as Textual
    expects them; {} if there is no file.

    Raises:
        ConfigError: the file is not TOML, names an unknown section, action or key, or gives two actions the same key.
    """
    if not path.exists():
        return {}
    try:
        text = read_utf8(path)
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "correct the permissions of the file") from error
    except EncodingError as error:
        raise ConfigError(f"{path}: {error}", "save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}", 'write lines such as export = "X" below a line such as [run]') from error
    _import_screens()
    return _KeymapReader(path, text).read(document)


def format_keymap(path: Path) -> str:
    """Every action with its default keys, as the content of a `keymap.toml` in which each line is commented out."""
    _import_screens()
    lines = [f"# Keys of nanoflux-tui. Save this as {path}", "# and remove the # from the lines that you change."]
    for section, actions in sorted(ACTIONS.items()):
        lines += ["", f"[{section}]"]
        for action, keys in actions.items():
            quoted_keys = ", ".join(f'"{key}"' for key in keys)
            toml_value = quoted_keys if len(keys) == 1 else f"[{quoted_keys}]"
            lines.append(f"# {action} = {toml_value}")
    return "\n".join(lines) + "\n"


def _import_screens() -> None:
    """Import every screen, since importing a class records its actions."""
    from importlib import import_module
    from pkgutil import iter_modules

    folder = Path(__file__).parent / "screens"
    import_module("nanoflux_tui.app")
    for module in iter_modules([str(folder)]):
        import_module(f"nanoflux_tui.screens.{module.name}")


class _KeymapReader:
    """Checks the content of a keymap file. Its errors name the line of the mistake."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._lines = path, text.splitlines()

    def read(self, document: dict[str, Any]) -> dict[str, str]:
        """For the id of each action in the parsed file, the action's keys, separated by commas."""
        keymap: dict[str, str] = {}
        for section, table in document.items():
            if section not in ACTIONS or not isinstance(table, dict):
                raise self._build_error(section, "", f"unknown section {section!r}", suggest(section, ACTIONS))
            for action, value in table.items():
                if action not in ACTIONS[section]:
                    fix = suggest(action, ACTIONS[section])
                    raise self._build_error(section, action, f"unknown action {action!r} in [{section}]", fix)
                keymap[f"{section}.{action}"] = ",".join(self._read_keys(section, action, value))
            self._refuse_clash(section, keymap, table)
        return keymap

    def _read_keys(self, section: str, action: str, value: object) -> list[str]:
        """The keys of an action, whose TOML value is a key or a list of keys."""
        keys = [value] if isinstance(value, str) else value
        if not isinstance(keys, list) or not keys:
            fix = 'write a key such as "x", or several such as ["x", "f5"]'
            raise self._build_error(section, action, f"{value!r} is not a key", fix)
        for key in keys:
            if not isinstance(key, str) or not _is_key(key):
                fix = "name a key such as x, X, space, f5, ctrl+x or slash"
                raise self._build_error(section, action, f"unknown key {key!r}", fix)
        return keys

    def _refuse_clash(self, section: str, keymap: dict[str, str], table: dict[str, Any]) -> None:
        """Raise an error if two actions of a section share a key. `table` is the section in the file. Its actions are
        checked last, so that the error names the line of an action in the file.
        """
        actions = [action for action in ACTIONS[section] if action not in table]
        actions += [action for action in ACTIONS[section] if action in table]
        action_by_key: dict[str, str] = {}
        for action in actions:
            default_keys = ",".join(ACTIONS[section][action])
            for key in keymap.get(f"{section}.{action}", default_keys).split(","):
                earlier_action = action_by_key.setdefault(key, action)
                if earlier_action != action:
                    message = f"the key {key!r} already belongs to {earlier_action!r} in [{section}]"
                    fix = f"choose another key, or give {earlier_action!r} another one"
                    raise self._build_error(section, action, message, fix)

    def _build_error(self, section: str, action: str, message: str, fix: str) -> ConfigError:
        return ConfigError(f"{self._path}:{self._find_line(section, action)}: {message}", fix)

    def _find_line(self, section: str, action: str) -> int:
        """The line of an action, or of the section if `action` is ""; 1 if the text has no such line."""
        current_section = ""
        for number, line in enumerate(self._lines, 1):
            header = re.match(r"""\s*\[\s*["']?([^"'\]]+?)["']?\s*\]""", line)  # a line such as [run]
            assignment = re.match(r"\s*([^=#]+?)\s*=", line)  # a line such as export = "X", or run.export = "X"
            if header:
                current_section = header[1]
                if not action and current_section == section:
                    return number
            elif assignment:
                name = re.sub(r"""["'\s]""", "", assignment[1])
                full_name = f"{current_section}.{name}" if current_section else name
                if full_name == f"{section}.{action}" or (not action and full_name.split(".")[0] == section):
                    return number
        return 1


def _is_key(key: str) -> bool:
    """Whether `key` names a key that a terminal can send: any `MODIFIERS`, each followed by "+", and then a character,
    one of `KEY_NAMES`, or the Unicode name of a character.
    """
    *modifiers, name = key.split("+")
    if any(modifier not in MODIFIERS for modifier in modifiers):
        return False
    if len(name) == 1 or name in KEY_NAMES:
        return bool(name.strip()) and name != ","
    try:
        unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        return False
    return True
