"""Turns training examples into tokens with the chat template, and draws batches of rows with similar lengths.

This module determines where a prompt ends and its completion begins, and the order of the batches. `audit` decides
which examples are usable, and `lora` trains on the usable ones.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import TemplateError

from nanoflux_local.errors import DataError
from nanoflux_local.records import Message, derive_seed, digest, without_system
from nanoflux_models.chat_template import examine_template
from nanoflux_models.errors import ModelsError
from nanoflux_models.manifest import load_manifest
from nanoflux_models.offline import go_offline
from nanoflux_models.record import read_record

_PROBE_COMPLETION = "completion"
"""The completion of the dialogue that is rendered to find the template's end of turn."""
_PLACEHOLDER = re.compile(r"\0(\d+)\0")
"""The placeholder that stands for the n-th control token while a template is rendered: n between two NUL characters."""
_MATCH_NOTHING = r"(?!)"
"""A regular expression that matches no text."""
_BATCHES_PER_POOL = 8
"""The number of batches in a pool. Rows are sorted by length within a pool."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A prompt and the completion to train on. `id` is the caller's name for the example."""

    prompt: tuple[Message, ...]
    completion: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example as token ids. The labels are `ids[prompt_length:]`; `truncated_tokens` is the number of tokens that
    were cut off at the maximum length; `index` is the example's position among the caller's examples, from 0.
    """

    ids: tuple[int, ...]
    prompt_length: int
    truncated_tokens: int
    index: int

    @property
    def label_count(self) -> int:
        """The number of labels: the tokens of the completion that were not cut off."""
        return max(0, len(self.ids) - self.prompt_length)


class Codec:
    """Turns examples into the tokens that the model sees at inference.

    Prompt and completion are tokenised separately, since at inference the prompt's tokens are fixed before the first
    token of the answer exists. The completion ends with the template's end of turn, and no label follows it.
    If `system_role` is false, the model takes no system messages: their text is prepended to the user's first message,
    as at inference. A control token spelled out in a message ("<|im_end|>") is encoded as text; only the template and
    the end of turn produce control tokens.
    """

    def __init__(self, tokenizer: Any, system_role: bool = True) -> None:
        self.tokenizer = tokenizer
        self.system_role = system_role
        added_tokens = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._control_tokens = tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added_tokens]))
        longest_first = sorted(self._control_tokens, key=len, reverse=True)
        alternatives = "|".join(re.escape(token) for token in longest_first)
        self._control_token_pattern = re.compile(alternatives or _MATCH_NOTHING)
        self.end_of_turn = self._find_end_of_turn()

    @classmethod
    def load(cls, base_dir: Path) -> "Codec":
        """The codec of the model in `base_dir`, from local files only. Raises DataError if there is no tokenizer."""
        go_offline()
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(base_dir, local_files_only=True), _accepts_system(base_dir))
        except (OSError, ValueError) as error:
            fix = "pass a folder in transformers' format"
            raise DataError(f"{base_dir} has no usable tokenizer: {error}", fix) from error

    def merges_system_message(self, example: TrainingExample) -> bool:
        """Whether the example's system message becomes part of the user's message."""
        return not self.system_role and any(message.role == "system" for message in example.prompt)

    def render_prompt(self, prompt: Sequence[Message]) -> str:
        """The prompt as the template renders it. Raises DataError if the template refuses the prompt."""
        if not self.system_role:
            prompt = without_system(prompt)
        return self._render([asdict(message) for message in prompt], add_generation_prompt=True)

    def render_example(self, example: TrainingExample) -> str:
        """The whole example as the model sees it."""
        return self.render_prompt(example.prompt) + example.completion + self.end_of_turn

    def encode(self, example: TrainingExample, index: int, max_length: int | None = None) -> EncodedExample:
        """The tokens of one example, truncated at `max_length`.

        Raises:
            DataError: the template refuses the prompt.
            UnicodeEncodeError: the text has a lone surrogate.
        """
        messages = [Message(message.role, self._insert_placeholders(message.content)) for message in example.prompt]
        prompt_ids = self._encode_text(self.render_prompt(messages))
        completion_ids = self._encode_text(self._insert_placeholders(example.completion) + self.end_of_turn)
        ids = prompt_ids + completion_ids
        kept_ids = ids if max_length is None else ids[:max_length]
        return EncodedExample(tuple(kept_ids), len(prompt_ids), len(ids) - len(kept_ids), index)

    def _encode_text(self, text: str) -> list[int]:
        """The tokens of a text with placeholders; a placeholder's control token is encoded as ordinary text."""
        text.encode()  # raises UnicodeEncodeError with the position of a lone surrogate, before the tokenizer fails
        ids: list[int] = []
        # `split` returns text at even positions, and the numbers of the placeholders between them at odd positions
        for position, piece in enumerate(_PLACEHOLDER.split(text)):
            if position % 2 == 0:
                ids += self._encode_piece(piece, as_text=False)
            elif int(piece) < len(self._control_tokens):
                ids += self._encode_piece(self._control_tokens[int(piece)], as_text=True)
        return ids

    def _encode_piece(self, text: str, as_text: bool) -> list[int]:
        """The tokens of a string; with `as_text`, control tokens in it are encoded as ordinary text."""
        ids: list[int] = []
        if text:
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"]
        return ids

    def find_control_tokens(self, example: TrainingExample) -> tuple[str, ...]:
        """The control tokens spelled out in an example's messages and completion, in order and without duplicates."""
        texts = (*(message.content for message in example.prompt), example.completion)
        spelled_tokens = (token for text in texts for token in self._control_token_pattern.findall(text))
        return tuple(dict.fromkeys(spelled_tokens))

    def _insert_placeholders(self, text: str) -> str:
        """Replace each control token that is spelled out in `text` by its placeholder."""
        return self._control_token_pattern.sub(lambda match: f"\0{self._control_tokens.index(match[0])}\0", text)

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """Apply the chat template. Raises DataError if there is no template, or if it refuses the messages."""
        if not self.tokenizer.chat_template:
            raise DataError(
                "the base model has no chat template",
                "import it again with --chat-template FILE, or use an instruction-tuned model",
            )
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            fix = "remove the row, or import the model again with a template that accepts it: --chat-template FILE"
            raise DataError(
                f"the base model's chat template refuses messages with the roles {roles}: {error}", fix
            ) from error
        return str(rendered)

    def _find_end_of_turn(self) -> str:
        """The text that the template writes after an answer, without the line break between messages."""
        dialogue = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": _PROBE_COMPLETION}]
        _, _, end_of_turn = self._render(dialogue, add_generation_prompt=False).rpartition(_PROBE_COMPLETION)
        return end_of_turn.rstrip() or str(self.tokenizer.eos_token)


