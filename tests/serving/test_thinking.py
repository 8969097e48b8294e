"""Reasoning models in this process and behind a real vLLM: their answers are read, and a reply that is truncated in its
reasoning is reported with the configuration key to raise.

The model is a stand-in that is trained to give one form of reply: reasoning of several paragraphs, then the sections
that every domain requests, with a random number as the answer. The trained model is cached in the test home under the
hash of its recipe.
"""

import asyncio
import hashlib
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from nanoflux_local.cli.evaluate import evaluate_endpoint, show_evaluation
from nanoflux_local.cli.overview import show_run
from nanoflux_local.config import parse_settings
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.build import build_model_endpoint
from nanoflux_local.errors import ConfigError
from nanoflux_local.evaluate.summary import EvaluationSummary
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.reasoning import find_answer_start
from nanoflux_local.records import ChatReply, ChatRequest, Message, Sampling
from nanoflux_local.roles.defender import build_defender_messages
from nanoflux_local.run import runs
from nanoflux_local.run.configs import resolve
from nanoflux_local.seeds.benchmarks.starter import make_starter_items
from nanoflux_models.interpreter import VLLM_PYTHON_VARIABLE
from nanoflux_models.manifest import load_manifest
from nanoflux_models.stand_ins import FAMILIES, make_stand_in, save_weights
from nanoflux_models.weights import import_path

Command = Callable[..., CompletedProcess[str]]

REASONING = """\
Okay, let me read this question once more before anything gets written.

Small numbers appear here; none of them misleads us.
Problem: nothing that I see yet.

Then every step follows from its own neighbour, so each line holds just one sum, as careful people do on paper when time
allows for it and nobody hurries.

Wait, could that be wrong? Checking again, backwards, gives exactly what came out earlier.

Good: both ways agree, therefore an answer can follow now in whatever form was asked."""
"""The reasoning of every reply. Hardly any word occurs twice, so the last words determine the next word, and a model
learns the text in seconds.
"""
DOMAINS = ("starter", "gsmhard")
"""The domains whose prompts the stand-in is trained on."""
STEPS = 200
BATCH = 4
LEARNING_RATE = 4e-3
ROW_TOKENS = (180, 280, 560)
"""The lengths of training rows in tokens. The longest rows hold a whole defender prompt and the reply."""
RECIPE = 1
"""Increment this if you change the training code without changing a constant."""


def find_or_train_stand_in(home: Path, architecture: str) -> Path:
    """The folder of the trained stand-in of this architecture, in the hub's layout; it is trained on the first call."""
    recipe = json.dumps(
        [
            RECIPE,
            architecture,
            REASONING,
            DOMAINS,
            STEPS,
            BATCH,
            LEARNING_RATE,
            ROW_TOKENS[-1],
            write_answer(7),
            _build_prompts()[:2],
        ]
    )
    folder = home / "stand-ins" / f"thinker-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        unfinished_folder = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished_folder, ignore_errors=True)
        _train_stand_in(architecture, unfinished_folder)
        unfinished_folder.rename(folder)
    return folder


def write_answer(number: int) -> str:
    """The sections of a reply whose answer is `number`."""
    return f"ANALYSIS: They want one total.\nSOLUTION: I add what was given to me.\nANSWER: {number}"


def _build_prompts() -> list[list[dict[str, str]]]:
    """The defender's prompts for some items, in each domain of `DOMAINS`."""
    domains = [load_domain(name) for name in DOMAINS]
    prompts = []
    for item in make_starter_items("train")[:40]:
        for domain in domains:
            messages = build_defender_messages(domain, domain.budgets, item.question)
            prompts.append([{"role": message.role, "content": message.content} for message in messages])
    return prompts


def _train_stand_in(architecture: str, folder: Path) -> None:
    """Write a stand-in of this architecture to `folder`, and replace its random weights with trained ones."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    family = FAMILIES[architecture]
    prompts = _build_prompts()
    rng = random.Random(0)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    texts = [message["content"] for prompt in prompts for message in prompt]
    texts.append(family.render_reply(REASONING, write_answer(7)))
    make_stand_in(family, folder, texts, overrides={"num_hidden_layers": 2})
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config.initializer_range = 0.02
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, STEPS)
    for batch in _make_batches(tokenizer, prompts, family.render_reply, rng):
        ids, labels = (torch.tensor(rows) for rows in zip(*batch, strict=True))
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    for path in folder.glob("model*"):
        path.unlink()
    original_configs = {path.name: path.read_bytes() for path in folder.glob("*config.json")}
    save_weights(model.to(torch.bfloat16), folder)
    for name, content in original_configs.items():
        (folder / name).write_bytes(content)


def _make_batches(tokenizer, prompts, render_reply, rng) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Yield batches of rows of equal length, each with token ids and labels. A row consists of the end of a prompt and
    the reply; if the prompt is too short, random tokens of the prompt come before it. Only the tokens of the reply
    contribute to the loss.
    """
    for _ in range(STEPS):
        row_length = rng.choice(ROW_TOKENS)
        rows = []
        for _ in range(BATCH):
            prompt = tokenizer.apply_chat_template(rng.choice(prompts), add_generation_prompt=True, return_dict=False)
            reply_text = render_reply(REASONING, write_answer(rng.randrange(10, 100)))
            reply_ids = tokenizer(reply_text, add_special_tokens=False)["input_ids"]
            prompt_length = row_length - len(reply_ids)
            prompt_end = list(prompt)[-prompt_length:]
            filler = [rng.choice(prompt) for _ in range(prompt_length - len(prompt_end))]
            rows.append((filler + prompt_end + reply_ids, [-100] * prompt_length + reply_ids))
        yield rows


