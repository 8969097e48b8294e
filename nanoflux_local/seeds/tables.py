"""Reads the rows of data files in bounded memory.

The formats are JSON Lines (also in files named `.json`), one JSON array or object, CSV, XML, XLSX, Parquet, and folders
that the `datasets` library saved. This module is independent of the benchmarks: a row is a mapping, with its location
for error messages.
"""

import codecs
import csv
import itertools
import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from nanoflux_local.errors import DataError
from nanoflux_local.quantities import format_quantity
from nanoflux_local.text_files import detect_marked_encoding

MAX_LINE_BYTES = 4 * 2**20
"""Maximum length of a line, including its line break; also the maximum length of a CSV cell in characters."""
MAX_WHOLE_BYTES = 64 * 2**20
"""Maximum size of a file that can only be read as a whole: a single JSON value or XML."""
MAX_UNPACKED_BYTES = 256 * 2**20
"""Maximum size of a workbook, or of one row group of a Parquet file, after decompression."""
ROWS_PER_BATCH = 1000
"""The number of rows of a Parquet file that are in memory at a time."""
MAX_INTEGER_DIGITS = 400
"""Maximum number of digits of an integer that is read exactly; longer integers are beyond the range of a double."""
_QUESTION_KEYS = ("question", "input")
"""The keys under which benchmarks store a question: an object with one of them is a row."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row. `location` is for messages ("line 3"), and `number` counts rows from 1. If the row cannot be read,
    `problem` says why and `values` is empty.
    """

    location: str
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_rows(path: Path, columns: Sequence[str] = (), element: str = "") -> Iterator[TableRow]:
    """The rows of a file, or of a folder in which the `datasets` library saved one split.

    `columns` are the names of the columns if a CSV file has no header; `element` is the XML element that is a row.

    Raises:
        DataError: the file is not in the format that its name and first bytes indicate. The rows before the error have
        been yielded by then.
    """
    try:
        yield from _choose_reader(path, columns, element)
    except OSError as error:
        fail(path, error.strerror or str(error), "pass a file that exists and can be read")


def _choose_reader(path: Path, columns: Sequence[str], element: str) -> Iterator[TableRow]:
    """The rows of a file, from the reader for its suffix and first line."""
    suffix = path.suffix.lower()
    if element and suffix != ".xml":
        fail(path, f"not an XML file with {element} elements", "pass the benchmark's file, whose name ends in .xml")
    if path.is_dir():
        return _read_arrow_folder(path)
    if suffix == ".csv":
        return _read_csv(path, columns)
    if suffix == ".xlsx":
        return _read_xlsx(path)
    if suffix == ".xml":
        return _read_xml(path, element)
    if suffix == ".parquet":
        return _read_parquet(path)
    return _read_json_lines(path) if _is_json_lines(path) else _read_json_value(path)


def fail(path: Path, reason: str, fix: str = "correct the file; nothing was imported") -> NoReturn:
    """Raise the DataError that refuses the whole file."""
    raise DataError(f"{path}: {reason}", fix)


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, numbered from 1; only one line is in memory at a time. A line with more than
    `MAX_LINE_BYTES` is truncated to one byte more than this limit.
    """
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if number == 1:
                _refuse_encoding(path, line)
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line
            last_part = line
            while len(last_part) > MAX_LINE_BYTES and not last_part.endswith(b"\n"):  # skip the rest of a long line
                last_part = file.readline(MAX_LINE_BYTES + 1)


def _refuse_encoding(path: Path, content: bytes) -> None:
    """Refuse the file if its byte order mark is that of UTF-16 or UTF-32."""
    encoding = detect_marked_encoding(content)
    if encoding:
        kind = "CSV" if path.suffix.lower() == ".csv" else "JSON"
        fix = f"convert it: `iconv -f {encoding.lower()} -t utf-8`; nothing was imported"
        fail(path, f"the file is {encoding}, not {kind} in UTF-8", fix)


class _ObjectWithRepeatedKey(dict[str, Any]):
    """A JSON object that has the same `key` twice, so that the value of this key is ambiguous."""

    key: str


def _parse_json(content: bytes) -> Any:
    """Parse a JSON value. Raises ValueError with the reason if `content` is not valid JSON in UTF-8."""
    try:
        return json.loads(
            content.decode("utf-8"), object_pairs_hook=_build_object, parse_int=_parse_integer, parse_float=_parse_float
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its keys and values; an `_ObjectWithRepeatedKey` if a key is repeated."""
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    object_with_repeated_key = _ObjectWithRepeatedKey(values)
    object_with_repeated_key.key = _find_repeated_name([key for key, _ in pairs])
    return object_with_repeated_key


def _find_repeated_name(names: Sequence[str]) -> str:
    """The first of `names` that occurs earlier in the list too; "" if there is none."""
    return next((name for index, name in enumerate(names) if name in names[:index]), "")


