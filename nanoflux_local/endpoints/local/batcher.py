"""One worker thread that advances many requests together, each in its own row.

Owns the queue, the rows and the thread. A request joins as soon as a row is free and leaves when it ends; what its
row computes does not depend on the others (see `decoder`), so neither does its reply. A crash of the thread fails
every request with the reason; none is left waiting.
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

Load = Callable[[], "tuple[Decoder, ChatCodec]"]


@dataclass(eq=False)
class Job:
    """A request on its way. Its future stays cancellable until the reply is set. `opened` is the tag with which the
    prompt opened the reply's reasoning, which the reply's text begins with.
    """

    request: ChatRequest
    future: "Future[ChatReply]" = field(default_factory=Future)
    born: float = field(default_factory=time.monotonic)
    prompt: int = 0
    limit: int = 0
    opened: str = ""
    tokens: list[int] = field(default_factory=list)
    generator: Any = None

    def finish(self, text: str, finish: Finish) -> None:
        seconds = time.monotonic() - self.born
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(ChatReply(text, finish, self.prompt, len(self.tokens), seconds))

    def fail(self, error: NanofluxError) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher:
    """Takes jobs from any thread; `load` is called once, in the worker, when the first one comes."""

    def __init__(self, rows: int, load: Load) -> None:
        self._load = load
        self._waiting: deque[Job] = deque()
        self._live: list[Job | None] = [None] * rows
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ended: NanofluxError | None = None

    def submit(self, request: ChatRequest) -> "Future[ChatReply]":
        job = Job(request)
        with self._wake:
            if self._ended:
                raise self._ended
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nanoflux-decoder", daemon=True)
                self._thread.start()
            self._wake.notify()
        return job.future

    def close(self) -> None:
        """Stop the worker after its current step; unfinished requests fail. Safe to call twice."""
        with self._wake:
            self._ended = self._ended or EndpointError("The endpoint was closed.")
            self._wake.notify()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._decoder, self._codec = self._load()
            while self._admit():
                self._advance()
        except NanofluxError as error:
            self._end(error)
        except BaseException as error:  # noqa: BLE001 - whatever ends this thread must reach those who wait for it
            self._end(EndpointError(f"The in-process model stopped: {type(error).__name__}: {error}"))
        else:
            self._end(EndpointError("The endpoint was closed."))

    def _end(self, error: NanofluxError) -> None:
        with self._wake:
            self._ended = self._ended or error
            left = [*self._waiting, *(job for job in self._live if job)]
            self._waiting.clear()
            self._live = [None] * len(self._live)
        for job in left:
            if not job.future.done():
                job.fail(error)

    def _admit(self) -> bool:
        """Give free rows to the oldest waiting jobs; waits while there is nothing to do. False when closing."""
        while True:
            self._drop_cancelled()
            with self._wake:
                if self._ended:
                    return False
                free = self._live.index(None) if None in self._live else None
                if free is None or not self._waiting:
                    if any(self._live):
                        return True
                    self._wake.wait()
                    continue
                job = self._waiting.popleft()
                self._live[free] = job
            self._begin(free, job)

    def _drop_cancelled(self) -> None:
        for row, job in enumerate(self._live):
            if job and job.future.cancelled():
                self._leave(row)
        with self._wake:
            self._waiting = deque(job for job in self._waiting if not job.future.cancelled())

    def _begin(self, row: int, job: Job) -> None:
        from nanoflux_local.endpoints.local.sampler import generator_for

        try:
            ids = self._codec.encode(job.request.messages)
            job.opened = self._codec.opened_reasoning(ids)
            job.prompt, room = len(ids), self._decoder.context - len(ids)
            if room < 1:
                raise too_long(len(ids), self._decoder.context)
            job.limit = min(job.request.sampling.max_tokens, room)
            job.generator = generator_for(job.request.seed)
            logits = self._decoder.prefill(row, ids, len(ids) + job.limit)
        except EndpointError as error:
            self._leave(row)
            job.fail(error)
            return
        self._take(row, job, logits)

    def _advance(self) -> None:
        logits = self._decoder.step([job.tokens[-1] if job else 0 for job in self._live])
        for row, job in enumerate(self._live):
            if job:
                self._take(row, job, logits[row])

    def _take(self, row: int, job: Job, logits: Any) -> None:
        """Draw a row's next token; the row is free again when that ends the reply."""
        from nanoflux_local.endpoints.local.sampler import draw

        try:
            job.tokens.append(draw(logits, job.request.sampling, job.generator))
        except EndpointError as error:
            self._leave(row)
            job.fail(error)
            return
        ended = self._ended_by(job)
        if ended:
            self._leave(row)
            job.finish(*ended)

    def _ended_by(self, job: Job) -> tuple[str, Finish] | None:
        if job.tokens[-1] in self._codec.ends:
            return job.opened + self._codec.decode(job.tokens[:-1]), "stop"
        text = self._codec.find_stop(job.tokens, job.request.sampling.stop, job.opened)
        if text is not None:
            return text, "stop"
        return (job.opened + self._codec.decode(job.tokens), "length") if len(job.tokens) >= job.limit else None

    def _leave(self, row: int) -> None:
        self._live[row] = None
        self._decoder.release(row)


def too_long(prompt: int, context: int) -> PromptRefusedError:
    """The one wording for a prompt that does not fit."""
    fix = "Ask with fewer or shorter seeds, or bind the role to a model with a longer context."
    detail = f"The prompt has {prompt} tokens; the model's context holds {context}, reply included."
    return PromptRefusedError(TOO_LONG, detail, fix)
