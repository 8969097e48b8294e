"""Describes pydantic's errors about settings in plain words, which name no Python types."""

from collections.abc import Mapping
from typing import Any

TEXT_BY_ERROR_TYPE = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a table of keys and values",
    "extra_forbidden": "is an unknown key",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": "is missing",
    "model_type": "must be a table of keys and values",
    "string_type": "must be a string",
    "tuple_type": "must be a list",
}
"""The text for each type of pydantic's errors whose own message names a Python type or the parser."""


def describe_value_error(detail: Mapping[str, Any]) -> str:
    """The text for one entry of `ValidationError.errors()`, without the key."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    return TEXT_BY_ERROR_TYPE.get(detail["type"], message.replace("Input should be", "must be", 1))
