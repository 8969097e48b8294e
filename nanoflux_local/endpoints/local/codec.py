"""Converts messages to token ids, and token ids to text, with a model's tokenizer and chat template.

The codec also determines the tokens that end a reply, and searches replies for stop strings. It loads no weights;
transformers is imported when a codec is created.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanoflux_local.errors import EndpointError, EndpointRefusedError
from nanoflux_local.reasoning import cut_answer, find_opening_tag
from nanoflux_local.records import Message, without_system
from nanoflux_models.chat_template import examine_template
from nanoflux_models.offline import go_offline

# Tokens that end a turn in common chat formats. They supplement the end tokens in a model's configuration, which may
# lack the token that the model writes.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|return|>")

# Tokens that separate reasoning from the answer: tags, and the channels of the harmony format. They remain in decoded
# text even if the tokenizer declares them special.
THINK_MARKS = ("<think>", "</think>", "[THINK]", "[/THINK]")
CHANNEL_MARKS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
MIN_SHARED_TOKENS = 48
"""The minimum number of tokens of a shared prompt prefix that is worth caching."""
OPENING_TOKENS = 16
"""How many tokens at the end of a prompt are searched for a tag that opens the reasoning."""
NO_TEMPLATE_FIX = "use the model's chat version (-it, -instruct), or import it again with --chat-template FILE"


class ChatCodec:
    """The tokenizer and chat template of one model."""

    def __init__(self, folder: Path, system_role: bool = True) -> None:
        go_offline()
        from transformers import AutoTokenizer

        self._name = folder.name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._system_role = system_role and examine_template(folder).system_role
        self._uses_channels = CHANNEL_MARKS[0] in self._tokenizer.get_vocab()
        self._hidden_ids = self._find_hidden_tokens()
        self.end_ids = self._find_end_ids(folder)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Encode a prompt. If its last message is the assistant's, the model continues that message.

        Raises:
            EndpointError: the chat template is missing, or refuses the messages.
        """
        if self._tokenizer.chat_template is None:
            raise EndpointRefusedError(f"{self._name} has no chat template, so it cannot chat", NO_TEMPLATE_FIX)
        chat = self._format_messages(messages)
        try:
            has_prefill = bool(chat) and chat[-1]["role"] == "assistant"
            prompt_ids = self._tokenizer.apply_chat_template(
                chat, add_generation_prompt=not has_prefill, continue_final_message=has_prefill, return_dict=False
            )
        except Exception as error:
            fix = "use a model whose chat template accepts a system message, or correct the template"
            raise EndpointError(f"the chat template of {self._name} refuses these messages: {error}", fix) from error
        return list(prompt_ids)

    def count_shared_tokens(self, messages: Sequence[Message], prompt_ids: Sequence[int]) -> int:
        """Count the tokens of the conversation before its last question: instructions and worked examples, which other
        prompts share. `prompt_ids` is the encoded conversation. Returns 0 if there are no worked examples, or fewer
        tokens than `MIN_SHARED_TOKENS`. The result depends only on the messages.
        """
        question_indices = [index for index, message in enumerate(messages) if message.role == "user"]
        earlier_messages = messages[: question_indices[-1]] if question_indices else []
        if not any(message.role == "assistant" for message in earlier_messages):
            return 0
        try:
            shared_ids = self._tokenizer.apply_chat_template(self._format_messages(earlier_messages), return_dict=False)
        except Exception:  # noqa: BLE001 - a template may refuse a conversation without a last question
            return 0
        shared_tokens = len(shared_ids)
        is_prefix = shared_tokens < len(prompt_ids) and list(shared_ids) == list(prompt_ids[:shared_tokens])
        return shared_tokens if is_prefix and shared_tokens >= MIN_SHARED_TOKENS else 0

    def find_opened_reasoning(self, prompt_ids: Sequence[int]) -> str:
        """The tag at the end of a prompt that opens the reply's reasoning; "" if there is none."""
        prompt_end = str(self._tokenizer.decode(prompt_ids[-OPENING_TOKENS:], skip_special_tokens=False))
        return find_opening_tag(prompt_end)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids. Special tokens are omitted, except those that mark reasoning; spaces are kept unchanged."""
        omit_special = self._hidden_ids is None
        visible_ids = [token_id for token_id in ids if self._hidden_ids is None or token_id not in self._hidden_ids]
        return str(
            self._tokenizer.decode(visible_ids, skip_special_tokens=omit_special, clean_up_tokenization_spaces=False)
        )

    def find_stop(self, ids: Sequence[int], stop: Sequence[str], opening_tag: str = "") -> str | None:
        """The reply's text up to the first stop string in its answer, if the newest token completed one; else None.
        `opening_tag` is the tag with which the prompt opens the reply's reasoning. Stop strings in the reasoning are
        ignored.
        """
        if not stop:
            return None
        # A token has at least one byte and a character at most four bytes, so these last tokens contain any new match.
        tail_tokens = 4 * max(map(len, stop)) + 4
        tail = self.decode(ids[-tail_tokens:])
        if not any(stop_string in tail for stop_string in stop):
            return None
        text = opening_tag + self.decode(ids)
        answer = cut_answer(text, stop)
        return answer if answer != text else None

    def _format_messages(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """The messages in the format that the chat template expects."""
        if not self._system_role:
            messages = without_system(messages)
        return [{"role": message.role, "content": _replace_surrogates(message.content)} for message in messages]

    def _find_hidden_tokens(self) -> frozenset[int] | None:
        """The ids of the special tokens to omit from decoded text; None (omit all) if none of them marks reasoning."""
        special_tokens = {
            token_id: str(token) for token_id, token in self._tokenizer.added_tokens_decoder.items() if token.special
        }
        marks = (*THINK_MARKS, *CHANNEL_MARKS) if self._uses_channels else THINK_MARKS
        hidden_ids = frozenset(token_id for token_id, text in special_tokens.items() if text not in marks)
        return hidden_ids if len(hidden_ids) < len(special_tokens) else None

    def _find_end_ids(self, folder: Path) -> frozenset[int]:
        """The ids of the tokens that end a reply: those of the tokenizer, the model's configuration and `TURN_ENDS`."""
        # In the harmony format, "<|end|>" ends a channel, and "<|return|>" ends the turn.
        turn_ends = [token for token in TURN_ENDS if not (self._uses_channels and token in CHANNEL_MARKS)]
        turn_end_ids = [self._tokenizer.convert_tokens_to_ids(token) for token in turn_ends]
        unknown_id = self._tokenizer.unk_token_id  # the id of every string that is not in the vocabulary
        end_ids = {self._tokenizer.eos_token_id, *(end_id for end_id in turn_end_ids if end_id != unknown_id)}
        for config_name in ("config.json", "generation_config.json"):
            config_file = folder / config_name
            if config_file.is_file():
                eos_token_id = json.loads(config_file.read_text("utf-8")).get("eos_token_id")
                end_ids.update(eos_token_id if isinstance(eos_token_id, list) else [eos_token_id])
        return frozenset(end_id for end_id in end_ids if end_id is not None)


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which tokenizers refuse, with U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