def _accepts_system(base_dir: Path) -> bool:
    """Whether the model in `base_dir` takes system messages: its manifest and its template must both accept them."""
    if not examine_template(base_dir).system_role:
        return False
    try:
        return load_manifest(read_record(base_dir).name, base_dir.parents[1]).chat.system_role
    except ModelsError:
        return True  # the model is not installed and has no manifest, so the template alone decides


def data_digest(examples: Sequence[TrainingExample]) -> str:
    """SHA-256 of prompts and completions in order, without the ids."""
    contents: list[list[object]] = []
    for example in examples:
        messages = [asdict(message) for message in example.prompt]
        contents.append([messages, example.completion])
    return digest(contents)


Item = TypeVar("Item")


def split(items: Sequence[Item], fraction: float, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Split items into training and validation items. The share `fraction` of the items is drawn by `seed` for
    validation: at least one item if `fraction` is positive, and never all of them.

    A single item is not drawn for validation. Both parts keep the order of `items`.
    """
    held_out_count = 0
    if fraction > 0 and len(items) > 1:
        held_out_count = min(len(items) - 1, max(1, round(fraction * len(items))))
    rng = random.Random(derive_seed(seed, "split"))
    held_out_indices = set(rng.sample(range(len(items)), held_out_count))
    train = tuple(item for index, item in enumerate(items) if index not in held_out_indices)
    validation = tuple(item for index, item in enumerate(items) if index in held_out_indices)
    return train, validation


def draw_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, as lists of at most `size` row indices. Each row is in one batch, with rows of similar
    length; the order depends on `seed` and `epoch` only.

    The shuffled rows are split into pools of a few batches, and rows are sorted by length within a pool only, so that
    batches differ between epochs and need little padding.
    """
    rng = random.Random(derive_seed(seed, "order", epoch))
    order = rng.sample(range(len(lengths)), len(lengths))
    batches = [
        batch
        for pool in _split_into_chunks(order, size * _BATCHES_PER_POOL)
        for batch in _batch_by_length(pool, lengths, size)
    ]
    rng.shuffle(batches)
    return batches


def _batch_by_length(pool: list[int], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of a pool's rows; the rows are sorted by length before they are split into batches."""
    return _split_into_chunks(sorted(pool, key=lambda index: lengths[index]), size)


def _split_into_chunks(items: list[int], size: int) -> Iterator[list[int]]:
    """Consecutive parts of `items`, each of `size` items except perhaps the last."""
    return (items[start : start + size] for start in range(0, len(items), size))
