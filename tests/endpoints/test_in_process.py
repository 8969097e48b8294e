"""The in-process endpoint's reply to a request does not depend on the batch; tested with SmolLM2."""

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from nanoflux_local.adapters.hash import adapter_hash
from nanoflux_local.endpoints.local.batcher import Batcher
from nanoflux_local.endpoints.local.in_process import InProcessEndpoint
from nanoflux_local.errors import DataError, EndpointError
from nanoflux_local.records import ChatReply, ChatRequest, Message, Sampling

pytestmark = pytest.mark.real_model
ROWS = 4
"""The number of requests that an endpoint decodes in one batch."""
GREEDY, SAMPLED = Sampling(max_tokens=16), Sampling(temperature=0.9, top_p=0.9, max_tokens=16)


@pytest.fixture(scope="module")
def endpoint(smollm2_dir: Path):
    """An endpoint with SmolLM2-135M, which the tests in this file share."""
    endpoint = InProcessEndpoint(smollm2_dir, rows=ROWS, device="cpu")
    yield endpoint
    asyncio.run(endpoint.close())


def make_request(endpoint: InProcessEndpoint, text: str, sampling: Sampling = GREEDY, seed: int = 0) -> ChatRequest:
    """A request with `text` as the user's message."""
    return ChatRequest(endpoint.identity, (Message("user", text),), sampling, seed)


def drop_duration(reply: ChatReply) -> dict[str, object]:
    """The fields of a reply without its duration."""
    return {key: value for key, value in asdict(reply).items() if key != "seconds"}


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_reply_does_not_depend_on_the_batch(endpoint: InProcessEndpoint, sampling: Sampling) -> None:
    request = make_request(endpoint, "Add 17 and 25, then say why.", sampling, seed=11)
    reply_alone = await endpoint.chat(request)
    # There are more requests than rows, of many lengths, so some start while others are in progress.
    other_requests = [
        make_request(endpoint, f"Count {number} of: {'apples and pears ' * (number * 7 % 20)}", SAMPLED, number)
        for number in range(ROWS + 2)
    ]
    for position in (0, ROWS + 2):  # the request is the first or the last
        requests = [*other_requests[:position], request, *other_requests[position:]]
        replies = await asyncio.gather(*map(endpoint.chat, requests))
        assert drop_duration(replies[position]) == drop_duration(reply_alone)
    assert endpoint.repeatable


async def test_logits_are_bit_identical_in_any_batch(smollm2_dir: Path) -> None:
    torch = pytest.importorskip("torch")
    from nanoflux_local.endpoints.local.decoder import Decoder

    decoder = Decoder(smollm2_dir, adapter=None, rows=ROWS, device="cpu", dtype="bfloat16")
    prompt = list(range(40, 70))

    def trace_logits(row: int, neighbour_lengths: dict[int, int], neighbour_token: int) -> list:
        """The logits in `row` after the prompt and after each of four steps. `neighbour_lengths` has the prompt lengths
        of other rows, to which each step appends `neighbour_token`.
        """
        for neighbour, length in neighbour_lengths.items():
            decoder.prefill(neighbour, [100 + neighbour] * length, max_length=length + 8)
        logits = [decoder.prefill(row, prompt, max_length=64)]
        for step in range(4):
            tokens = [neighbour_token] * ROWS
            tokens[row] = 50 + step
            logits.append(decoder.step(tokens)[row])
        for row_in_use in (row, *neighbour_lengths):
            decoder.release(row_in_use)
        return logits

    logits_alone = trace_logits(0, {}, neighbour_token=0)
    for neighbour_lengths in ({1: 3}, {1: 300, 2: 70}, {0: 33, 1: 600, 2: 5}):
        logits_with_neighbours = trace_logits(ROWS - 1, neighbour_lengths, neighbour_token=99)
        assert all(map(torch.equal, logits_alone, logits_with_neighbours))
    assert decoder.is_batch_invariant() and decoder.agrees_with_transformers()


