"""Tables: the rows of a data file, whatever its layout, in bounded memory.

JSON Lines (also under a `.json` name), one JSON array or object, CSV, XML, XLSX, Parquet, and folders that the
`datasets` library saved. Knows nothing of benchmarks: a row is a mapping, with its place for messages.
"""

import codecs
import csv
import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from nanoflux_local.errors import DataError
from nanoflux_local.text_files import encoding_by_mark

MAX_LINE_BYTES = 4 * 2**20
MAX_WHOLE_BYTES = 64 * 2**20
"""Of a layout that can only be read whole: one JSON value, XML."""
MAX_UNPACKED_BYTES = 256 * 2**20
"""Of a workbook, and of one row group of a Parquet file, after decompression."""
BATCH = 1000
LONGEST_INTEGER = 400
"""Digits: no double holds as many."""
_QUESTION_KEYS = ("question", "input")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `place` names it ("line 3"), `number` counts from 1; `problem` says why it has no `values`."""

    place: str
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_rows(path: Path, columns: Sequence[str] = (), element: str = "") -> Iterator[Row]:
    """The rows of a file, or of a saved folder of one split.

    `columns` name the cells of a CSV file that has no header; `element` is the XML element that is a row.

    Raises:
        DataError: the file cannot be read as what its name and first bytes say it is; rows before are not taken back.
    """
    try:
        yield from _reader(path, columns, element)
    except OSError as error:
        fail(path, error.strerror or str(error), "pass a file that exists and can be read")


def _reader(path: Path, columns: Sequence[str], element: str) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if path.is_dir():
        return _arrow_folder(path)
    if suffix == ".csv":
        return _csv(path, columns)
    if suffix == ".xlsx":
        return _xlsx(path)
    if suffix == ".xml":
        return _xml(path, element)
    if suffix == ".parquet":
        return _parquet(path)
    return _json_lines(path) if _is_lines(path) else _json_whole(path)


def fail(path: Path, reason: str, fix: str = "correct the file; nothing was imported") -> NoReturn:
    """Refuse a whole file."""
    raise DataError(f"{path}: {reason}", fix)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, one in memory at a time; one that is too long comes cut, a byte over the limit."""
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if number == 1:
                _refuse_encoding(path, line)
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)


def _refuse_encoding(path: Path, content: bytes) -> None:
    encoding = encoding_by_mark(content)
    if encoding:
        kind = "CSV" if path.suffix.lower() == ".csv" else "JSON"
        fix = f"convert it: `iconv -f {encoding.lower()} -t utf-8`; nothing was imported"
        fail(path, f"the file is {encoding}, not {kind} in UTF-8", fix)


class _Ambiguous(dict[str, Any]):
    """An object with a key that is given twice: nobody can say which value is meant."""

    key: str


def _parse(content: bytes) -> Any:
    """A JSON value. Raises ValueError with the reason if it is not valid."""
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    ambiguous = _Ambiguous(values)
    ambiguous.key = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
    return ambiguous


def _whole_number(digits: str) -> int | float:
    """A whole number; one beyond every double is infinite, as 1e999 is."""
    return int(digits) if len(digits) <= LONGEST_INTEGER else float(digits)


def _key_given_twice(value: Any) -> str:
    """The key that stands twice in an object or in an object inside it, or ""."""
    if isinstance(value, _Ambiguous):
        return value.key
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_key_given_twice, inner)), "")


def _is_lines(path: Path) -> bool:
    """Whether a file is JSON Lines: by its name, or because its first line is a row and no table of rows."""
    if path.suffix.lower() != ".json":
        return True
    first = next((line for _, line in _lines(path) if line.strip()), b"")
    try:
        value = _parse(first)
    except ValueError:
        return not first.lstrip().startswith((b"{", b"["))
    if not isinstance(value, dict):
        return False
    is_row = any(key.casefold() in _QUESTION_KEYS for key in value)
    return is_row or not all(isinstance(entry, dict | str) for entry in value.values())


def _json_lines(path: Path) -> Iterator[Row]:
    rows = 0
    for number, line in _lines(path):
        if line.strip():
            rows += 1
            yield _json_row(f"line {number}", rows, line)


