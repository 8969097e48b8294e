"""Reads text files that users wrote: UTF-8, with or without a byte order mark. Errors name the actual encoding if a
byte order mark reveals it.
"""

import codecs
from pathlib import Path

_ENCODING_BY_MARK = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""The encoding of each byte order mark. The marks of UTF-32 come first, since they begin with those of UTF-16."""


class EncodingError(ValueError):
    """A file is not UTF-8; the message names its encoding if that can be recognised."""


def read_utf8(path: Path) -> str:
    """Read a file's text without its byte order mark. Raises OSError, and EncodingError if the text is not UTF-8."""
    return decode_utf8(path.read_bytes())


def decode_utf8(content: bytes) -> str:
    """Decode UTF-8 text without its byte order mark, with plain line feeds. Raises EncodingError."""
    encoding = detect_marked_encoding(content)
    if encoding:
        raise EncodingError(
            f"the file is {encoding}, not UTF-8; convert it with `iconv -f {encoding.lower()} -t utf-8`"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise EncodingError(f"line {line} is not UTF-8 (byte {content[error.start]:#04x})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def detect_marked_encoding(content: bytes) -> str:
    """Return "UTF-16" or "UTF-32" if the content opens with such a byte order mark, otherwise ""."""
    return next((name for mark, name in _ENCODING_BY_MARK.items() if content.startswith(mark)), "")