ARGS = ("--enforce-eager", "--max-num-seqs=8")
"""Arguments that let vLLM start quickly and save memory."""
PROFILE = """
concurrency = 6
embedder = "hashing"
[endpoints.thinker]
interface = "{interface}"
model = "thinker"
{settings}
[endpoints.hashing]
interface = "scripted"
model = "hashing-embedder"
[roles.attacker]
endpoint = "program"
[roles.defender]
endpoint = "thinker"
sampling = {{ temperature = 0.5 }}
[roles.judge]
endpoint = "program"
"""
SHORT_DOMAIN = 'extends = "starter"\n[budgets]\nSOLUTION = 20\nANSWER = 8\n'
"""A domain whose token limits for answers are lower than the length of the reasoning, so replies would be truncated
without a separate limit for reasoning.
"""
INTERFACES = ("in_process", "vllm")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, test_home: Path, command: Command) -> Home:
    """A home with the stand-in as the model `thinker`, items in GSM-Hard's format, and the domain `short`."""
    home = Home(tmp_path_factory.mktemp("thinking") / "home").prepare()
    import_path(find_or_train_stand_in(test_home, "Qwen3ForCausalLM"), "thinker", home.root)
    (home.root / "domains").mkdir(exist_ok=True)
    (home.root / "domains" / "short.toml").write_text(SHORT_DOMAIN)
    rows = home.root / "gsmhardv2.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in _make_gsmhard_rows()))
    process = command(home.root, sys.executable, "data", "import", "gsmhard", str(rows))
    assert process.returncode == 0, process.stderr
    for interface in INTERFACES:
        endpoint_settings = f"args = {json.dumps(ARGS)}\ncontext = 9216" if interface == "vllm" else ""
        (home.root / f"{interface}.toml").write_text(PROFILE.format(interface=interface, settings=endpoint_settings))
    return home


def _make_gsmhard_rows() -> list[dict[str, Any]]:
    """Rows in GSM-Hard's format that can be chained: each program's answer can become a number in another question."""
    question_templates = [
        "A baker sells {a} rolls in the morning and {b} at noon. How many rolls are sold?",
        "A train carries {a} people and {b} more get on. How many people are on the train?",
        "A library owns {a} novels and buys {b} atlases. How many books has it?",
    ]
    program_template = (
        "def solution():\n    first = {a}\n    second = {b}\n    result = first + second\n    return result\n"
    )
    rng = random.Random(1)
    rows = []
    for index in range(60):
        a, b = rng.randrange(1000, 9999), rng.randrange(1000, 9999)
        question = question_templates[index % 3].format(a=a, b=b)
        rows.append({"input": question, "code": program_template.format(a=a, b=b), "target": float(a + b)})
    return rows


@pytest.fixture(scope="module")
def served(home: Home, vllm_python: str, command: Command) -> Iterator[str]:
    """Serve the model `thinker` with vLLM for all tests in this file; yield vLLM's interpreter."""
    arguments = ("models", "serve", "thinker", "--context", "9216", *(f"--arg={argument}" for argument in ARGS))
    process = command(home.root, vllm_python, *arguments)
    assert process.returncode == 0, process.stderr
    try:
        yield vllm_python
    finally:
        command(home.root, vllm_python, "models", "stop", "--all")