def _json_row(place: str, number: int, line: bytes) -> Row:
    if len(line) > MAX_LINE_BYTES:
        return Row(place, number, problem=f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        value = _parse(line)
    except ValueError as error:
        return Row(place, number, problem=f"not JSON in UTF-8: {error}")
    return _row(place, number, value)


def _row(place: str, number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(place, number, problem="not a JSON object")
    twice = _key_given_twice(value)
    return Row(place, number, problem=f"the key {twice!r} is given twice") if twice else Row(place, number, value)


def _json_whole(path: Path) -> Iterator[Row]:
    """One array of objects, or one object whose keys name its rows: they are given as the value of `""`."""
    _refuse_larger(path, path.stat().st_size, MAX_WHOLE_BYTES)
    try:
        content = path.read_bytes()
        _refuse_encoding(path, content)
        value = _parse(content.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        fail(path, f"not JSON in UTF-8: {error}")
    if isinstance(value, list):
        entries: Iterable[tuple[str, Any]] = ((f"entry {number}", entry) for number, entry in enumerate(value, 1))
    else:
        if isinstance(value, _Ambiguous):
            fail(path, f"the key {value.key!r} is given twice")
        named = value.items() if isinstance(value, dict) else fail(path, "neither an array nor an object")
        entries = ((f"entry {key!r}", {"": key, **_as_object(entry)}) for key, entry in named)
    for number, (place, entry) in enumerate(entries, 1):
        yield _row(place, number, entry)


def _as_object(entry: Any) -> dict[str, Any]:
    return entry if isinstance(entry, dict) else {"value": entry}


def _refuse_larger(path: Path, size: int, limit: int) -> None:
    if size > limit:
        fail(path, f"{size} bytes are more than the {limit} that can be read at once", "split the file")


def _csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """A header is recognised by its holding no cell that is longer than a name or empty, and by `columns`."""
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(_csv_lines(path), strict=True)
    header: Sequence[str] = ()
    number = 0
    try:
        for cells in reader:
            if not header:
                header = columns if columns and len(cells) == len(columns) and not _is_header(cells) else cells
                if header is cells:
                    continue
            if cells:
                number += 1
                yield _csv_row(f"line {reader.line_num}", number, header, cells)
    except csv.Error as error:
        fail(path, f"line {reader.line_num}: not CSV: {error}")


def _is_header(cells: Sequence[str]) -> bool:
    return any(cell.strip().casefold() in ("question", "answer") for cell in cells)


def _csv_lines(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        if len(line) > MAX_LINE_BYTES:
            fail(path, f"line {number}: longer than {MAX_LINE_BYTES} bytes")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            fail(path, f"line {number}: not UTF-8: {error}")


def _csv_row(place: str, number: int, header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        return Row(place, number, problem=f"{len(cells)} cells where {len(header)} are expected")
    return Row(place, number, dict(zip(header, cells, strict=True)))


def _xlsx(path: Path) -> Iterator[Row]:
    """The first sheet of a workbook; its first row is the header."""
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_larger(path, sum(entry.file_size for entry in archive.infolist()), MAX_UNPACKED_BYTES)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError) as error:
        fail(path, f"not an XLSX workbook: {error}")
    try:
        sheet = book.worksheets[0].iter_rows(values_only=True)
        header = [str(cell).strip() for cell in next(sheet, ())]
        for number, cells in enumerate(sheet, 1):
            values = dict(zip(header, cells, strict=False))
            if any(cell is not None for cell in cells):
                yield Row(f"row {number + 1}", number, values)
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, SyntaxError) as error:  # XML's is a SyntaxError
        fail(path, f"not an XLSX workbook: {error}")
    finally:
        book.close()


def _xml(path: Path, element: str) -> Iterator[Row]:
    """Each `element` as the value of `""`. Entities and external references are refused."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    _refuse_larger(path, path.stat().st_size, MAX_WHOLE_BYTES)
    try:
        tree = parse(path)
    except ParseError as error:
        fail(path, f"not XML: {error}")
    except (DefusedXmlException, ValueError, LookupError) as error:
        fail(path, f"XML that is not read: {error}")
    for number, node in enumerate(tree.iter(element), 1):
        yield Row(f"{element} {number}", number, {"": node})


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        groups = (file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
        _refuse_larger(path, max(groups, default=0), MAX_UNPACKED_BYTES)
        yield from _arrow_rows(file.iter_batches(BATCH))
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file itself, not what is in it
            raise
        fail(path, f"not a Parquet file: {str(error).strip()}")


def _arrow_folder(path: Path) -> Iterator[Row]:
    """A split that the `datasets` library saved: its `.arrow` files in order."""
    import pyarrow

    files = sorted(path.glob("*.arrow"))
    if not files:
        fail(path, "a folder without .arrow files", "pass a data file, or a folder that the datasets library saved")
    numbers = itertools.count(1)
    for file in files:
        try:
            with pyarrow.OSFile(str(file)) as source, pyarrow.ipc.open_stream(source) as batches:
                yield from _arrow_rows(batches, numbers)
        except pyarrow.ArrowException as error:
            fail(file, f"not an Arrow stream: {error}")


def _arrow_rows(batches: Iterable[Any], numbers: Iterator[int] | None = None) -> Iterator[Row]:
    numbers = numbers or itertools.count(1)
    for batch in batches:
        for values in batch.to_pylist():
            number = next(numbers)
            yield Row(f"row {number}", number, values)