def _refuse_repeated_columns(path: Path, location: str, names: Iterable[str]) -> None:
    """Refuse the file if two columns have the same name, because the values of this column are ambiguous. Columns
    without a name may be repeated: spreadsheet programs write them for cells that look empty.
    """
    repeated_name = _find_repeated_name([name for name in names if name.strip()])
    if repeated_name:
        fix = "rename or remove one of the two columns; nothing was imported"
        fail(path, f"{location}: the column {repeated_name!r} is given twice", fix)


def _parse_integer(digits: str) -> int | float:
    """An integer with at most `MAX_INTEGER_DIGITS` digits; a longer one becomes infinity, as 1e999 does."""
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else float(digits)


def _parse_float(digits: str) -> float | Decimal:
    """A number with a fraction or an exponent: a float if printing that float gives the same number, else a Decimal,
    which keeps all digits. A number beyond the range of a double becomes infinity.
    """
    number = float(digits)
    try:
        decimal = Decimal(digits)
    except InvalidOperation:  # an exponent of 20 digits
        return number
    return number if math.isinf(number) or decimal == Decimal(repr(number)) else decimal


def _find_repeated_key(value: Any) -> str:
    """A key that occurs twice in one object, at any depth of `value`; "" if there is none."""
    if isinstance(value, _ObjectWithRepeatedKey):
        return value.key
    inner_values: Iterable[Any] = ()
    if isinstance(value, dict):
        inner_values = value.values()
    elif isinstance(value, list):
        inner_values = value
    for inner_value in inner_values:
        repeated_key = _find_repeated_key(inner_value)
        if repeated_key:
            return repeated_key
    return ""


def _is_json_lines(path: Path) -> bool:
    """Whether a file is JSON Lines: its name does not end in `.json`, or its first line is a row rather than an object
    that maps names to rows.
    """
    if path.suffix.lower() != ".json":
        return True
    first_line = next((line for _, line in _read_lines(path) if line.strip()), b"")
    try:
        value = _parse_json(first_line)
    except ValueError:
        return not first_line.lstrip().startswith((b"{", b"["))
    if not isinstance(value, dict):
        return False
    is_row = any(key.casefold() in _QUESTION_KEYS for key in value)
    return is_row or not all(isinstance(entry, dict | str) for entry in value.values())


def _read_json_lines(path: Path) -> Iterator[TableRow]:
    """The rows of a JSON Lines file. Blank lines are counted as lines, but not as rows."""
    row_count = 0
    for number, line in _read_lines(path):
        if line.strip():
            row_count += 1
            yield _parse_json_row(f"line {number}", row_count, line)


