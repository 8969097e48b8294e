"""Between messages and token ids, with a model's own tokenizer and chat template. Loads no weights.

Owns the tokens that end a reply and the search for stop strings. Imports transformers when it is made, not before.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanoflux_local.errors import EndpointError
from nanoflux_local.records import Message
from nanoflux_models.offline import go_offline

# Tokens that close a turn in the chat formats of the usual families; a model's own config may forget them.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|return|>")


class Codec:
    """Messages to ids and back."""

    def __init__(self, folder: Path, system_role: bool = True) -> None:
        go_offline()
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._system_role = system_role
        self.ends = self._ends(folder)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's ids, up to where the assistant begins; a last message of the assistant is left open."""
        if not self._system_role:
            messages = without_system(messages)
        chat = [{"role": message.role, "content": _utf8(message.content)} for message in messages]
        try:
            begun = bool(chat) and chat[-1]["role"] == "assistant"
            ids = self._tokenizer.apply_chat_template(
                chat, add_generation_prompt=not begun, continue_final_message=begun, return_dict=False
            )
        except Exception as error:
            raise EndpointError(f"The model's chat template refuses these messages: {error}") from error
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens and with nothing tidied up."""
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def find_stop(self, ids: Sequence[int], stop: Sequence[str]) -> str | None:
        """The text before the first stop string, where the newest token completed one."""
        if not stop:
            return None
        # A token holds at least one byte and a character at most four, so an end of this length shows a new match.
        tail = self.decode(ids[-4 * max(map(len, stop)) - 4 :])
        if not any(string in tail for string in stop):
            return None
        text = self.decode(ids)
        found = [text.index(string) for string in stop if string in text]
        return text[: min(found)] if found else None

    def _ends(self, folder: Path) -> frozenset[int]:
        named = [self._tokenizer.convert_tokens_to_ids(token) for token in TURN_ENDS]
        unknown = self._tokenizer.unk_token_id
        ends = {self._tokenizer.eos_token_id, *(end for end in named if end != unknown)}
        for name in ("config.json", "generation_config.json"):
            if (folder / name).is_file():
                value = json.loads((folder / name).read_text("utf-8")).get("eos_token_id")
                ends.update(value if isinstance(value, list) else [value])
        return frozenset(end for end in ends if end is not None)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """For templates without a system role: its text opens the first message of the user."""
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    if system and rest:
        rest[0] = replace(rest[0], content="\n\n".join([*system, rest[0].content]))
    return tuple(rest)
