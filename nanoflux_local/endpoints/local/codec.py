"""Between messages and token ids, with a model's own tokenizer and chat template. Loads no weights.

Owns the tokens that end a reply and the search for stop strings. Imports transformers when it is made, not before.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanoflux_local.errors import EndpointError, EndpointRefusedError
from nanoflux_local.reasoning import cut_answer, opened_block
from nanoflux_local.records import Message, without_system
from nanoflux_models.chat_template import try_template
from nanoflux_models.offline import go_offline

# Tokens that close a turn in the chat formats of the usual families; a model's own config may forget them.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|return|>")

# Tokens that part thoughts from the answer stay in the text, also where the tokenizer calls them special.
THINK_MARKS = ("<think>", "</think>", "[THINK]", "[/THINK]")
CHANNEL_MARKS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
OPENING_TOKENS = 16
"""How far back from a prompt's end its template's opening of the reasoning is looked for."""
NO_TEMPLATE = "it is a base model: use its chat version (-it, -instruct), or import it again with --chat-template FILE"


class ChatCodec:
    """Messages to ids and back."""

    def __init__(self, folder: Path, system_role: bool = True) -> None:
        go_offline()
        from transformers import AutoTokenizer

        self._name = folder.name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._system_role = system_role and try_template(folder).system_role
        self._in_channels = CHANNEL_MARKS[0] in self._tokenizer.get_vocab()
        self._hidden = self._hidden_tokens()
        self.ends = self._ends(folder)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's ids, up to where the assistant begins; a last message of the assistant is left open."""
        if self._tokenizer.chat_template is None:
            raise EndpointRefusedError(f"{self._name} has no chat template, so it cannot be asked", NO_TEMPLATE)
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

    def opened_reasoning(self, prompt: Sequence[int]) -> str:
        """The tag with which the chat template opened the reply's reasoning at the end of a prompt, or ""."""
        return opened_block(str(self._tokenizer.decode(prompt[-OPENING_TOKENS:], skip_special_tokens=False)))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens, those apart that mark reasoning, and with nothing tidied up."""
        skip = self._hidden is None
        shown = [each for each in ids if self._hidden is None or each not in self._hidden]
        return str(self._tokenizer.decode(shown, skip_special_tokens=skip, clean_up_tokenization_spaces=False))

    def find_stop(self, ids: Sequence[int], stop: Sequence[str], opened: str = "") -> str | None:
        """The text before the answer's first stop string, if the newest token completed one. `opened` is the tag by
        which the prompt opened the reply's reasoning; inside the reasoning no stop string counts.
        """
        if not stop:
            return None
        # A token holds at least one byte and a character at most four, so an end of this length shows a new match.
        tail = self.decode(ids[-4 * max(map(len, stop)) - 4 :])
        if not any(string in tail for string in stop):
            return None
        text = opened + self.decode(ids)
        answer = cut_answer(text, stop)
        return answer if answer != text else None

    def _hidden_tokens(self) -> frozenset[int] | None:
        """The ids of the special tokens that are left out of texts; None (all) if no special one marks reasoning."""
        special = {
            number: str(token) for number, token in self._tokenizer.added_tokens_decoder.items() if token.special
        }
        kept = (*THINK_MARKS, *CHANNEL_MARKS) if self._in_channels else THINK_MARKS
        hidden = frozenset(number for number, text in special.items() if text not in kept)
        return hidden if len(hidden) < len(special) else None

    def _ends(self, folder: Path) -> frozenset[int]:
        # In channels "<|end|>" ends one of them, and the turn ends with "<|return|>".
        turn_ends = [token for token in TURN_ENDS if not (self._in_channels and token in CHANNEL_MARKS)]
        named = [self._tokenizer.convert_tokens_to_ids(token) for token in turn_ends]
        unknown = self._tokenizer.unk_token_id
        ends = {self._tokenizer.eos_token_id, *(end for end in named if end != unknown)}
        for name in ("config.json", "generation_config.json"):
            if (folder / name).is_file():
                value = json.loads((folder / name).read_text("utf-8")).get("eos_token_id")
                ends.update(value if isinstance(value, list) else [value])
        return frozenset(end for end in ends if end is not None)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