@pytest.fixture(params=INTERFACES)
def interface(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each interface to the model `thinker`; `vllm` needs its server."""
    if request.param == "vllm":
        monkeypatch.setenv(VLLM_PYTHON_VARIABLE, request.getfixturevalue("served"))
    return str(request.param)


def run_turns(home: Home, domain: str, interface: str, *settings: str) -> dict[str, Any]:
    """Execute a short run with the model `thinker` as defender; return the JSON of `run show`."""
    all_settings = ("max_turns=8", "novelty.question=1.0", "held_out=[]", *settings)
    config = resolve(domain, str(home.root / f"{interface}.toml"), parse_settings(all_settings), home)

    async def start_and_finish() -> str:
        run = await runs.start(home, config)
        await runs.execute(home, run)
        return run

    run = asyncio.run(start_and_finish())
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


def evaluate_thinker(
    home: Home, domain: str, data: str, interface: str, reasoning_tokens: int | None = None
) -> EvaluationSummary:
    """Evaluate the model `thinker` on up to 20 test items of `data`, once each, at temperature 0.5."""
    args = ARGS if interface == "vllm" else ()
    return evaluate_endpoint(
        home,
        lambda: build_model_endpoint("thinker", "", home, interface, args, reasoning_tokens),
        data,
        split="test",
        limit=20,
        runs=1,
        temperature=0.5,
        domain=domain,
    )


def test_import_recognises_a_reasoning_model(home: Home) -> None:
    manifest = load_manifest("thinker", home.root)
    assert manifest.chat.thinks and manifest.reasoning_limit >= 1024
    assert "--reasoning-parser" in manifest.vllm.args


@pytest.mark.parametrize("domain", ["starter", "gsmhard"])
def test_run_reads_the_answers_of_a_reasoning_defender(home: Home, interface: str, domain: str) -> None:
    summary = run_turns(home, domain, interface, "endpoints.thinker.reasoning_tokens=512")
    funnel = summary["funnel"]
    answered_count = funnel["defender_right"] + funnel["kept_failed"] + funnel["kept_novel"]
    attempt_count = answered_count + funnel["failed"]
    assert summary["status"] == "done" and answered_count >= 8 and answered_count >= 0.95 * attempt_count
    assert summary["cut_in_reasoning"] == []
    usage = summary["usage"]
    assert 0.5 * usage["completion_tokens"] < usage["reasoning_tokens"] < usage["completion_tokens"]


@pytest.mark.parametrize("domain", ["starter", "gsmhard"])
def test_evaluation_reads_the_answers_of_a_reasoning_model(home: Home, interface: str, domain: str) -> None:
    result = evaluate_thinker(home, domain, domain, interface, 512)
    answer_count = result.n * result.runs
    assert answer_count >= 5 and result.unanswered + result.unscored <= 0.05 * answer_count
    assert result.cut_in_reasoning == 0 and result.reasoning_tokens == 512


def test_truncated_reasoning_is_reported_with_the_key_to_raise(
    home: Home, interface: str, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_turns(home, "short", interface, "endpoints.thinker.reasoning_tokens=8", "max_turns=2")
    assert [attempt["turn"] for attempt in summary["cut_in_reasoning"]] == [0, 1]
    reasons = {attempt["reason"] for attempt in summary["cut_in_reasoning"]}
    assert reasons == {"defence: cut inside its reasoning after 68 tokens; raise endpoints.thinker.reasoning_tokens"}
    show_run(home, summary["run"], as_json=False)
    output = capsys.readouterr().out
    assert "in 2 attempts, the token limit ended a reply" in output
    assert "raise endpoints.thinker.reasoning_tokens" in output
    result = evaluate_thinker(home, "short", "starter", interface, 8)
    assert result.unanswered == result.cut_in_reasoning == result.n
    show_evaluation(result)
    assert "raise --reasoning-tokens" in capsys.readouterr().out


def test_context_too_short_for_the_reasoning_is_refused_at_the_start(home: Home, interface: str) -> None:
    setting = "endpoints.thinker.reasoning_tokens=60000"
    with pytest.raises(ConfigError) as error:
        run_turns(home, "starter", interface, setting)
    assert "endpoints.thinker as the defender" in error.value.message and "60,000" in error.value.message
    assert "lower endpoints.thinker.reasoning_tokens" in error.value.fix
    assert ("raise endpoints.thinker.context" in error.value.fix) is (interface == "vllm")


def test_stop_string_ends_the_answer_and_not_the_reasoning(home: Home, interface: str) -> None:
    async def ask(stop: tuple[str, ...]) -> ChatReply:
        args = ARGS if interface == "vllm" else ()
        endpoint = build_model_endpoint("thinker", "", home, interface, args, reasoning_tokens=512)
        try:
            message = Message("user", "How many are 2 and 3?")
            sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=600, stop=stop)
            return await endpoint.chat(ChatRequest(endpoint.identity, (message,), sampling))
        finally:
            await endpoint.close()

    full_reply = asyncio.run(ask(()))
    stopped_reply = asyncio.run(ask(("\n\n", "\nProblem:", "\nANSWER:")))
    text = stopped_reply.text
    reasoning, answer = text[: find_answer_start(text)], text[find_answer_start(text) :]
    assert "Problem: nothing" in reasoning and reasoning.count("\n\n") >= 4
    assert answer.startswith("ANALYSIS:") and "SOLUTION:" in answer and "ANSWER" not in answer
    assert (full_reply.finish, stopped_reply.finish) == ("stop", "stop") and full_reply.text.startswith(text)
    assert 0 < stopped_reply.reasoning_tokens < stopped_reply.completion_tokens
