"""Makes the output of an untrusted program safe to store and to display.

Control characters could move a terminal's cursor, change its title or hide a line; direction overrides and invisible
tags could disguise text. Each of them becomes a visible escape; newlines and tabs stay.
"""

from __future__ import annotations

_CONTROLS = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)]
_SEPARATORS = [0x2028, 0x2029]
_DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_INVISIBLE = [0xFEFF, *range(0xFFF9, 0xFFFC), *range(0xE0000, 0xE0080)]
_SURROGATES = range(0xD800, 0xE000)


def _format_escape(code: int) -> str:
    """The escape of a character as in a Python string: `\\x1b`, `\\u202e`, `\\U000e0001`."""
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_ESCAPES = {code: _format_escape(code) for code in (*_CONTROLS, *_SEPARATORS, *_DIRECTIONS, *_INVISIBLE, *_SURROGATES)}


def escape_unsafe(text: str) -> str:
    """The text with a visible escape for each unsafe character (see above), and with `\\n` for each `\\r\\n`."""
    return text.replace("\r\n", "\n").translate(_ESCAPES)


def decode_output(raw: bytes) -> str:
    """A program's output as harmless text, decoded as UTF-8 with U+FFFD for invalid bytes. Never raises an error."""
    return escape_unsafe(raw.decode("utf-8", "replace"))
