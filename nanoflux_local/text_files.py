"""Text files of users: UTF-8, with or without the byte order mark of some editors; other encodings are named."""

import codecs
from pathlib import Path

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""The mark of UTF-32 begins with that of UTF-16: the longer ones come first."""


class EncodingError(ValueError):
    """A file is not UTF-8; the text says what it is instead, as far as that shows."""


def read_utf8(path: Path) -> str:
    """A file's text without its byte order mark. Raises OSError, and EncodingError for another encoding."""
    return decode_utf8(path.read_bytes())


def decode_utf8(content: bytes) -> str:
    """The same of bytes. Raises EncodingError."""
    encoding = encoding_by_mark(content)
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


def encoding_by_mark(content: bytes) -> str:
    """ "UTF-16" or "UTF-32" where the first bytes are such a byte order mark, otherwise ""."""
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
