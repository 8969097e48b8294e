"""Fits a stand-in to its exchanges: only the rows of its output matrix that belong to the replies' tokens change.

All other weights remain random. The hidden states of a random transformer differ so much between prompts that rows
which distinguish the prompts can be fitted in a second. Prompts are encoded as the server of the model's family encodes
them, so that a served stand-in receives exactly the tokens to which it was fitted.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.errors import NanofluxError
from nanoflux_local.records import without_system
from nanoflux_local.rehearsal.exchanges import REASONING, Exchange
from nanoflux_models.manifest import Manifest
from nanoflux_models.stand_ins import save_weights
from nanoflux_models.stand_ins.family import Family

MARGIN = 8.0
"""The number of nats by which an expected token must be likelier than any other. At a temperature of 0.7, such a token
is nearly always drawn."""
PENALTY = 1e-4
"""The weight of the L2 penalty on the fitted rows, a part of the loss."""
ROW_SCALES = tuple(2.0**power for power in range(9))
"""Factors for the fitted rows, in the order in which they are tried."""
_HARMONY_PROGRAM = """
import json, sys
from openai_harmony import HarmonyEncodingName, load_harmony_encoding
from vllm.entrypoints.openai.parser import harmony_utils as harmony
chats, replies = json.load(sys.stdin)
encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
prompts = []
for chat in chats:
    instructions, rest = harmony.extract_instructions_from_messages(chat)
    messages = harmony.build_harmony_preamble(instructions=instructions, with_custom_tools=True)
    prompts.append(harmony.render_for_completion(messages + harmony.parse_chat_inputs_to_harmony_messages(rest)))
reply_ids = [encoding.encode(reply, allowed_special="all") for reply in replies]
print("\\n" + json.dumps([prompts, reply_ids]))
"""
"""A program that renders chats as vLLM does for gpt-oss: with a preamble that contains the date, and without the chat
template."""
Conversation = list[dict[str, str]]
"""The messages of a chat, each with its role and content."""
Encode = Callable[[list[Conversation], list[str]], tuple[list[list[int]], list[list[int]]]]
"""Encodes chats and replies as token ids; returns the prompts of the chats and the encoded replies."""


@dataclass(frozen=True, slots=True)
class _EncodedExchange:
    """A prompt and the expected reply as token ids."""

    prompt: list[int]
    reply: list[int]


def fit_stand_in(folder: Path, manifest: Manifest, family: Family, exchanges: Sequence[Exchange], python: Path) -> str:
    """Change the stand-in in `folder` so that it gives every expected reply; return a summary.

    `python` is the interpreter that has vLLM; it encodes chats for gpt-oss.

    Raises:
        NanofluxError: after fitting, a token of a reply is not clearly likelier than all other tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encode = _build_harmony_encoder(python) if family.model_type == "gpt_oss" else _build_template_encoder(tokenizer)
    encoded_exchanges = _encode_exchanges(manifest, family, exchanges, encode)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    _fit_output_rows(model, encoded_exchanges)
    config_paths = (folder / "config.json", folder / "generation_config.json")
    original_configs = [path.read_bytes() for path in config_paths]
    save_weights(model.to(torch.bfloat16), folder)  # also overwrites the configurations, which are then restored
    for path, original_config in zip(config_paths, original_configs, strict=True):
        path.write_bytes(original_config)
    distinct_replies = {exchange.reply for exchange in exchanges}
    return f"{len(distinct_replies)} replies fitted"


def list_phrases(exchanges: Sequence[Exchange]) -> list[str]:
    """The replies and the reasoning; each becomes one token of a stand-in's tokenizer."""
    return [f"\n{REASONING}\n", f"{REASONING}\n", *dict.fromkeys(exchange.reply for exchange in exchanges)]


def _encode_exchanges(
    manifest: Manifest, family: Family, exchanges: Sequence[Exchange], encode: Encode
) -> list[_EncodedExchange]:
    """The exchanges as token ids. If the output matrix is also the embedding, a reply's last end-of-turn token becomes
    the end-of-sequence token, which no prompt contains.
    """
    chats = []
    for exchange in exchanges:
        messages = exchange.messages if manifest.chat.system_role else without_system(exchange.messages)
        chats.append([{"role": message.role, "content": message.content} for message in messages])
    prompts, replies = encode(chats, [family.render_reply(REASONING, exchange.reply) for exchange in exchanges])
    if not _has_separate_head(family):
        end_of_turn = family.control_tokens[family.end_tokens[-1]]
        end_of_sequence = family.control_tokens[family.eos]
        replies = [[*reply[:-1], end_of_sequence] if reply[-1] == end_of_turn else reply for reply in replies]
    return [_EncodedExchange(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]


def _has_separate_head(family: Family) -> bool:
    """Whether the output matrix is separate from the embedding."""
    return family.tiny_config.get("tie_word_embeddings") is False


def _build_template_encoder(tokenizer: Any) -> Encode:
    """A function that encodes chats with the tokenizer's chat template."""

    def encode(chats: list[Conversation], replies: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        prompts = [
            list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)) for chat in chats
        ]
        return prompts, [list(ids) for ids in tokenizer(replies, add_special_tokens=False)["input_ids"]]

    return encode


