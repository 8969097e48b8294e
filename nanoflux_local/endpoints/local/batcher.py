"""A worker thread that decodes many requests together, each in a row of the batch.

A request waits in a queue until a row of the batch is free, and frees the row when its reply ends. A row's result does
not depend on the other rows (see `decoder`), so a reply does not depend on the other requests. If the thread crashes,
all requests fail with the reason instead of waiting forever.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nanoflux_local.endpoints.local.codec import ChatCodec
from nanoflux_local.endpoints.remote.refusals import TOO_LONG
from nanoflux_local.errors import EndpointError, NanofluxError, PromptRefusedError
from nanoflux_local.records import ChatReply, ChatRequest, Finish

if TYPE_CHECKING:
    from nanoflux_local.endpoints.local.decoder import Decoder

UNUSED_ROW_TOKEN = 0
"""The token id that a decoding step processes in a row without a request; its logits are ignored."""
LoadDecoder = Callable[[], "tuple[Decoder, ChatCodec]"]
"""Loads a model's decoder and its codec."""


@dataclass(eq=False)
class DecodingRequest:
    """A chat request in the queue or in a row. Its future can be cancelled until the reply is set.

    `created_at` is a time of the monotonic clock. `max_tokens` is the maximum number of tokens in the reply,
    `token_ids` are the tokens drawn so far, and `generator` is the `torch.Generator` that draws them. `opening_tag` is
    the tag with which the prompt opens the reply's reasoning; the reply's text starts with this tag.
    """

    chat_request: ChatRequest
    future: "Future[ChatReply]" = field(default_factory=Future)
    created_at: float = field(default_factory=time.monotonic)
    prompt_tokens: int = 0
    max_tokens: int = 0
    opening_tag: str = ""
    token_ids: list[int] = field(default_factory=list)
    generator: Any = None

    def finish(self, text: str, finish_reason: Finish) -> None:
        """Set the reply, unless the future was cancelled."""
        seconds = time.monotonic() - self.created_at
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(ChatReply(text, finish_reason, self.prompt_tokens, len(self.token_ids), seconds))

    def fail(self, error: NanofluxError) -> None:
        """Set the error, unless the future was cancelled."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher:
    """Accepts requests from any thread, and decodes them in a worker thread, which starts with the first request.

    The worker thread calls `load` once. `rows` is the number of requests that are decoded together.
    """

    def __init__(self, rows: int, load: LoadDecoder) -> None:
        self._load = load
        self._queue: deque[DecodingRequest] = deque()
        self._request_by_row: list[DecodingRequest | None] = [None] * rows
        self._work_available = threading.Condition()  # its lock also guards the queue and the final error
        self._thread: threading.Thread | None = None
        self._final_error: NanofluxError | None = None  # why the worker accepts no more requests

    def submit(self, chat_request: ChatRequest) -> "Future[ChatReply]":
        """Queue a request.

        Raises:
            NanofluxError: the worker was closed, or has crashed.
        """
        request = DecodingRequest(chat_request)
        with self._work_available:
            if self._final_error:
                raise self._final_error
            self._queue.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nanoflux-decoder", daemon=True)
                self._thread.start()
            self._work_available.notify()
        return request.future

    def close(self) -> None:
        """Stop the worker after its current step; unfinished requests fail. Safe to call twice."""
        with self._work_available:
            self._final_error = self._final_error or _make_closed_error()
            self._work_available.notify()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        """Load the model and decode until the worker is closed or an error occurs; then fail unfinished requests."""
        try:
            self._decoder, self._codec = self._load()
            while self._fill_rows():
                self._decode_step()
        except NanofluxError as error:
            self._fail_all(error)
        except BaseException as error:  # noqa: BLE001 - every error of this thread must reach the waiting requests
            fix = "resume the run; if it crashes again, serve the model with `nanoflux models serve`"
            self._fail_all(EndpointError(f"the in-process model crashed: {type(error).__name__}: {error}", fix))
        else:
            self._fail_all(_make_closed_error())

    def _fail_all(self, error: NanofluxError) -> None:
        """Stop accepting requests, and fail those in the queue and in the rows."""
        with self._work_available:
            self._final_error = self._final_error or error
            unfinished_requests = [*self._queue, *(request for request in self._request_by_row if request)]
            self._queue.clear()
            self._request_by_row = [None] * len(self._request_by_row)
        for request in unfinished_requests:
            if not request.future.done():
                request.fail(error)

    def _fill_rows(self) -> bool:
        """Assign free rows to the oldest waiting requests; if there are no requests at all, wait for one. Return False
        once the worker is closed.
        """
        while True:
            self._drop_cancelled()
            with self._work_available:
                if self._final_error:
                    return False
                if not any(self._request_by_row) and not self._queue:
                    self._work_available.wait()
                    continue
                if None not in self._request_by_row or not self._queue:
                    return True
                free_row = self._request_by_row.index(None)
                request = self._queue.popleft()
                self._request_by_row[free_row] = request
            self._start_request(free_row, request)

    def _drop_cancelled(self) -> None:
        """Remove cancelled requests from the rows and the queue."""
        for row, request in enumerate(self._request_by_row):
            if request and request.future.cancelled():
                self._free(row)
        with self._work_available:
            self._queue = deque(request for request in self._queue if not request.future.cancelled())

    def _start_request(self, row: int, request: DecodingRequest) -> None:
        """Encode a request's prompt, fill the row with it, and draw the reply's first token."""
        from nanoflux_local.endpoints.local.sampler import make_generator

        try:
            prompt_ids = self._codec.encode(request.chat_request.messages)
            request.opening_tag = self._codec.find_opened_reasoning(prompt_ids)
            request.prompt_tokens = len(prompt_ids)
            free_positions = self._decoder.context - request.prompt_tokens
            if free_positions < 1:
                raise make_too_long_error(request.prompt_tokens, self._decoder.context)
            request.max_tokens = min(request.chat_request.sampling.max_tokens, free_positions)
            request.generator = make_generator(request.chat_request.seed)
            prefix_length = self._codec.count_shared_tokens(request.chat_request.messages, prompt_ids)
            logits = self._decoder.prefill(row, prompt_ids, request.prompt_tokens + request.max_tokens, prefix_length)
        except EndpointError as error:
            self._free(row)
            request.fail(error)
            return
        self._draw_token(row, request, logits)

    def _decode_step(self) -> None:
        """Run one decoding step, and draw the next token of every request in a row."""
        newest_tokens = [request.token_ids[-1] if request else UNUSED_ROW_TOKEN for request in self._request_by_row]
        logits = self._decoder.step(newest_tokens)
        for row, request in enumerate(self._request_by_row):
            if request:
                self._draw_token(row, request, logits[row])

    def _draw_token(self, row: int, request: DecodingRequest, logits: Any) -> None:
        """Draw a row's next token; free the row if that token ends the reply."""
        from nanoflux_local.endpoints.local.sampler import draw

        try:
            request.token_ids.append(draw(logits, request.chat_request.sampling, request.generator))
        except EndpointError as error:
            self._free(row)
            request.fail(error)
            return
        text_and_finish_reason = self._find_end(request)
        if text_and_finish_reason:
            self._free(row)
            request.finish(*text_and_finish_reason)

    def _find_end(self, request: DecodingRequest) -> tuple[str, Finish] | None:
        """The reply's text and finish reason if the newest token ends the reply, else None."""
        if request.token_ids[-1] in self._codec.end_ids:
            return request.opening_tag + self._codec.decode(request.token_ids[:-1]), "stop"
        text = self._codec.find_stop(request.token_ids, request.chat_request.sampling.stop, request.opening_tag)
        if text is not None:
            return text, "stop"
        if len(request.token_ids) >= request.max_tokens:
            return request.opening_tag + self._codec.decode(request.token_ids), "length"
        return None

    def _free(self, row: int) -> None:
        """Make a row available to the next request."""
        self._request_by_row[row] = None
        self._decoder.release(row)


def make_too_long_error(prompt_tokens: int, context: int) -> PromptRefusedError:
    """The error for a prompt that does not fit the context."""
    fix = "use fewer or shorter seeds, or bind the role to a model with a longer context"
    detail = f"the prompt has {prompt_tokens} tokens; the model's context holds {context}, reply included"
    return PromptRefusedError(TOO_LONG, detail, fix)


def _make_closed_error() -> EndpointError:
    return EndpointError("the endpoint was closed", "resume the run")