def _parse_json_row(location: str, number: int, line: bytes) -> TableRow:
    """The row in a line of a JSON Lines file."""
    if len(line) > MAX_LINE_BYTES:
        return TableRow(location, number, problem=f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        value = _parse_json(line)
    except ValueError as error:
        return TableRow(location, number, problem=f"not JSON in UTF-8: {error}")
    return _build_row(location, number, value)


def _build_row(location: str, number: int, value: Any) -> TableRow:
    """A row from its parsed JSON value."""
    if not isinstance(value, dict):
        return TableRow(location, number, problem="not a JSON object")
    repeated_key = _find_repeated_key(value)
    if repeated_key:
        return TableRow(location, number, problem=f"the key {repeated_key!r} is given twice")
    return TableRow(location, number, value)


def _read_json_value(path: Path) -> Iterator[TableRow]:
    """The rows of a JSON array of objects, or of a JSON object that maps names to rows. In the latter case, each row
    has its name under the key `""`.
    """
    _refuse_larger(path, path.stat().st_size, MAX_WHOLE_BYTES)
    try:
        content = path.read_bytes()
        _refuse_encoding(path, content)
        value = _parse_json(content.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        fail(path, f"not JSON in UTF-8: {error}")
    if isinstance(value, list):
        entries: Iterable[tuple[str, Any]] = ((f"entry {number}", entry) for number, entry in enumerate(value, 1))
    elif isinstance(value, _ObjectWithRepeatedKey):
        fail(path, f"the key {value.key!r} is given twice")
    elif isinstance(value, dict):
        entries = ((f"entry {key!r}", {"": key, **_as_object(entry)}) for key, entry in value.items())
    else:
        fail(path, "the JSON value is neither an array nor an object")
    for number, (location, entry) in enumerate(entries, 1):
        yield _build_row(location, number, entry)


def _as_object(entry: Any) -> dict[str, Any]:
    """An entry as an object; other values are put under the key "value"."""
    return entry if isinstance(entry, dict) else {"value": entry}


def _refuse_larger(path: Path, size: int, limit: int) -> None:
    """Refuse the file if its content has more than `limit` bytes."""
    if size > limit:
        fail(path, f"{size} bytes are more than the {limit} bytes that can be read at once", "split the file")


def _read_csv(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    """The rows of a CSV file. The first row is the header, unless it has as many cells as `columns` and none of them is
    "question" or "answer": then the file has no header, and `columns` names the cells.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(_decode_csv_lines(path), strict=True)
    header: Sequence[str] = ()
    number = 0
    try:
        for cells in reader:
            if not header:
                has_header = not columns or len(cells) != len(columns) or _is_header(cells)
                header = cells if has_header else columns
                if has_header:
                    _refuse_repeated_columns(path, f"line {reader.line_num}", header)
                    continue
            if cells:
                number += 1
                yield _build_csv_row(f"line {reader.line_num}", number, header, cells)
    except csv.Error as error:
        fail(path, f"line {reader.line_num}: not CSV: {error}")


def _is_header(cells: Sequence[str]) -> bool:
    """Whether the cells are column names: one of them is "question" or "answer"."""
    return any(cell.strip().casefold() in ("question", "answer") for cell in cells)


def _decode_csv_lines(path: Path) -> Iterator[str]:
    """The decoded lines of a CSV file. A line that is too long or not UTF-8 refuses the file."""
    for number, line in _read_lines(path):
        if len(line) > MAX_LINE_BYTES:
            fail(path, f"line {number}: longer than {MAX_LINE_BYTES} bytes")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            fail(path, f"line {number}: not UTF-8: {error}")


def _build_csv_row(location: str, number: int, header: Sequence[str], cells: Sequence[str]) -> TableRow:
    """A row from its cells, with the names in `header` as keys."""
    if len(cells) != len(header):
        return TableRow(location, number, problem=_describe_cell_count(len(cells), len(header)))
    return TableRow(location, number, dict(zip(header, cells, strict=True)))


def _describe_cell_count(count: int, expected_count: int) -> str:
    """The problem of a row with more or fewer cells than expected."""
    verb = "is" if expected_count == 1 else "are"
    return f"{format_quantity(count, 'cell')}, but {expected_count} {verb} expected"


def _read_xlsx(path: Path) -> Iterator[TableRow]:
    """The rows of a workbook's first sheet, whose first row is the header."""
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
            _refuse_larger(path, unpacked_bytes, MAX_UNPACKED_BYTES)
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError) as error:
        fail(path, f"not an XLSX workbook: {error}")
    try:
        sheet_rows = workbook.worksheets[0].iter_rows(values_only=True)
        header_cells = next(sheet_rows, ())
        _refuse_repeated_columns(path, "row 1", (str(cell).strip() for cell in header_cells if cell is not None))
        header = [str(cell).strip() for cell in header_cells]
        for number, cells in enumerate(sheet_rows, 1):
            values = dict(zip(header, cells, strict=False))
            if any(cell is not None for cell in cells):
                yield TableRow(f"row {number + 1}", number, values)  # the header is row 1 of the sheet
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, SyntaxError) as error:  # bad XML raises SyntaxError
        fail(path, f"not an XLSX workbook: {error}")
    finally:
        workbook.close()


def _read_xml(path: Path, element: str) -> Iterator[TableRow]:
    """A row for each XML element named `element`; the row's key `""` holds the element. Entities and external
    references are refused.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    _refuse_larger(path, path.stat().st_size, MAX_WHOLE_BYTES)
    try:
        tree = parse(path)
    except ParseError as error:
        fail(path, f"not XML: {error}")
    except (DefusedXmlException, ValueError, LookupError) as error:
        fail(path, f"XML with entities or external references, or in an unknown encoding: {error}")
    for number, node in enumerate(tree.iter(element), 1):
        yield TableRow(f"{element} {number}", number, {"": node})


def _read_parquet(path: Path) -> Iterator[TableRow]:
    """The rows of a Parquet file, read in batches."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        group_sizes = [file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)]
        _refuse_larger(path, max(group_sizes, default=0), MAX_UNPACKED_BYTES)
        yield from _read_batches(file.iter_batches(ROWS_PER_BATCH))
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the operating system cannot read the file
            raise
        fail(path, f"not a Parquet file: {str(error).strip()}")


def _read_arrow_folder(path: Path) -> Iterator[TableRow]:
    """The rows of a split that the `datasets` library saved: those of its `.arrow` files in order."""
    import pyarrow

    files = sorted(path.glob("*.arrow"))
    if not files:
        fail(path, "a folder without .arrow files", "pass a data file, or a folder that the datasets library saved")
    numbers = itertools.count(1)
    for file in files:
        try:
            with pyarrow.OSFile(str(file)) as source, pyarrow.ipc.open_stream(source) as batches:
                yield from _read_batches(batches, numbers)
        except pyarrow.ArrowException as error:
            fail(file, f"not an Arrow stream: {error}")


def _read_batches(batches: Iterable[Any], numbers: Iterator[int] | None = None) -> Iterator[TableRow]:
    """The rows of Arrow record batches, numbered with `numbers`, or from 1."""
    if numbers is None:
        numbers = itertools.count(1)
    for batch in batches:
        for values in batch.to_pylist():
            number = next(numbers)
            yield TableRow(f"row {number}", number, values)
