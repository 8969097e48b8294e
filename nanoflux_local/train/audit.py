"""Audits a training run before it starts: its tokens, labels, truncated and unusable rows, FLOPs, time and memory.

This module also decides which rows can be trained on. It changes nothing and loads no weights.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from nanoflux_local.errors import DataError, RefusedError, UsageError
from nanoflux_local.quantities import format_quantity
from nanoflux_local.train import estimate
from nanoflux_local.train.data import Codec, EncodedExample, TrainingExample, data_digest, split
from nanoflux_local.train.flops import count_parameters, estimate_flops, six_nd
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.targets import resolve_targets

_START_WORDS = 6
"""The number of leading words by which a held-out prompt is looked up; few prompts share all of them."""
_MAX_LISTED_ROWS = 10
"""The maximum number of unusable rows that an error message lists."""

RowProblem = Literal[
    "wrong role order",
    "refused by the template",
    "lone surrogate",
    "control token",
    "empty answer",
    "too long",
    "no labels",
    "in validation",
    "cut",
    "duplicate",
]
"""What the audit reports about a row. "cut" stands for truncated at `max_length`."""


@dataclass(frozen=True, slots=True)
class RowFinding:
    """A problem of one row. `row` counts from 0. A row with a `dropped` finding is not trained on; other findings are
    only reported.
    """

    row: int
    id: str
    problem: RowProblem
    detail: str
    dropped: bool

    def __str__(self) -> str:
        name = f"row {self.row}" + (f" ({self.id})" if self.id else "")
        return f"{name}: {self.problem}, {self.detail}{'; left out' if self.dropped else ''}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows that can be trained on, as tokens, and the problems of all rows."""

    rows: tuple[EncodedExample, ...]
    findings: tuple[RowFinding, ...]

    @property
    def dropped(self) -> int:
        """The number of rows that cannot be trained on."""
        return len({finding.row for finding in self.findings if finding.dropped})

    @property
    def truncated(self) -> int:
        """The number of rows that are truncated."""
        return sum(row.truncated_tokens > 0 for row in self.rows)


def select_rows(examples: Sequence[TrainingExample], codec: Codec, settings: TrainSettings) -> Selection:
    """Encode the rows that can be trained on, and report the problems of all rows.

    Raises:
        RefusedError: rows are unusable, and the settings forbid dropping them.
        DataError: no row can be trained on.
    """
    rows: list[EncodedExample] = []
    findings: list[RowFinding] = _find_duplicates(examples)
    for row_number, example in enumerate(examples):
        encoded, problem, detail = _encode_if_usable(example, row_number, codec, settings)
        if problem:
            findings.append(RowFinding(row_number, example.id, problem, detail, dropped=True))
        elif encoded:
            rows.append(encoded)
            if control_tokens := codec.find_control_tokens(example):
                detail = f"{', '.join(control_tokens)} in a message is encoded as text"
                findings.append(RowFinding(row_number, example.id, "control token", detail, dropped=False))
            if encoded.truncated_tokens:
                tokens = format_quantity(encoded.truncated_tokens, "token")
                detail = f"{tokens} over max_length {settings.max_length}"
                findings.append(RowFinding(row_number, example.id, "cut", detail, dropped=False))
    selection = Selection(tuple(rows), tuple(sorted(findings, key=lambda finding: finding.row)))
    _refuse_unusable(selection, settings)
    return selection


def prepare_rows(
    settings: TrainSettings,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    codec: Codec,
) -> tuple[Selection, Selection]:
    """The training rows and the validation rows that `lora.train` uses. If `validation` is empty, the share
    `val_fraction` of the usable rows is held out.

    No row is in both selections: rows with the same tokens are held out together, and a row that is also in
    `validation` is not trained on. Row numbers refer to the caller's lists. Raises the errors of `select_rows`.
    """
    usable = select_rows(examples, codec, settings)
    if validation:
        validation_selection = select_rows(validation, codec, settings)
        return _drop_validation_rows(usable, validation_selection, examples), validation_selection
    distinct_token_ids = list(dict.fromkeys(row.ids for row in usable.rows))
    _, drawn_token_ids = split(distinct_token_ids, settings.val_fraction, settings.seed)
    validation_token_ids = set(drawn_token_ids)
    train_rows = tuple(row for row in usable.rows if row.ids not in validation_token_ids)
    validation_rows = tuple(row for row in usable.rows if row.ids in validation_token_ids)
    if settings.early_stopping and not validation_rows:
        raise UsageError(
            "early_stopping needs a validation loss, and no row is left for validation",
            "raise val_fraction, or set early_stopping=0",
        )
    return Selection(train_rows, usable.findings), Selection(validation_rows, ())