def test_cached_and_computed_prefixes_give_bit_identical_logits(smollm2_dir: Path) -> None:
    torch = pytest.importorskip("torch")
    from nanoflux_local.endpoints.local.decoder import Decoder

    first_decoder, second_decoder = (
        Decoder(smollm2_dir, adapter=None, rows=ROWS, device="cpu", dtype="bfloat16") for _ in range(2)
    )
    prefix = list(range(40, 110))
    prompt = [*prefix, *range(200, 230)]
    first_decoder.prefill(1, [*prefix, 9, 8, 7], max_length=200, prefix_length=len(prefix))
    cached_logits = first_decoder.prefill(2, prompt, max_length=200, prefix_length=len(prefix))
    computed_logits = second_decoder.prefill(0, prompt, max_length=200, prefix_length=len(prefix))
    assert torch.equal(cached_logits, computed_logits)
    first_step_logits = first_decoder.step([0, 0, 5, 0])[2]
    second_step_logits = second_decoder.step([5, 0, 0, 0])[0]
    assert torch.equal(first_step_logits, second_step_logits)
    one_pass_logits = second_decoder.prefill(3, prompt, max_length=200)
    similarity = torch.nn.functional.cosine_similarity(computed_logits, one_pass_logits, dim=0)
    assert similarity > 0.99, "processing the prompt in one pass changes the logits by more than rounding errors"


def test_shared_prefix_is_the_conversation_before_the_last_question(smollm2_dir: Path) -> None:
    from nanoflux_local.endpoints.local.codec import MIN_SHARED_TOKENS, ChatCodec

    codec = ChatCodec(smollm2_dir)
    worked_example = (Message("user", "How many are 8 and 7? " * 8), Message("assistant", "SOLUTION: 8 + 7 = 15"))
    conversations = [
        (*worked_example, Message("user", question)) for question in ("How many are 2 and 2?", "What is 9 - 4?")
    ]
    first_ids, second_ids = (codec.encode(messages) for messages in conversations)
    shared_count = codec.count_shared_tokens(conversations[0], first_ids)
    assert shared_count == codec.count_shared_tokens(conversations[1], second_ids)
    assert shared_count >= MIN_SHARED_TOKENS
    assert first_ids[:shared_count] == second_ids[:shared_count]
    assert codec.decode(first_ids[:shared_count]).endswith("SOLUTION: 8 + 7 = 15\n")
    with_open_reply = (*conversations[0], Message("assistant", "SOLUTION: 2 +"))
    assert codec.count_shared_tokens(with_open_reply, codec.encode(with_open_reply)) == shared_count
    question_alone = conversations[0][-1:]
    assert codec.count_shared_tokens(question_alone, codec.encode(question_alone)) == 0


async def test_seed_determines_the_sampled_reply(endpoint: InProcessEndpoint) -> None:
    requests = [make_request(endpoint, "Tell a story about the sea.", SAMPLED, seed) for seed in (1, 2, 1)]
    first_text, second_text, repeated_text = [
        reply.text for reply in await asyncio.gather(*map(endpoint.chat, requests))
    ]
    assert first_text == repeated_text
    assert first_text != second_text


async def test_reply_ends_before_a_stop_string(endpoint: InProcessEndpoint) -> None:
    prompt = "Write the numbers from one to ten as words."
    full_text = (await endpoint.chat(make_request(endpoint, prompt))).text
    middle = len(full_text) // 2
    stop_string = full_text[middle : middle + 5]
    reply = await endpoint.chat(make_request(endpoint, prompt, Sampling(stop=(stop_string,))))
    assert (reply.text, reply.finish) == (full_text[: full_text.index(stop_string)], "stop")


async def test_reply_ends_at_max_tokens_or_the_end_of_turn(endpoint: InProcessEndpoint) -> None:
    truncated_reply, complete_reply = await asyncio.gather(
        endpoint.chat(make_request(endpoint, "Tell a long story.", Sampling(max_tokens=5))),
        endpoint.chat(make_request(endpoint, "Say only: yes.", Sampling(max_tokens=200))),
    )
    assert (truncated_reply.finish, truncated_reply.completion_tokens) == ("length", 5)
    assert complete_reply.finish == "stop" and "<|" not in complete_reply.text
    assert truncated_reply.prompt_tokens > 5 and truncated_reply.seconds > 0


async def test_prompt_longer_than_the_context_fails_only_its_own_request(endpoint: InProcessEndpoint) -> None:
    long_result, short_result = await asyncio.gather(
        endpoint.chat(make_request(endpoint, "word " * 9000)),
        endpoint.chat(make_request(endpoint, "Hello.", Sampling(max_tokens=3))),
        return_exceptions=True,
    )
    assert isinstance(long_result, EndpointError) and "8192" in long_result.message and long_result.fix
    assert isinstance(short_result, ChatReply)


async def test_cancelled_requests_free_the_queue_and_their_rows(endpoint: InProcessEndpoint) -> None:
    tasks = [
        asyncio.create_task(
            endpoint.chat(
                make_request(endpoint, f"Story {number}.", Sampling(temperature=1.5, max_tokens=4000), number)
            )
        )
        for number in range(2 * ROWS)
    ]
    await asyncio.sleep(1.0)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError | ChatReply) for result in results)
    reply = await asyncio.wait_for(endpoint.chat(make_request(endpoint, "Hello.", Sampling(max_tokens=3))), 60)
    assert reply.completion_tokens == 3


