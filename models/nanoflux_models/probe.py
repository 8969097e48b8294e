"""Proves that an adapter works on a running server: the adapter's replies must differ from those of the base model and
agree with those of PEFT.

A server can load an adapter without an error and yet apply none of it (as vLLM did with multimodal wrappers), or only a
part. So the server with the adapter answers a few prompts greedily. The log-probability of every token is then compared
with two others: that of the base on the same server, and that of PEFT in this process. Torch and transformers are
imported when a probe runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ServerError
from nanoflux_models.offline import go_offline
from nanoflux_models.probe_record import Probe, write_probe
from nanoflux_models.server_client import ServerClient

PROMPTS = (
    "A farmer has 17 crates of 12 apples and sells 45 apples. How many apples are left?",
    "Which base pairs with adenine in DNA? Explain in one sentence.",
    "A patient has a fever and a stiff neck. Name one test that should be done first.",
    "Write the sum of 208 and 395, step by step.",
    "What is the difference between mass and weight?",
    "List three causes of an irregular heartbeat.",
)
"""The questions that a probe asks."""
REPLY_TOKENS = 12
"""The number of tokens of each reply: enough to show a difference, and few enough to take only seconds on a CPU."""


def probe(client: ServerClient, base: str, weights: Path, folder: Path, name: str) -> Probe:
    """Compare the loaded adapter `name` with the model `base` on the same server, and with PEFT in this process.

    PEFT applies the adapter in `folder` to the base model in `weights`. The result is stored in `folder` and returned.

    Raises:
        ServerError: the server does not answer, PEFT cannot load the adapter, or the result cannot be stored.
    """
    prompts = encode_chats(weights, PROMPTS)
    replies = [reply_greedily(client, name, prompt_ids, REPLY_TOKENS) for prompt_ids in prompts]
    tuned_scores = _score_replies(client, name, prompts, replies)
    base_scores = _score_replies(client, base, prompts, replies)
    peft_scores: list[float] = []
    gaps: list[float] = []
    for reply_scores in score_with_peft(weights, folder, prompts, replies):
        peft_scores += [score for score, _ in reply_scores]
        gaps += [gap for _, gap in reply_scores]
    distances_to_base = [abs(tuned - untuned) for tuned, untuned in zip(tuned_scores, base_scores, strict=True)]
    distances_to_peft = [abs(tuned - peft) for tuned, peft in zip(tuned_scores, peft_scores, strict=True)]
    result = Probe(
        adapter=name,
        tokens=len(tuned_scores),
        difference=max(distances_to_base),
        agreement=gaps.count(0.0) / len(gaps),
        worst_gap=max(gaps),
        error=sum(distances_to_peft) / len(distances_to_peft),
    )
    write_probe(folder, result, base)
    return result


def encode_chats(weights: Path, questions: Sequence[str]) -> list[list[int]]:
    """The token ids of each question as a user's message, followed by the generation prompt."""
    go_offline()
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(weights), local_files_only=True)
    chats = [[{"role": "user", "content": question}] for question in questions]
    return [list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)) for chat in chats]


def reply_greedily(client: ServerClient, model: str, prompt_ids: list[int], tokens: int) -> list[int]:
    """The token ids of a greedy reply of exactly `tokens` tokens. End tokens are ignored, so that even a reply that
    would be empty has tokens to compare.
    """
    body = {"model": model, "prompt": prompt_ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    choice = client.complete({**body, "return_token_ids": True})["choices"][0]
    return [int(token) for token in choice["token_ids"]]


def _score_replies(client: ServerClient, model: str, prompts: list[list[int]], replies: list[list[int]]) -> list[float]:
    """The log-probability of each token of each reply, in one list."""
    scores: list[float] = []
    for prompt_ids, reply in zip(prompts, replies, strict=True):
        scores += _score_reply(client, model, prompt_ids, reply)
    return scores


def _score_reply(client: ServerClient, model: str, prompt_ids: list[int], reply: list[int]) -> list[float]:
    """The log-probability of each token of `reply`. The reply is sent as part of the prompt."""
    body = {"model": model, "prompt": [*prompt_ids, *reply], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    entries = client.complete(body)["choices"][0]["prompt_logprobs"][len(prompt_ids) :]
    return [float(entry[str(token)]["logprob"]) for entry, token in zip(entries, reply, strict=True)]


def score_with_peft(
    weights: Path, folder: Path, prompts: list[list[int]], replies: list[list[int]]
) -> list[list[tuple[float, float]]]:
    """Score each token of each reply with PEFT: its log-probability, and by how much PEFT's preferred token at that
    position is more likely (the gap, in nats). If all gaps of a reply are 0, PEFT gives the same reply.
    """
    import torch

    model = _load_peft_model(weights, folder)
    scores_by_prompt = []
    for prompt_ids, reply in zip(prompts, replies, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt_ids, *reply]]), use_cache=False).logits[0]
        logits = logits[len(prompt_ids) - 1 : -1]  # the positions that predict the tokens of the reply
        scores = torch.log_softmax(logits.float(), -1)
        reply_scores = scores.gather(-1, torch.tensor(reply)[:, None])[:, 0]
        gaps = scores.max(-1).values - reply_scores
        scores_by_prompt.append(list(zip(reply_scores.tolist(), gaps.tolist(), strict=True)))
    return scores_by_prompt


def _load_peft_model(weights: Path, folder: Path) -> Any:
    """The base model in `weights` with the adapter in `folder`.

    Raises:
        ServerError: PEFT or transformers cannot load them.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        base = AutoModelForCausalLM.from_pretrained(str(weights), dtype="auto", local_files_only=True)
        return PeftModel.from_pretrained(base, str(folder)).eval()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        message = f"PEFT cannot load {folder.name[:12]} on {weights.name}, so the probe cannot run: {error}"
        raise ServerError(message, "probe the adapter on a machine where transformers can load its base") from error