def _drop_validation_rows(usable: Selection, validation: Selection, examples: Sequence[TrainingExample]) -> Selection:
    """`usable` without the rows that are also in `validation`. Raises DataError if no row is left."""
    validation_index_by_token_ids = {row.ids: row.index for row in validation.rows}
    rows: list[EncodedExample] = []
    findings = list(usable.findings)
    for row in usable.rows:
        validation_index = validation_index_by_token_ids.get(row.ids)
        if validation_index is None:
            rows.append(row)
        else:
            detail = f"the same as validation row {validation_index}"
            findings.append(RowFinding(row.index, examples[row.index].id, "in validation", detail, dropped=True))
    if not rows:
        raise DataError("every training row is also a validation row", "pass other rows for training or validation")
    return Selection(tuple(rows), tuple(sorted(findings, key=lambda finding: finding.row)))


def _encode_if_usable(
    example: TrainingExample, index: int, codec: Codec, settings: TrainSettings
) -> tuple[EncodedExample | None, RowProblem | None, str]:
    """Encode a usable row: (encoded example, None, ""). For an unusable row: (None, problem, detail)."""
    roles = [message.role for message in example.prompt]
    if not _are_roles_in_order(roles):
        return None, "wrong role order", f"{', '.join(roles) or 'no message'}; must be: system? (user assistant)* user"
    if not example.completion.strip():
        return None, "empty answer", "the completion is blank"
    try:
        encoded = codec.encode(example, index)
    except DataError as error:
        return None, "refused by the template", error.message
    except UnicodeEncodeError as error:
        return None, "lone surrogate", f"{error.object[error.start]!r} is not a character"
    excess_tokens = len(encoded.ids) - settings.max_length
    if excess_tokens > 0 and settings.overlong != "truncate":
        return None, "too long", f"{len(encoded.ids)} tokens, {excess_tokens} over max_length"
    if encoded.prompt_length >= settings.max_length:
        detail = f"the prompt alone has {encoded.prompt_length} tokens, and max_length is {settings.max_length}"
        return None, "no labels", detail
    kept_ids = encoded.ids[: settings.max_length]
    return EncodedExample(kept_ids, encoded.prompt_length, max(0, excess_tokens), index), None, ""


def _are_roles_in_order(roles: Sequence[str]) -> bool:
    """Whether, after an optional system message, user and assistant messages alternate, and the first and last are the
    user's.
    """
    turns = roles[1:] if roles and roles[0] == "system" else roles
    questions, answers = turns[::2], turns[1::2]
    ends_with_question = len(questions) == len(answers) + 1
    return ends_with_question and set(questions) == {"user"} and set(answers) <= {"assistant"}


def _find_duplicates(examples: Sequence[TrainingExample]) -> list[RowFinding]:
    """A finding for each row with the prompt and the completion of an earlier row; such rows are still trained on."""
    first_row_by_digest: dict[str, int] = {}
    duplicates: list[RowFinding] = []
    for row_number, example in enumerate(examples):
        example_digest = data_digest([example])
        first_row = first_row_by_digest.setdefault(example_digest, row_number)
        if first_row != row_number:
            duplicates.append(
                RowFinding(row_number, example.id, "duplicate", f"the same as row {first_row}", dropped=False)
            )
    return duplicates


def _refuse_unusable(selection: Selection, settings: TrainSettings) -> None:
    """Raise DataError if no row is left, and RefusedError if the settings forbid dropping the unusable rows."""
    drop_findings = [finding for finding in selection.findings if finding.dropped]
    if not selection.rows:
        reasons = "\n".join(f"  {finding}" for finding in drop_findings[:_MAX_LISTED_ROWS])
        problem = f"no row can be trained on:\n{reasons or '  there are no rows'}"
        raise DataError(problem, "correct the rows, or raise max_length")
    if settings.bad_rows == "refuse":
        setting, refused_findings = "bad_rows", drop_findings
    elif settings.overlong == "refuse":
        setting = "overlong"
        refused_findings = [finding for finding in drop_findings if finding.problem == "too long"]
    else:
        return
    if refused_findings:
        reasons = "\n".join(f"  {finding}" for finding in refused_findings[:_MAX_LISTED_ROWS])
        raise RefusedError(
            f"{setting}=refuse forbids dropping unusable rows, of which there are {len(refused_findings)}:\n{reasons}",
            "correct the rows, or set bad_rows=drop, overlong=truncate or a higher max_length",
        )


