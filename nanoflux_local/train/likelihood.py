"""Scores how likely a completion is under an untuned model: its mean log-probability per token, with teacher forcing.

Each score is stored in the ledger, under the hash of model, prompt and completion, before it is used. Therefore a
repeated or resumed choice of solutions computes no score twice.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from nanoflux_local.errors import DataError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.records import Identity, ScoreReply, ScoreRequest
from nanoflux_local.train.data import Codec, EncodedExample, TrainingExample
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

SCORES = "scores"
"""The value of the column `run` in the ledger's table of calls: scores belong to no run."""
COMPLETIONS_PER_PASS = 8
"""The number of completions in one forward pass."""
POSITIONS_PER_SLICE = 128
"""The number of positions whose logits are in memory at a time."""


class Likelihoods:
    """Scores completions under one installed model, in float32 on a CPU. The weights are loaded only if a score is
    missing from the ledger.

    Raises:
        ModelsError: the model is not installed.
    """

    def __init__(self, home: Home, ledger: Ledger, model: str) -> None:
        from nanoflux_local.train.model import choose_device, choose_dtype

        self._ledger, self._folder = ledger, weights_dir(model, home.root)
        self._device = choose_device("auto")
        self._dtype = choose_dtype("float32" if self._device.type == "cpu" else "auto", self._device)
        variant = f"{str(self._dtype).removeprefix('torch.')} {self._device.type}"
        self._identity = Identity("likelihood", model, read_record(self._folder).revision, variant=variant)

    def score(self, group: Sequence[TrainingExample]) -> list[float]:
        """The mean log-probability per token of each completion of one prompt, in nats. The completions are scored
        together, so that equal groups get equal scores.

        Raises:
            DataError: the model's folder or chat template cannot be used.
        """
        requests = [ScoreRequest(self._identity, example.prompt, example.completion) for example in group]
        stored_calls = [self._ledger.recall(request) for request in requests]
        replies = [stored_call[1] for stored_call in stored_calls if stored_call is not None]
        if len(replies) < len(requests):  # score the whole group, because padding changes its scores slightly
            new_replies: list[ScoreReply] = []
            for start in range(0, len(group), COMPLETIONS_PER_PASS):
                new_replies += self._score_batch(group[start : start + COMPLETIONS_PER_PASS])
            new_calls = [(request, reply, "") for request, reply in zip(requests, new_replies, strict=True)]
            replies = [reply for _, reply in self._ledger.remember_all(SCORES, new_calls)]
        return [reply.mean_log_probability for reply in replies if isinstance(reply, ScoreReply)]

    @cached_property
    def _codec(self) -> Codec:
        return Codec.load(self._folder)

    @cached_property
    def _model(self) -> Any:
        from nanoflux_local.train.model import load_untuned

        return load_untuned(self._folder, self._device, self._dtype)

    def _score_batch(self, batch: Sequence[TrainingExample]) -> list[ScoreReply]:
        """Score completions in one forward pass."""
        import torch

        from nanoflux_local.train.model import has_plain_head

        rows = [self._encode(example, index) for index, example in enumerate(batch)]
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
        ids = ids.to(self._device)
        head = self._model.get_output_embeddings()
        with torch.no_grad():  # padding is on the right, and attention is causal, so no token attends to padding
            if has_plain_head(self._model, head):
                outputs = self._model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            else:
                outputs, head = self._model(input_ids=ids, use_cache=False).logits, torch.nn.Identity()
            return [self._score_row(outputs[index], head, row) for index, row in enumerate(rows)]

    def _encode(self, example: TrainingExample, index: int) -> EncodedExample:
        """Encode an example. Raises DataError if the tokenizer cannot encode its text."""
        try:
            return self._codec.encode(example, index)
        except UnicodeEncodeError as error:
            fix = "choose another solution with --solution, or leave the example out with --where"
            raise DataError(f"a solution of {example.id} contains a lone surrogate", fix) from error

    def _score_row(self, outputs: Any, head: Any, row: EncodedExample) -> ScoreReply:
        """Score a row's completion and end of turn. `head` turns the row's `outputs`, (tokens, width), into logits."""
        import torch

        label_outputs = outputs[row.prompt_length - 1 : len(row.ids) - 1]
        labels = torch.tensor(row.ids[row.prompt_length :], device=self._device)
        total = 0.0
        for start in range(0, len(labels), POSITIONS_PER_SLICE):
            window = slice(start, start + POSITIONS_PER_SLICE)
            logits = head(label_outputs[window]).float()
            total -= float(torch.nn.functional.cross_entropy(logits, labels[window], reduction="sum"))
        return ScoreReply(round(total / len(labels), 6), len(labels))
