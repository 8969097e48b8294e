"""Counts tokens with the tokenizer of a weights folder, without loading the model."""

from functools import cached_property
from pathlib import Path
from typing import Any


class TokenCounter:
    """The tokenizer of one model, loaded on first use."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights

    def count(self, text: str) -> int:
        """Count the tokens of `text`, without special tokens."""
        encodable_text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return len(self._tokenizer.encode(encodable_text, add_special_tokens=False).ids)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._weights / "tokenizer.json"))
