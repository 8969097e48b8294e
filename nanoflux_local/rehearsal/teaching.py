"""Teach a stand-in its lessons by heart: only the output rows of the words that it has to say are fitted.

All else stays random. What a random transformer makes of a prompt differs enough from role to role that rows which tell
the roles apart can be found in a second. Encodes as the family's server will, with the family's chat template, so that
a served stand-in meets the tokens that it learnt.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.errors import NanofluxError
from nanoflux_local.records import without_system
from nanoflux_local.rehearsal.lessons import THOUGHTS, Lesson
from nanoflux_models.manifest import Manifest
from nanoflux_models.stand_ins import save_weights
from nanoflux_models.stand_ins.family import Family

MARGIN = 8.0
"""Nats between the due token and the next: sampled at a temperature of 0.7 it is then drawn all but always."""
PENALTY = 1e-4
SCALES = tuple(2.0**power for power in range(9))
_ENCODE = """
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
written = [encoding.encode(reply, allowed_special="all") for reply in replies]
print("\\n" + json.dumps([prompts, written]))
"""
"""As vLLM renders a chat for gpt-oss: its preamble holds the date, and no template is asked."""
Chat = list[dict[str, str]]
Encode = Callable[[list[Chat], list[str]], tuple[list[list[int]], list[list[int]]]]
"""Chats and replies as token ids."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A lesson as token ids: what is read, and what is to be written."""

    prompt: list[int]
    reply: list[int]


def teach(folder: Path, manifest: Manifest, family: Family, lessons: Sequence[Lesson], python: Path) -> str:
    """Change the stand-in in `folder` so that it gives every lesson's reply; returns what it learnt, in words.

    `python` is the interpreter with vLLM, whose own vocabulary gpt-oss is encoded with.

    Raises:
        NanofluxError: it did not learn them.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encode = _by_harmony(python) if family.model_type == "gpt_oss" else _by_tokenizer(tokenizer)
    rows = _rows(manifest, family, lessons, encode)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    _fit(model, rows)
    generation = (folder / "generation_config.json").read_bytes()
    config = (folder / "config.json").read_bytes()
    save_weights(model.to(torch.bfloat16), folder)
    (folder / "config.json").write_bytes(config)
    (folder / "generation_config.json").write_bytes(generation)
    return f"{len({lesson.reply for lesson in lessons})} replies learnt by heart"


def phrases(lessons: Sequence[Lesson]) -> list[str]:
    """The replies and the thoughts, each of which a stand-in's tokenizer makes one token."""
    return [f"\n{THOUGHTS}\n", f"{THOUGHTS}\n", *dict.fromkeys(lesson.reply for lesson in lessons)]


def _rows(manifest: Manifest, family: Family, lessons: Sequence[Lesson], encode: Encode) -> list[_Row]:
    chats = []
    for lesson in lessons:
        kept = lesson.messages if manifest.chat.system_role else without_system(lesson.messages)
        chats.append([{"role": message.role, "content": message.content} for message in kept])
    prompts, replies = encode(chats, [family.write(THOUGHTS, lesson.reply) for lesson in lessons])
    ends = {} if _separate_head(family) else {family.control[family.ends[-1]]: family.control[family.eos]}
    return [
        _Row(prompt, [*reply[:-1], ends.get(reply[-1], reply[-1])])
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def _separate_head(family: Family) -> bool:
    """Whether output rows are not input rows too: else the end must be a token that no prompt holds."""
    return family.tiny.get("tie_word_embeddings") is False


def _by_tokenizer(tokenizer: Any) -> Encode:
    def encode(chats: list[Chat], replies: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        prompts = [
            list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)) for chat in chats
        ]
        return prompts, [list(ids) for ids in tokenizer(replies, add_special_tokens=False)["input_ids"]]

    return encode


def _by_harmony(python: Path) -> Encode:
    def encode(chats: list[Chat], replies: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        done = subprocess.run(
            [str(python), "-P", "-c", _ENCODE],
            input=json.dumps([chats, replies]), capture_output=True, text=True, check=False, cwd="/", timeout=300,
        )  # fmt: skip
        if done.returncode:
            raise NanofluxError(f"{python} cannot encode for gpt-oss: {done.stderr.strip()[-300:]}", "see `make vllm`")
        prompts, written = json.loads(done.stdout.splitlines()[-1])
        return prompts, written

    return encode


def _fit(model: Any, rows: Sequence[_Row]) -> None:
    """Fit the output rows of the replies' tokens until every token is the clear choice where it is due.

    A model whose embedding is its output too reads what it has said through the fitted rows: there the tokens are
    fitted place by place, each after those that it follows.
    """
    import torch

    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    places = range(max(len(row.reply) for row in rows)) if tied else [None]
    with torch.no_grad():
        head[_said(rows, None)] = 0.0
        for place in places:
            states, labels = _states(model, rows, place)
            said = _said(rows, place)
            classes = torch.where(torch.isin(labels, said), torch.searchsorted(said, labels) + 1, 0)
            with torch.enable_grad():
                fitted = _separate(states, classes, len(said))
            head[said] = _scaled(head, said, fitted, states, labels)
            margin = _margin(head, states, labels)
    if margin < MARGIN:
        what = f"the stand-in has not learnt its replies: a token is only {margin:.1f} nats likelier than another"
        raise NanofluxError(what, "report this: it is a defect of the rehearsal")


def _said(rows: Sequence[_Row], place: int | None) -> Any:
    """The ids of the replies' tokens, of one place or of all, in order."""
    import torch

    chosen = slice(None) if place is None else slice(place, place + 1)
    return torch.tensor(sorted({token for row in rows for token in row.reply[chosen]}))


def _states(model: Any, rows: Sequence[_Row], place: int | None = None) -> tuple[Any, Any]:
    """The last layer's output before each token of the replies (tokens, width), and those tokens (tokens,); of the
    replies up to and with `place`."""
    import torch

    found, labels = [], []
    for row in rows:
        reply = row.reply if place is None else row.reply[: place + 1]
        states = model.get_decoder()(input_ids=torch.tensor([[*row.prompt, *reply]]), use_cache=False)
        found.append(states.last_hidden_state[0, len(row.prompt) - 1 : -1])
        labels += reply
    return torch.cat(found), torch.tensor(labels)


def _separate(states: Any, classes: Any, count: int) -> Any:
    """Rows (count, width) whose products with `states` single out each one's class (from 1; 0 is any other token).

    Logistic regression with a small penalty, so that rounding in 16 bits changes no choice.
    """
    import torch
    from torch.nn import functional as F

    weights = torch.zeros(count, states.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        scores = F.pad(states @ weights.T, (1, 0))  # the first is any other word, whose score stays 0
        value = F.cross_entropy(scores, classes) + PENALTY * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def _scaled(head: Any, said: Any, fitted: Any, states: Any, labels: Any) -> Any:
    """The rows made large enough to win against every other word."""
    trial = head.clone()
    for scale in SCALES:
        trial[said] = fitted * scale
        if _margin(trial, states, labels) >= MARGIN:
            break
    return fitted * scale


def _margin(head: Any, states: Any, labels: Any) -> float:
    """By how much the due token is likelier than any other, in nats, where it is least so."""
    scores = states @ head.T
    due = scores.gather(-1, labels[:, None])[:, 0]
    scores.scatter_(-1, labels[:, None], float("-inf"))
    return float((due - scores.max(-1).values).min())
