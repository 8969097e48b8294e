"""Prove that an adapter works on a live server: it changes what the base says, and says what PEFT says.

An adapter can be loaded without an error and do nothing (vLLM has done this with multimodal wrappers), or do part of
what it was trained to. So a few prompts are answered greedily by the server, and every token is held against the base
on the same server and against PEFT in this process. Torch and transformers are imported when a probe runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanoflux_models.control import Control
from nanoflux_models.errors import ServerError
from nanoflux_models.offline import go_offline
from nanoflux_models.probe_record import Probe, write_probe

PROMPTS = (
    "A farmer has 17 crates of 12 apples and sells 45 apples. How many apples are left?",
    "Which base pairs with adenine in DNA? Explain in one sentence.",
    "A patient has a fever and a stiff neck. Name one test that should be done first.",
    "Write the sum of 208 and 395, step by step.",
    "What is the difference between mass and weight?",
    "List three causes of an irregular heartbeat.",
)
TOKENS = 12
"""Tokens of each reply: enough to differ in, few enough to take seconds on a CPU."""


def probe(control: Control, base: str, weights: Path, folder: Path, name: str) -> Probe:
    """Hold the loaded adapter `name` against `base` on its server, and against PEFT with the adapter in `folder`, where
    the outcome is kept.

    Raises:
        ServerError: the server did not answer, PEFT cannot load the adapter, or the outcome cannot be kept.
    """
    prompts = chats(weights, PROMPTS)
    replies = [greedy(control, name, ids, TOKENS) for ids in prompts]
    tuned, plain = (
        [_scores(control, model, ids, reply) for ids, reply in zip(prompts, replies, strict=True)]
        for model in (name, base)
    )
    expected = [score for scores in by_peft(weights, folder, prompts, replies) for score in scores]
    served = [score for scores in tuned for score in scores]
    untuned = [score for scores in plain for score in scores]
    result = Probe(
        adapter=name,
        tokens=len(served),
        difference=max(abs(a - b) for a, b in zip(served, untuned, strict=True)),
        agreement=sum(gap == 0.0 for _, gap in expected) / len(expected),
        worst_gap=max(gap for _, gap in expected),
        error=sum(abs(a - b) for a, (b, _) in zip(served, expected, strict=True)) / len(served),
    )
    write_probe(folder, result, base)
    return result


def chats(weights: Path, questions: Sequence[str]) -> list[list[int]]:
    """The ids of each question as a user's, up to where the model answers."""
    go_offline()
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(weights), local_files_only=True)
    asked = [[{"role": "user", "content": question}] for question in questions]
    return [list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)) for chat in asked]


def greedy(control: Control, model: str, ids: list[int], tokens: int) -> list[int]:
    """The ids of a greedy reply. Ends of text are ignored, so that an empty reply still gives tokens to compare."""
    body = {"model": model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    choice = control.complete({**body, "return_token_ids": True})["choices"][0]
    return [int(token) for token in choice["token_ids"]]


def _scores(control: Control, model: str, ids: list[int], reply: list[int]) -> list[float]:
    """The log-probability of each token of `reply`, read as part of a prompt: one pass, the same for every model."""
    body = {"model": model, "prompt": [*ids, *reply], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    entries = control.complete(body)["choices"][0]["prompt_logprobs"][len(ids) :]
    return [float(each[str(token)]["logprob"]) for each, token in zip(entries, reply, strict=True)]


def by_peft(
    weights: Path, folder: Path, prompts: list[list[int]], replies: list[list[int]]
) -> list[list[tuple[float, float]]]:
    """For each token of each reply: its log-probability in PEFT, and how far that is below PEFT's own choice after the
    tokens before it. Where none is below, the reply is what PEFT would have written."""
    import torch

    model = _peft_model(weights, folder)
    scores_by_prompt = []
    for ids, reply in zip(prompts, replies, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*ids, *reply]]), use_cache=False).logits[0, len(ids) - 1 : -1]
        scores = torch.log_softmax(logits.float(), -1)
        chosen = scores.gather(-1, torch.tensor(reply)[:, None])[:, 0]
        scores_by_prompt.append(list(zip(chosen.tolist(), (scores.max(-1).values - chosen).tolist(), strict=True)))
    return scores_by_prompt


def _peft_model(weights: Path, folder: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        base = AutoModelForCausalLM.from_pretrained(str(weights), dtype="auto", local_files_only=True)
        return PeftModel.from_pretrained(base, str(folder)).eval()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        message = f"PEFT cannot load {folder.name[:12]} on {weights.name}, so nothing can be proved: {error}"
        raise ServerError(message, "Probe it on a machine where transformers can load its base.") from error
