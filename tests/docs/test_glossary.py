"""The glossary lists each term once, and the type and place of each definition match the code."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ROW_PATTERN = re.compile(r"^\| ([^|]+) \| [^|]+ \| ([a-z]+) \| `([^`]+)` \|$", re.MULTILINE)
ROWS = ROW_PATTERN.findall((PROJECT / "docs" / "glossary.md").read_text("utf-8"))
"""For each row of the glossary, the term and its columns "code" (as in "dataclass") and "defined in" (FILE:SYMBOL)."""


def find_symbol_type(place: str) -> str:
    """How FILE:SYMBOL is defined: as a protocol, dataclass, (pydantic) model, class, function or type (alias)."""
    file, symbol = place.split(":")
    for node in ast.parse((PROJECT / file).read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == symbol:
            return _find_class_type(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == symbol:
            return "function"
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [symbol]:
            return "type"
    raise LookupError(f"{file} defines no {symbol}")


def _find_class_type(node: ast.ClassDef) -> str:
    bases = {ast.unparse(base) for base in node.bases}
    if "Protocol" in bases:
        return "protocol"
    if any(ast.unparse(decorator).startswith("dataclass") for decorator in node.decorator_list):
        return "dataclass"
    return "model" if bases & {"BaseModel", "Strict", "Caps", "ManifestTable"} else "class"


def test_glossary_has_thirty_to_sixty_different_terms() -> None:
    terms = [term for term, _, _ in ROWS]
    assert 30 <= len(set(terms)) == len(terms) <= 60


@pytest.mark.parametrize(("term", "symbol_type", "place"), ROWS, ids=[term for term, _, _ in ROWS])
def test_glossary_states_the_type_and_place_of_each_definition(term: str, symbol_type: str, place: str) -> None:
    assert find_symbol_type(place) == symbol_type, term
