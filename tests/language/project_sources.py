"""Reads the project's sources: error messages with their fixes, assigned names, functions, docstrings and comments.

Run as a script, it prints every error that the project raises.
"""

import ast
import io
import itertools
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PACKAGES = ("nanoflux_local", "tui/nanoflux_tui", "models/nanoflux_models", "sandbox/nanoflux_sandbox")
SOURCES = (*PACKAGES, "bench", "tests")
ERRORS = frozenset({"NanofluxError", "ModelsError", "SandboxError"})
"""The base classes of errors with a message and a fix."""
FIX_POSITION = {"PromptRefusedError": 2}
"""The position of the argument `fix`, counted from 0, for each error class in which it is not 1."""
VALUE = "{}"
"""Stands for a value that is inserted at run time."""
MAX_VARIANTS = 16
"""Maximum number of strings that are listed for an expression that joins several pieces."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
"""The syntax tree of a function."""


@dataclass(frozen=True, slots=True)
class RaisedError:
    """A call that creates an error: all messages and fixes that it can pass. `fixes` is None if it passes no fix."""

    location: str
    class_name: str
    messages: tuple[str, ...]
    fixes: tuple[str, ...] | None


@cache
def parse_sources(folders: tuple[str, ...]) -> dict[str, ast.Module]:
    """The syntax tree of every Python file below `folders`, by the file's path in the project."""
    files = (file for folder in folders for file in sorted((PROJECT / folder).rglob("*.py")))
    return {str(file.relative_to(PROJECT)): ast.parse(file.read_text("utf-8")) for file in files}


@cache
def list_error_classes() -> frozenset[str]:
    """The names of all error classes with a message and a fix: the classes in `ERRORS` and their subclasses."""
    base_names_by_class = {
        node.name: {ast.unparse(base) for base in node.bases}
        for tree in parse_sources(PACKAGES).values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    error_names = set(ERRORS)
    while True:
        subclasses = {name for name, base_names in base_names_by_class.items() if base_names & error_names}
        if subclasses <= error_names:
            return frozenset(error_names)
        error_names |= subclasses


@cache
def list_raised_errors() -> tuple[RaisedError, ...]:
    """Every error with a message and a fix that the packages create."""
    return tuple(
        error for path, tree in parse_sources(PACKAGES).items() for error in _find_errors(path, tree, values={})
    )


def _find_errors(path: str, scope: ast.AST, values: dict[str, list[ast.expr]]) -> Iterator[RaisedError]:
    """The errors that a module or function creates. `values` maps each name of the enclosing scopes to the expressions
    that are assigned to it.
    """
    values_here = dict(values)
    nodes = list(_walk_scope(scope))
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values_here[name] = [*values_here.get(name, ()), value]
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in list_error_classes():
            yield _build_raised_error(path, node, node.func.id, values_here)
        elif isinstance(node, Function | ast.Lambda):
            yield from _find_errors(path, node, values_here)


def _walk_scope(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, including its nested functions but not their bodies."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, Function | ast.Lambda):
            yield from _walk_scope(child)


def _build_raised_error(path: str, call: ast.Call, class_name: str, values: dict[str, list[ast.expr]]) -> RaisedError:
    position = FIX_POSITION.get(class_name, 1)
    fix = next((keyword.value for keyword in call.keywords if keyword.arg == "fix"), None)
    if fix is None and len(call.args) > position:
        fix = call.args[position]
    messages = list_texts(call.args[0], values) if call.args else ()
    fixes = list_texts(fix, values) if fix else None
    return RaisedError(f"{path}:{call.lineno}", class_name, messages, fixes)


def list_texts(node: ast.expr, values: dict[str, list[ast.expr]]) -> tuple[str, ...]:
    """The strings that an expression can have, with `VALUE` for the parts that are known only at run time. A
    conditional expression has the strings of both branches.
    """
    match node:
        case ast.Constant(value=str(text)):
            return (text,)
        case ast.Name(id=name) if name in values:
            other_values = {other_name: value for other_name, value in values.items() if other_name != name}
            return tuple(text for value in values[name] for text in list_texts(value, other_values))
        case ast.JoinedStr(values=pieces):
            return _join([list_texts(piece, values) for piece in pieces])
        case ast.FormattedValue(value=ast.IfExp() as inner):
            return list_texts(inner, values)
        case ast.IfExp(body=body, orelse=orelse):
            return (*list_texts(body, values), *list_texts(orelse, values))
        case ast.BoolOp(values=operands):
            return tuple(text for operand in operands for text in list_texts(operand, values))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _join([list_texts(left, values), list_texts(right, values)])
    return (VALUE,)


def _join(variants_by_piece: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The strings that consist of one variant of each piece, at most `MAX_VARIANTS` of them."""
    combinations = itertools.product(*variants_by_piece)
    return tuple("".join(combination) for combination in itertools.islice(combinations, MAX_VARIANTS))


def list_assigned_names(folders: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The location and name of every variable and attribute that is assigned, and of every parameter."""
    for path, tree in parse_sources(folders).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield f"{path}:{node.lineno}", node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield f"{path}:{node.lineno}", node.attr
            elif isinstance(node, ast.arg):
                yield f"{path}:{node.lineno}", node.arg


def list_functions(folders: tuple[str, ...]) -> Iterator[tuple[str, Function]]:
    """Every function with its location."""
    for path, tree in parse_sources(folders).items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path}:{node.lineno}", node


def list_prose(folders: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every docstring, attribute docstring and comment, with its location."""
    for path, tree in parse_sources(folders).items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield f"{path}:{node.lineno}", " ".join(node.value.value.split())
        lines = io.StringIO((PROJECT / path).read_text("utf-8")).readline
        for token in tokenize.generate_tokens(lines):
            if token.type == tokenize.COMMENT:
                yield f"{path}:{token.start[0]}", token.string


if __name__ == "__main__":
    for error in list_raised_errors():
        print(f"{error.location} {error.class_name}")
        for message in error.messages:
            print(f"    {message}")
        for text in error.fixes or ("NO FIX",):
            print(f"      -> {text}")