@dataclass(frozen=True, slots=True)
class CountSummary:
    """The median, minimum (`least`), maximum (`most`) and sum of counts, one count for each row."""

    median: float
    least: int
    most: int
    total: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> "CountSummary":
        """The summary of `counts`; all zeros if `counts` is empty."""
        return cls(median(counts), min(counts), max(counts), sum(counts)) if counts else cls(0.0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Audit:
    """What a training run would do. `rows`, `usable` and `validation` count rows. `usable` rows are trained on; the
    rows for `validation` are not among them. Tokens and labels are those of the usable rows in one epoch, after
    truncation.

    `leaked` lists the row numbers of the rows that contain a held-out prompt. `system_merged` counts the rows whose
    system message is prepended to the user's message, because the base takes no system messages. `max_length` truncates
    `cut_rows` rows by `cut_tokens` tokens in total, and each of them by at most `cut_most`. `rendered` is the first
    usable example as the model sees it. `seconds` and `memory_bytes` are rough estimates (see `estimate`). The LoRA has
    `adapted_tensors` tensors; `adapted` names the part of the model that they belong to. `source` is the record of how
    the rows were chosen.
    """

    rows: int
    usable: int
    validation: int
    tokens: CountSummary
    labels: CountSummary
    cut_rows: int
    cut_tokens: int
    cut_most: int
    overlong: str
    findings: tuple[RowFinding, ...]
    validation_findings: tuple[RowFinding, ...]
    leaked: tuple[int, ...]
    system_merged: int
    rendered: str
    steps: int
    parameters: int
    flops_6nd: float
    flops_expected: float
    seconds: float
    memory_bytes: int
    dtype: str
    adapted_tensors: int
    adapted: str
    source: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def audit(
    settings: TrainSettings,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    base_dir: Path,
    held_out: Sequence[str] = (),
    source: Mapping[str, Any] | None = None,
) -> Audit:
    """Report what `lora.train` would do with the same arguments. Only the tokenizer, the configuration and the headers
    of the weights are read.

    `held_out` are prompts of an evaluation split: rows that contain one are listed in `leaked`. `source` is reported
    unchanged. Raises the errors that `train` would raise for the same rows.
    """
    codec = Codec.load(base_dir)
    usable, validation_selection = prepare_rows(settings, examples, validation, codec)
    adapted_layers = resolve_targets(base_dir, settings.target_modules)
    truncated_counts = [row.truncated_tokens for row in usable.rows]
    tokens = CountSummary.of([len(row.ids) for row in usable.rows])
    labels = CountSummary.of([row.label_count for row in usable.rows])
    mean_length = tokens.total / len(usable.rows)
    flops = estimate_flops(base_dir, tokens.total, labels.total, mean_length) * settings.epochs
    if settings.gradient_checkpointing:
        flops *= 1.5  # the forward pass is repeated: 6 FLOPs per frozen weight and token instead of 4
    parameter_count = count_parameters(base_dir)
    return Audit(
        rows=len(examples),
        usable=len(usable.rows),
        validation=len(validation_selection.rows),
        tokens=tokens,
        labels=labels,
        cut_rows=sum(count > 0 for count in truncated_counts),
        cut_tokens=sum(truncated_counts),
        cut_most=max(truncated_counts),
        overlong=settings.overlong,
        findings=usable.findings,
        validation_findings=validation_selection.findings,
        leaked=_find_leaks(examples, held_out),
        system_merged=sum(codec.merges_system_message(examples[row.index]) for row in usable.rows),
        rendered=codec.render_example(examples[usable.rows[0].index]),
        steps=count_steps(settings, len(usable.rows)),
        parameters=parameter_count,
        flops_6nd=six_nd(parameter_count, tokens.total * settings.epochs),
        flops_expected=flops,
        seconds=estimate.estimate_seconds(flops, settings),
        memory_bytes=estimate.estimate_memory(base_dir, settings, tokens.most, labels.most),
        dtype=estimate.choose_precision(settings),
        adapted_tensors=adapted_layers.tensors,
        adapted=str(adapted_layers),
        source=source or {},
    )


def count_steps(settings: TrainSettings, rows: int) -> int:
    """The number of optimizer steps of a training run that is not stopped early."""
    batches = math.ceil(rows / settings.batch)
    return settings.epochs * math.ceil(batches / settings.gradient_accumulation)


def _find_leaks(examples: Sequence[TrainingExample], held_out: Sequence[str]) -> tuple[int, ...]:
    """The row numbers of the rows whose text contains a held-out prompt. Texts are compared word by word, without case
    and punctuation.
    """
    prompts_by_start: dict[tuple[str, ...], list[list[str]]] = {}
    for prompt in held_out:
        prompt_words = _split_words(prompt)
        if prompt_words:
            prompts_by_start.setdefault(tuple(prompt_words[:_START_WORDS]), []).append(prompt_words)
    start_lengths = sorted({len(start) for start in prompts_by_start})
    leaked_rows: list[int] = []
    for row_number, example in enumerate(examples):
        texts = [*(message.content for message in example.prompt), example.completion]
        if _contains_prompt(_split_words(" ".join(texts)), prompts_by_start, start_lengths):
            leaked_rows.append(row_number)
    return tuple(leaked_rows)


def _contains_prompt(
    words: list[str], prompts_by_start: Mapping[tuple[str, ...], list[list[str]]], start_lengths: Sequence[int]
) -> bool:
    """Whether `words` contain one of the prompts. The words from a position are compared only with prompts that start
    with the same words.
    """
    for position in range(len(words)):
        for start_length in start_lengths:
            start = tuple(words[position : position + start_length])
            for prompt_words in prompts_by_start.get(start, ()):
                if words[position : position + len(prompt_words)] == prompt_words:
                    return True
    return False


def _split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.casefold())