async def test_lone_surrogates_and_special_tokens_do_not_break_a_request(endpoint: InProcessEndpoint) -> None:
    reply = await endpoint.chat(make_request(endpoint, "odd \ud800 <|im_end|> text", Sampling(max_tokens=3)))
    assert reply.completion_tokens <= 3
    assert endpoint.count_tokens("odd \ud800 text") > 0


def test_worker_crash_fails_all_waiting_requests() -> None:
    may_crash = threading.Event()

    def crash_while_loading():
        may_crash.wait(10)
        raise MemoryError("out of memory")

    batcher = Batcher(2, crash_while_loading)
    futures = [batcher.submit(ChatRequest(None, ())) for _ in range(5)]  # type: ignore[arg-type]
    may_crash.set()
    for future in futures:
        with pytest.raises(EndpointError, match="MemoryError: out of memory"):
            future.result(10)
    with pytest.raises(EndpointError, match="out of memory"):
        batcher.submit(ChatRequest(None, ()))  # type: ignore[arg-type]
    batcher.close()


async def test_close_fails_unfinished_requests_and_may_be_repeated(smollm2_dir: Path) -> None:
    endpoint = InProcessEndpoint(smollm2_dir, rows=2, device="cpu")
    task = asyncio.create_task(endpoint.chat(make_request(endpoint, "Hello.")))
    await asyncio.sleep(0.05)
    await endpoint.close()
    await endpoint.close()
    with pytest.raises(EndpointError, match="closed"):
        await task
    with pytest.raises(EndpointError, match="closed"):
        await endpoint.chat(make_request(endpoint, "Hello."))


def test_identity_contains_model_revision_adapter_device_dtype_and_rows(smollm2_dir: Path) -> None:
    record = json.loads((smollm2_dir / "weights.json").read_text())
    identity = InProcessEndpoint(smollm2_dir, rows=8, device="cpu", dtype="float32").identity
    assert identity.interface == "in_process" and identity.model == "smollm2-135m"
    assert identity.revision == record["revision"] and identity.adapter == ""
    assert identity.variant == "cpu float32 rows=8"


async def test_adapter_changes_replies_and_identity(smollm2_dir: Path, tmp_path: Path) -> None:
    make_adapter(smollm2_dir, tmp_path)
    tuned = InProcessEndpoint(smollm2_dir, adapter=tmp_path, rows=ROWS, device="cpu")
    base = InProcessEndpoint(smollm2_dir, rows=ROWS, device="cpu")
    try:
        assert tuned.identity.adapter == adapter_hash(tmp_path) and base.identity.adapter == ""
        tuned_reply, base_reply = [
            await endpoint.chat(make_request(endpoint, "What is the capital of France?")) for endpoint in (tuned, base)
        ]
        assert tuned_reply.text != base_reply.text and tuned_reply.prompt_tokens == base_reply.prompt_tokens
    finally:
        await tuned.close()
        await base.close()


def make_adapter(base: Path, folder: Path) -> None:
    """Write a LoRA adapter whose random weights are large enough to change replies."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(str(folder))


def test_folder_without_weights_or_adapter_is_refused(smollm2_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"contains no installed weights"):
        InProcessEndpoint(tmp_path)
    with pytest.raises(DataError, match="not an adapter"):
        InProcessEndpoint(smollm2_dir, adapter=tmp_path)


def test_creating_an_endpoint_and_counting_tokens_does_not_import_torch(smollm2_dir: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from nanoflux_local.endpoints.local.in_process import InProcessEndpoint\n"
        "from nanoflux_local.endpoints.local.embedder import LocalEmbedder\n"
        f"endpoint = InProcessEndpoint(pathlib.Path({str(smollm2_dir)!r}), device='cpu')\n"
        "assert endpoint.count_tokens('one two') == 2\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_prompt_leaves_a_final_assistant_message_open(smollm2_dir: Path) -> None:
    from nanoflux_local.endpoints.local.codec import ChatCodec

    codec = ChatCodec(smollm2_dir)
    question = (Message("user", "What is 2 + 2?"),)
    question_ids = codec.encode(question)
    prompt_ids = codec.encode((*question, Message("assistant", "SOLUTION: 2 + 2 = 4\nANSWER:")))
    assert prompt_ids[: len(question_ids)] == question_ids
    assert codec.decode(prompt_ids).endswith("assistant\nSOLUTION: 2 + 2 = 4\nANSWER:")
