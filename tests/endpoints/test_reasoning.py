"""Endpoints of reasoning models: which stop strings are sent, when a reply ends, and how its reasoning is counted."""

from pathlib import Path

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.context import Context, find_overflow
from nanoflux_local.endpoints.local.codec import ChatCodec
from nanoflux_local.endpoints.local.in_process import InProcessEndpoint
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.errors import EndpointError
from nanoflux_local.evaluate.soft import SoftJudge
from nanoflux_local.paths import Home
from nanoflux_local.reasoning import ends_in_reasoning, strip_reasoning
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Message, Sampling
from nanoflux_local.roles.base import Draw, Player
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.run.configs import derive_config, resolve
from nanoflux_local.seeds.benchmarks.starter import make_starter_items
from nanoflux_models.stand_ins import FAMILIES, make_stand_in

STOP_STRINGS = ("\n\n",)
TEXTS = ["What is the number? SOLUTION: ANSWER: 12 Okay, so."] * 3
"""The texts on which the stand-ins' tokenizers are trained."""


def make_body(content: str | None, reasoning: str | None, finish: str = "stop") -> dict[str, object]:
    """The body of a server's response, with 30 completion tokens, of which 21 are reasoning."""
    message = {"role": "assistant", "content": content, "reasoning": reasoning}
    usage = {"prompt_tokens": 9, "completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 21}}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


async def ask_server(server, context: Context | None, body: dict[str, object]) -> ChatReply:
    """Send one request with `STOP_STRINGS` to a server that answers with `body`."""
    server.answer((200, body))
    endpoint = OpenAIChatEndpoint("m", server.url, context=context)
    try:
        request = ChatRequest(endpoint.identity, (Message("user", "?"),), Sampling(max_tokens=64, stop=STOP_STRINGS))
        return await endpoint.chat(request)
    finally:
        await endpoint.close()


async def test_stop_strings_of_a_reasoning_model_are_applied_by_the_client(server) -> None:
    reply = await ask_server(
        server, Context(tokens=0, reasoning=32), make_body("\n\nANSWER: 5\n\nHuman: more", "One.\n\nTwo.")
    )
    assert "stop" not in server.bodies[-1]
    assert strip_reasoning(reply.text).strip() == "ANSWER: 5" and "One.\n\nTwo." in reply.text
    assert (reply.finish, reply.reasoning_tokens) == ("stop", 21)
    assert ChatReply.from_json(reply.to_json()) == reply


async def test_stop_strings_are_sent_for_models_without_reasoning(server) -> None:
    await ask_server(server, None, make_body("ANSWER: 5", None))
    assert server.bodies[-1]["stop"] == list(STOP_STRINGS)


async def test_refusal_of_a_reply_truncated_in_its_reasoning_names_the_setting(server) -> None:
    player = Player("judge", Identity("openai_chat", "m"), Sampling(), thinks=True)
    truncated_reply = await ask_server(
        server, Context(tokens=0, reasoning=32), make_body(None, "One.\n\nTwo", "length")
    )
    unparsed = player.refuse_incomplete(truncated_reply)
    assert unparsed is not None
    assert unparsed.reason == "cut inside its reasoning after 30 tokens; raise endpoints.judge.reasoning_tokens"
    assert player.refuse_incomplete(ChatReply("ANSWER: 5", "length")) is None
    assert player.refuse_incomplete(ChatReply("", "stop")) == Unparsed("the reply is empty")


async def test_soft_judge_raises_an_error_if_its_reasoning_is_truncated() -> None:
    judge = SoftJudge("arbiter", ScriptedEndpoint("arbiter"))

    async def call(_: ChatRequest) -> ChatReply:
        return ChatReply("<think>\nOne.\n\nTwo", "length", prompt_tokens=9, completion_tokens=30)

    item = make_starter_items("test")[0]
    with pytest.raises(EndpointError, match=r"cut inside its reasoning after 30 tokens; raise endpoints\.arbiter"):
        draw = Draw(run_seed=0, turn=0, attempt=0)
        await judge.mark(load_domain("starter"), item.question, item, "SOLUTION: 5\nANSWER: 5", draw, call)


def test_reasoning_model_is_not_prompted_section_by_section() -> None:
    assert Player("m", Identity("in_process", "m"), Sampling()).supports_prefill
    assert not Player("m", Identity("in_process", "m"), Sampling(), thinks=True).supports_prefill


async def test_reply_includes_the_think_tag_that_the_chat_template_opens(tmp_path: Path) -> None:
    folder = make_stand_in(FAMILIES["Qwen2ForCausalLM"], tmp_path / "r1", TEXTS)
    (folder / "weights.json").write_text('{"name": "r1", "revision": "x"}')
    endpoint = InProcessEndpoint(
        folder, rows=2, device="cpu", dtype="float32", context=Context(tokens=2048, reasoning=6)
    )
    try:
        sampling = Sampling(max_tokens=6, stop=("e", " "))
        reply = await endpoint.chat(ChatRequest(endpoint.identity, (Message("user", "?"),), sampling))
    finally:
        await endpoint.close()
    assert reply.text.startswith("<think>\n") and reply.finish == "length" and reply.completion_tokens == 6
    assert ends_in_reasoning(reply.text, reply.finish) and reply.reasoning_tokens >= 6


def test_channel_markers_stay_in_the_text_and_do_not_end_the_reply(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    family = FAMILIES["GptOssForCausalLM"]
    folder = make_stand_in(family, tmp_path / "oss", TEXTS)
    codec, tokenizer = ChatCodec(folder), AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    reply_text = family.render_reply("One.\n\nTwo.", "ANSWER: 12")
    reply_ids = tokenizer(reply_text, add_special_tokens=False)["input_ids"]
    assert reply_ids[-1] in codec.end_ids and not codec.end_ids & set(reply_ids[:-1])
    assert strip_reasoning(codec.decode(reply_ids[:-1])).strip() == "ANSWER: 12"
    assert codec.find_stop(reply_ids[:-1], ("12",)) is not None
    reasoning_ids = tokenizer(reply_text.partition("<|end|>")[0])["input_ids"]
    assert codec.find_stop(reasoning_ids, STOP_STRINGS) is None


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def test_reasoning_tokens_default_to_the_manifest(home: Home) -> None:
    config = resolve("starter", "a100-40g-x1", {}, home)
    reasoning_tokens = {name: config.endpoints[name].reasoning_tokens for name in ("qwen3", "gemma", "judge")}
    assert reasoning_tokens == {"qwen3": 8192, "gemma": 0, "judge": 4096}
    for tokens in (0, 100):
        settings = {"endpoints": {"qwen3": {"reasoning_tokens": tokens}}}
        config_with_setting = resolve("starter", "a100-40g-x1", settings, home)
        assert config_with_setting.endpoints["qwen3"].reasoning_tokens == tokens


def test_fork_changes_reasoning_tokens_only_with_the_model(home: Home) -> None:
    config = resolve("starter", "a100-40g-x1", {"endpoints": {"qwen3": {"reasoning_tokens": 0}}}, home)
    fork_with_seed = derive_config(config, {"seed": 7}, home)
    assert fork_with_seed.endpoints == config.endpoints
    fork_with_model = derive_config(config, {"endpoints": {"gemma": {"model": "deepseek-r1-distill-qwen-14b"}}}, home)
    assert fork_with_model.endpoints["gemma"].reasoning_tokens == 8192
    assert fork_with_model.endpoints["qwen3"].reasoning_tokens == 0


@pytest.mark.parametrize("profile", ["a100-40g-x1", "a100-40g-x2", "a100-40g-x4", "hybrid"])
def test_contexts_of_the_packaged_profiles_fit_prompt_reasoning_and_answer(home: Home, profile: str) -> None:
    """At least 2,048 tokens remain for the prompt: attacks need that many, and judges rarely need more."""
    config = resolve("gsmhard", profile, {"datasets": ["starter"]}, home)
    for name, endpoint in config.endpoints.items():
        if endpoint.interface == "vllm" and endpoint.reasoning_tokens:
            assert endpoint.context >= 2048 + config.reply_tokens + endpoint.reasoning_tokens, name


def test_overflow_counts_prompt_answer_and_reasoning() -> None:
    class CountingEndpoint:
        context = Context(tokens=100, reasoning=40)

        def count_tokens(self, text: str) -> int | None:
            return len(text.split())

    messages = (Message("user", "one two three"),)
    assert find_overflow(CountingEndpoint(), messages, answer_tokens=57) == ""
    overflow = find_overflow(CountingEndpoint(), messages, answer_tokens=58)
    assert "needs 101 tokens (prompt 3, answer 58, reasoning 40), but the context holds 100" in overflow


async def test_refusal_of_reasoning_cut_at_a_stop_string_names_the_setting(server) -> None:
    """The server applies stop strings to the reasoning too, and the endpoint has no `reasoning_tokens`."""
    reply = await ask_server(server, None, make_body(None, "Okay, let me", "stop"))
    unparsed = Player("judge", Identity("openai_chat", "m"), Sampling()).refuse_incomplete(reply)
    assert unparsed is not None
    assert unparsed.reason.endswith("perhaps at a stop string; set endpoints.judge.reasoning_tokens")