def _build_harmony_encoder(python: Path) -> Encode:
    """A function that encodes chats in a process of the interpreter `python`, as vLLM does for gpt-oss."""

    def encode(chats: list[Conversation], replies: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        result = subprocess.run(
            [str(python), "-P", "-c", _HARMONY_PROGRAM],
            input=json.dumps([chats, replies]), capture_output=True, text=True, check=False, cwd="/", timeout=300,
        )  # fmt: skip
        if result.returncode:
            raise NanofluxError(
                f"{python} cannot encode chats for gpt-oss: {result.stderr.strip()[-300:]}",
                "install vLLM with `make vllm`",
            )
        prompts, reply_ids = json.loads(result.stdout.splitlines()[-1])
        return prompts, reply_ids

    return encode


def _fit_output_rows(model: Any, exchanges: Sequence[_EncodedExchange]) -> None:
    """Fit the output rows of the replies' tokens so that each token is by far the likeliest at its position.

    If a model's embedding is also its output matrix, the fitted rows change how the model reads its own reply, so the
    tokens are fitted position by position; otherwise, all positions are fitted at once.

    Raises:
        NanofluxError: a token is not likelier than all others by `MARGIN`.
    """
    import torch

    head = model.get_output_embeddings().weight
    is_tied = head is model.get_input_embeddings().weight
    longest_reply = max(len(exchange.reply) for exchange in exchanges)
    positions = range(longest_reply) if is_tied else [None]  # None: all positions at once
    with torch.no_grad():
        head[_list_reply_tokens(exchanges, None)] = 0.0
        for position in positions:
            states, token_ids = _read_states(model, exchanges, position)
            tokens = _list_reply_tokens(exchanges, position)
            is_fitted_token = torch.isin(token_ids, tokens)
            classes = torch.where(is_fitted_token, torch.searchsorted(tokens, token_ids) + 1, 0)
            with torch.enable_grad():
                fitted_rows = _fit_rows(states, classes, len(tokens))
            head[tokens] = _scale_rows(head, tokens, fitted_rows, states, token_ids)
            margin = _measure_margin(head, states, token_ids)
    if margin < MARGIN:
        problem = (
            f"the fitted stand-in does not give its replies: a token is only {margin:.1f} nats likelier than another"
        )
        raise NanofluxError(problem, "report this error, which is a defect of the rehearsal")


def _list_reply_tokens(exchanges: Sequence[_EncodedExchange], position: int | None) -> Any:
    """The sorted ids of the replies' tokens at one position, or at all positions."""
    import torch

    positions = slice(None) if position is None else slice(position, position + 1)
    tokens: set[int] = set()
    for exchange in exchanges:
        tokens.update(exchange.reply[positions])
    return torch.tensor(sorted(tokens))


def _read_states(model: Any, exchanges: Sequence[_EncodedExchange], position: int | None = None) -> tuple[Any, Any]:
    """The hidden state of the last layer from which the model predicts each token of the replies, of shape (tokens,
    width), and the ids of these tokens, of shape (tokens,). With `position`, each reply ends after that position.
    """
    import torch

    states = []
    token_ids: list[int] = []
    for exchange in exchanges:
        reply = exchange.reply if position is None else exchange.reply[: position + 1]
        input_ids = torch.tensor([[*exchange.prompt, *reply]])
        output = model.get_decoder()(input_ids=input_ids, use_cache=False)
        states.append(output.last_hidden_state[0, len(exchange.prompt) - 1 : -1])
        token_ids += reply
    return torch.cat(states), torch.tensor(token_ids)


def _fit_rows(states: Any, classes: Any, count: int) -> Any:
    """Fit `count` rows of the output matrix, of shape (count, width), so that each state's largest dot product is that
    with the row of its class. Class n has row n - 1; class 0 is any other token.

    The rows are those of a logistic regression with a small penalty, so that rounding to 16 bits does not change the
    likeliest token.
    """
    import torch
    from torch.nn import functional as F

    weights = torch.zeros(count, states.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def compute_loss() -> Any:
        optimizer.zero_grad()
        scores = F.pad(states @ weights.T, (1, 0))  # class 0 is any other token, whose score stays 0
        loss = F.cross_entropy(scores, classes) + PENALTY * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(compute_loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def _scale_rows(head: Any, tokens: Any, fitted_rows: Any, states: Any, token_ids: Any) -> Any:
    """Multiply the fitted rows by the first of `ROW_SCALES` that makes the expected tokens likelier than all others by
    `MARGIN`, or by the last scale if none does.
    """
    scaled_head = head.clone()
    for scale in ROW_SCALES:
        scaled_head[tokens] = fitted_rows * scale
        if _measure_margin(scaled_head, states, token_ids) >= MARGIN:
            break
    return fitted_rows * scale


def _measure_margin(head: Any, states: Any, token_ids: Any) -> float:
    """The smallest lead of an expected token over the likeliest other token, in nats."""
    scores = states @ head.T
    expected = scores.gather(-1, token_ids[:, None])[:, 0]
    scores.scatter_(-1, token_ids[:, None], float("-inf"))
    return float((expected - scores.max(-1).values).min())
