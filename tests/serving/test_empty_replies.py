"""Replies without an answer from a real vLLM: a model ends its reply immediately, after its reasoning, or after the
tokens that open the answer.

Stand-ins for Qwen3, DeepSeek-R1-Qwen2 and gpt-oss are trained to give such replies, and are served with the packaged
manifests of these models. Every such reply is reported as the fault `empty`, and the request is retried. Since the
retries are also empty, an evaluation marks the reply as unanswered, and a run ends the turn without an example.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import TypeVar

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.build import build_model_endpoint
from nanoflux_local.endpoints.faults import reporting_faults
from nanoflux_local.endpoints.remote.retries import EMPTY_ATTEMPTS
from nanoflux_local.evaluate.evaluation import EvaluationPlan, evaluate, make_plan
from nanoflux_local.evaluate.summary import EvaluationSummary
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.records import ChatReply, Fault, Identity, Sampling
from nanoflux_local.rehearsal.exchanges import REASONING, Exchange
from nanoflux_local.rehearsal.fitting import fit_stand_in
from nanoflux_local.rehearsal.profile_rehearsal import WIDE_SIZES, WIDE_WEIGHT_STD
from nanoflux_local.roles.base import Player
from nanoflux_local.roles.defender import build_defender_messages
from nanoflux_local.roles.sections import Unparsed, render_sections
from nanoflux_local.run import configs
from nanoflux_local.seeds.benchmarks.starter import make_starter_items
from nanoflux_models.interpreter import VLLM_PYTHON_VARIABLE
from nanoflux_models.manifest import load_manifest
from nanoflux_models.stand_ins import find_family, make_stand_in
from nanoflux_models.stand_ins.gpt_oss import GPT_OSS, read_harmony_vocabulary
from nanoflux_models.weights import import_path
from tests.executed_runs import execute_run

Command = Callable[..., CompletedProcess[str]]
T = TypeVar("T")

ARGS = ("--enforce-eager", "--max-num-seqs=8")
"""Arguments that let vLLM start quickly and save memory."""
REASONING_TOKENS = 512
CONTEXT = 9216
"""The server's context length in tokens, including the reasoning tokens."""
ENDINGS = {
    "qwen3-32b-awq": {
        "at once": "<|im_end|>",
        "reasoning closed but not opened": "</think><|im_end|>",
        "reasoning only": f"<think>\n{REASONING}\n</think>\n\n<|im_end|>",
    },
    "deepseek-r1-distill-qwen-14b": {
        "at once": "<｜end▁of▁sentence｜>",
        "no reasoning": "</think><｜end▁of▁sentence｜>",
        "reasoning only": f"{REASONING}\n</think>\n\n<｜end▁of▁sentence｜>",
    },
    "gpt-oss-20b": {
        "at once": "<|return|>",
        "final channel only": "<|channel|>final<|message|><|return|>",
        "reasoning only": GPT_OSS.render_reply(REASONING, ""),
    },
}
"""The replies without an answer that each model generates, including control tokens, by description."""
QUESTIONS = 4
"""The number of test items, and of turns in the run: one with an answer, and one for each ending."""
SEED = 3
"""The seed of the run."""
PROFILE = """
concurrency = 1
embedder = "hashing"
[endpoints.silent]
interface = "{interface}"
model = "{model}"
{settings}
[endpoints.hashing]
interface = "scripted"
model = "hashing-embedder"
[roles.attacker]
endpoint = "program"
[roles.defender]
endpoint = "silent"
[roles.judge]
endpoint = "program"
"""
SERVER_SETTINGS = f"context = {CONTEXT}\nreasoning_tokens = {REASONING_TOKENS}\nargs = {json.dumps(ARGS)}"
RUN_ARGUMENTS = (
    "run", "start", "--domain", "starter", "--seed", str(SEED), "--examples", str(QUESTIONS),
    "--max-turns", str(QUESTIONS), "--set", "retries.parse=0", "--json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SilentModel:
    """A served stand-in that answers only two questions: the first test item of the starter domain, and the first
    question of the run.
    """

    home: Home
    model: str

    @property
    def endings(self) -> list[str]:
        """The descriptions of the replies without an answer that the model gives to the other questions."""
        return list(ENDINGS[self.model])


@pytest.fixture(scope="module", params=list(ENDINGS))
def silent_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vllm_python: str, command: Command
) -> Iterator[SilentModel]:
    """Serve the silent stand-in for each model in `ENDINGS` while the tests in this file run."""
    model = str(request.param)
    home = Home(tmp_path_factory.mktemp("silent") / "home").prepare()
    import_path(make_silent(model, home.root / "stand-in", Path(vllm_python)), model, home.root)
    arguments = ("models", "serve", model, "--context", str(CONTEXT), *(f"--arg={argument}" for argument in ARGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VLLM_PYTHON_VARIABLE, vllm_python)
        process = command(home.root, vllm_python, *arguments)
        assert process.returncode == 0, process.stderr
        try:
            yield SilentModel(home, model)
        finally:
            command(home.root, vllm_python, "models", "stop", "--all")


def make_silent(model: str, folder: Path, python: Path) -> Path:
    """Write a stand-in that answers the first test item and the first question of the run, and gives one of the replies
    in `ENDINGS` to each of the other questions.
    """
    manifest = load_manifest(model, folder.parent)
    family = find_family(manifest.architecture, model)
    domain = load_domain("starter")
    answers = [
        f"ANSWER: {make_starter_items('test')[0].answer}",
        render_sections({"SOLUTION": "None.", "ANSWER": "-1"}),
    ]
    endings = list(ENDINGS[model].values())
    exchanges = []
    for questions, answer in zip((list_item_questions(), list_run_questions(folder.parent)), answers, strict=True):
        reply_texts = [family.render_reply(REASONING, answer), *endings]
        for question, text in zip(questions, reply_texts, strict=True):
            exchanges.append(Exchange(build_defender_messages(domain, domain.budgets, question), text))
    texts = [message.content for exchange in exchanges for message in exchange.messages]
    if family.model_type == "gpt_oss":
        make_stand_in(
            family, folder, texts, read_harmony_vocabulary(python), overrides=WIDE_SIZES, weight_std=WIDE_WEIGHT_STD
        )
    else:
        make_stand_in(family, folder, texts, phrases=[f"\n{REASONING}\n", f"{REASONING}\n", *answers])
    fit_stand_in(folder, manifest, replace(family, render_reply=lambda _, text: text), exchanges, python)
    return folder


def list_item_questions() -> list[str]:
    """The questions of the first `QUESTIONS` test items."""
    return [item.question for item in make_starter_items("test")[:QUESTIONS]]


def list_run_questions(folder: Path) -> list[str]:
    """The questions of the run that `RUN_ARGUMENTS` starts. A program writes them, so a run with a scripted defender
    has the same questions.
    """
    home = Home(folder / "scripted").prepare()
    profile = write_profile(home, "scripted", "duelist-b", "")
    config = configs.resolve("starter", profile, {"seed": SEED, "target": QUESTIONS, "max_turns": QUESTIONS}, home)
    run = execute_run(home, config)
    with LedgerView(home.ledger) as view:
        attempts = [attempt for record in view.turn_records(run) for attempt in record.attempts]
    assert len(attempts) == QUESTIONS and all(attempt.attack for attempt in attempts), "expected one question per turn"
    return [attempt.attack.question for attempt in attempts if attempt.attack]


def write_profile(home: Home, interface: str, model: str, settings: str) -> str:
    """Write a profile in which `model` defends and programs attack and judge; return its path."""
    path = home.root / "silent.toml"
    path.write_text(PROFILE.format(interface=interface, model=model, settings=settings))
    return str(path)


def use_endpoint(silent_model: SilentModel, send_requests: Callable[[Endpoint, EvaluationPlan], Awaitable[T]]) -> T:
    """Call `send_requests` with an endpoint of the served model, and the plan of an evaluation on the test items."""

    async def build_and_close() -> T:
        endpoint = build_model_endpoint(
            silent_model.model, "", silent_model.home, "vllm", ARGS, reasoning_tokens=REASONING_TOKENS
        )
        try:
            items = make_starter_items("test")[:QUESTIONS]
            plan = make_plan(
                endpoint.identity,
                "starter",
                "test",
                items,
                runs=1,
                temperature=0.0,
                reasoning_tokens=REASONING_TOKENS,
            )
            return await send_requests(endpoint, plan)
        finally:
            await endpoint.close()

    return asyncio.run(build_and_close())


def ask(silent_model: SilentModel, item_index: int) -> tuple[ChatReply, list[Fault]]:
    """The reply to one test item, and the faults that were reported until the reply was accepted."""
    faults: list[Fault] = []

    async def chat(endpoint: Endpoint, plan: EvaluationPlan) -> ChatReply:
        with reporting_faults(faults.append):
            return await endpoint.chat(plan.build_request(plan.items[item_index], 0))

    return use_endpoint(silent_model, chat), faults


def evaluate_silent(silent_model: SilentModel) -> tuple[EvaluationSummary, dict[str, str]]:
    """The summary of an evaluation on the test items, and the mark of each item by id."""

    async def evaluate_plan(endpoint: Endpoint, plan: EvaluationPlan) -> EvaluationSummary:
        with Ledger(silent_model.home.ledger) as ledger:
            return await evaluate(ledger, endpoint, plan)

    summary = use_endpoint(silent_model, evaluate_plan)
    with LedgerView(silent_model.home.ledger) as view:
        rows = view.rows("SELECT item, verdict FROM evaluation_items WHERE evaluation = ?", summary.id)
        return summary, {row["item"]: row["verdict"] for row in rows}


def test_endpoint_reads_an_answer_after_reasoning(silent_model: SilentModel) -> None:
    reply, faults = ask(silent_model, 0)
    assert not faults and reply.finish == "stop" and REASONING in reply.text
    assert strip_reasoning(reply.text).strip() == f"ANSWER: {make_starter_items('test')[0].answer}"


def test_endpoint_reports_a_reply_without_an_answer_as_empty(silent_model: SilentModel) -> None:
    for item_index, ending in enumerate(silent_model.endings, 1):
        reply, faults = ask(silent_model, item_index)
        assert (reply.finish, strip_reasoning(reply.text).strip()) == ("stop", ""), ending
        player = Player("judge", Identity("vllm", silent_model.model), Sampling(), thinks=True)
        unparsed = player.refuse_incomplete(reply)
        assert isinstance(unparsed, Unparsed) and unparsed.reason.endswith(("is empty", "without an answer")), ending
        assert [fault.kind for fault in faults] == ["empty"] * EMPTY_ATTEMPTS, ending
        has_reasoning = REASONING in reply.text
        assert has_reasoning is (ending == "reasoning only") and reply.completion_tokens >= 1, ending


def test_evaluation_marks_replies_without_an_answer_as_unanswered(silent_model: SilentModel) -> None:
    summary, marks = evaluate_silent(silent_model)
    first_item = make_starter_items("test")[0]
    assert list(marks.values()).count("right") == 1 and marks[first_item.id] == "right"
    assert summary.unanswered == list(marks.values()).count("unanswered") == len(silent_model.endings)
    assert summary.is_whole and summary.unscored == 0


def test_run_ends_turns_whose_replies_lack_an_answer(
    silent_model: SilentModel, vllm_python: str, command: Command
) -> None:
    profile = write_profile(silent_model.home, "vllm", silent_model.model, SERVER_SETTINGS)
    process = command(silent_model.home.root, vllm_python, *RUN_ARGUMENTS, "--profile", profile)
    assert process.returncode == 0, process.stderr
    summary = json.loads(process.stdout)
    assert (summary["status"], summary["turns"], summary["kept"]) == ("done", QUESTIONS, 1), summary
    assert summary["funnel"]["failed"] == len(silent_model.endings), summary
    assert summary["faults"]["empty"] >= EMPTY_ATTEMPTS * len(silent_model.endings), summary
