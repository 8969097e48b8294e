"""What a training would do, said before it starts: tokens, cuts, labels, bad rows, FLOPs, time and memory.

Owns the rules for which rows can be trained on. Changes nothing, loads no weights; over-long examples are never cut
without being counted here (SPEC §3).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from nanoflux_local.errors import DataError, RefusedError, UsageError
from nanoflux_local.train import estimate
from nanoflux_local.train.data import Codec, Encoded, TrainingExample, data_digest, split
from nanoflux_local.train.flops import expected_flops, parameters, six_nd
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.targets import adapted_by

_KEY = 6  # words of a prompt that are looked up; few prompts begin alike

Problem = Literal[
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


@dataclass(frozen=True, slots=True)
class Finding:
    """One row (from 0) with a problem. `dropped` rows are not trained on; the others are only named."""

    row: int
    id: str
    problem: Problem
    detail: str
    dropped: bool

    def __str__(self) -> str:
        name = f"row {self.row}" + (f" ({self.id})" if self.id else "")
        return f"{name}: {self.problem}, {self.detail}{'; left out' if self.dropped else ''}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows that can be trained on, as tokens, and what is wrong with any row."""

    rows: tuple[Encoded, ...]
    findings: tuple[Finding, ...]

    @property
    def dropped(self) -> int:
        return len({f.row for f in self.findings if f.dropped})

    @property
    def truncated(self) -> int:
        return sum(row.cut > 0 for row in self.rows)


def select(examples: Sequence[TrainingExample], codec: Codec, settings: TrainSettings) -> Selection:
    """Encode what can be trained on and name the rest.

    Raises RefusedError where settings refuse such rows, DataError where nothing is left to train on.
    """
    rows: list[Encoded] = []
    findings: list[Finding] = _duplicates(examples)
    for number, example in enumerate(examples):
        encoded, problem, detail = _examine(example, number, codec, settings)
        if problem:
            findings.append(Finding(number, example.id, problem, detail, dropped=True))
        elif encoded:
            rows.append(encoded)
            if controls := codec.controls_in(example):
                detail = f"{', '.join(controls)} in a message is learnt as text"
                findings.append(Finding(number, example.id, "control token", detail, dropped=False))
            if encoded.cut:
                detail = f"{encoded.cut} tokens over max_length {settings.max_length}"
                findings.append(Finding(number, example.id, "cut", detail, dropped=False))
    selection = Selection(tuple(rows), tuple(sorted(findings, key=lambda f: f.row)))
    _refuse(selection, settings)
    return selection


def prepare(
    settings: TrainSettings,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    codec: Codec,
) -> tuple[Selection, Selection]:
    """(train, validation) as `lora.train` uses them; without `validation`, `val_fraction` of the usable rows is it.

    No row is on both sides: rows with the same tokens are held out together, and a row that `validation` holds too is
    not trained on. Row numbers stay those of the caller's lists. Raises like `select`.
    """
    chosen = select(examples, codec, settings)
    if validation:
        held_out = select(validation, codec, settings)
        return _without(chosen, held_out, examples), held_out
    contents = list(dict.fromkeys(row.ids for row in chosen.rows))
    held_ids = set(split(contents, settings.val_fraction, settings.seed)[1])
    train = tuple(row for row in chosen.rows if row.ids not in held_ids)
    held = tuple(row for row in chosen.rows if row.ids in held_ids)
    if settings.early_stopping and not held:
        raise UsageError(
            "early_stopping watches the validation loss, and there is no row to validate on",
            "raise val_fraction, or leave early_stopping at 0",
        )
    return Selection(train, chosen.findings), Selection(held, ())


def _without(chosen: Selection, held: Selection, examples: Sequence[TrainingExample]) -> Selection:
    """`chosen` without the rows that are validated on. Raises DataError where nothing is left."""
    taken = {row.ids: row.row for row in held.rows}
    twins = [row for row in chosen.rows if row.ids in taken]
    if len(twins) == len(chosen.rows):
        raise DataError("every row to train on is also given for validation", "give other rows for one of them")
    findings = [
        Finding(row.row, examples[row.row].id, "in validation", f"the same as its row {taken[row.ids]}", dropped=True)
        for row in twins
    ]
    rows = tuple(row for row in chosen.rows if row.ids not in taken)
    return Selection(rows, tuple(sorted((*chosen.findings, *findings), key=lambda finding: finding.row)))


def _examine(
    example: TrainingExample, row: int, codec: Codec, settings: TrainSettings
) -> tuple[Encoded | None, Problem | None, str]:
    """(tokens, None, "") of a usable row, otherwise (None, problem, detail)."""
    roles = [message.role for message in example.prompt]
    if not _in_order(roles):
        return None, "wrong role order", f"{', '.join(roles) or 'no message'}; system? (user assistant)* user is needed"
    if not example.completion.strip():
        return None, "empty answer", "nothing to learn"
    try:
        whole = codec.encode(example, row)
    except DataError as error:
        return None, "refused by the template", error.message
    except UnicodeEncodeError as error:
        return None, "lone surrogate", f"{error.object[error.start]!r} is no character"
    over = len(whole.ids) - settings.max_length
    if over > 0 and settings.overlong != "truncate":
        return None, "too long", f"{len(whole.ids)} tokens, {over} over max_length"
    if whole.prompt >= settings.max_length:
        return None, "no labels", f"the prompt alone has {whole.prompt} tokens of max_length {settings.max_length}"
    return Encoded(whole.ids[: settings.max_length], whole.prompt, max(0, over), row), None, ""


def _in_order(roles: Sequence[str]) -> bool:
    turns = roles[1:] if roles and roles[0] == "system" else roles
    return len(turns) % 2 == 1 and all(role == ("user", "assistant")[i % 2] for i, role in enumerate(turns))


def _duplicates(examples: Sequence[TrainingExample]) -> list[Finding]:
    first: dict[str, int] = {}
    found: list[Finding] = []
    for row, example in enumerate(examples):
        key = data_digest([example])
        if key in first:
            found.append(Finding(row, example.id, "duplicate", f"the same as row {first[key]}", dropped=False))
        first.setdefault(key, row)
    return found


def _refuse(selection: Selection, settings: TrainSettings) -> None:
    bad = [f for f in selection.findings if f.dropped]
    if not selection.rows:
        reasons = "\n".join(f"  {finding}" for finding in bad[:10]) or "  there are no examples"
        raise DataError(f"no example has a label left to learn:\n{reasons}", "mend the rows, or raise max_length")
    refused = bad if settings.bad_rows == "refuse" else [f for f in bad if f.problem == "too long"]
    if refused and "refuse" in (settings.bad_rows, settings.overlong):
        reasons = "\n".join(f"  {finding}" for finding in refused[:10])
        raise RefusedError(
            f"{len(refused)} of the rows are refused by the settings:\n{reasons}",
            "mend the rows, or set bad_rows=drop, overlong=truncate or a higher max_length",
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """A handful of numbers told by their middle and ends."""

    median: float
    least: int
    most: int
    total: int

    @classmethod
    def of(cls, values: Sequence[int]) -> "Spread":
        return cls(median(values), min(values), max(values), sum(values)) if values else cls(0.0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Audit:
    """What a training would do. Tokens and labels are after cutting, of the rows to be trained on, in one epoch.

    In `system_merged` rows the system's text opens the user's message, since the base takes no system messages.
    `cut_rows` rows lose `cut_tokens` tokens at `max_length`, `cut_most` of them from one row. `rendered` is the first
    usable example as the model sees it. `seconds` and `memory_bytes` are rough: see `estimate`. `adapted` says to what
    the LoRA's `adapted_tensors` tensors belong.
    """

    rows: int
    usable: int
    validation: int
    tokens: Spread
    labels: Spread
    cut_rows: int
    cut_tokens: int
    cut_most: int
    overlong: str
    findings: tuple[Finding, ...]
    validation_findings: tuple[Finding, ...]
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def audit(
    settings: TrainSettings,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    base_dir: Path,
    held_out: Sequence[str] = (),
) -> Audit:
    """Say what `lora.train` would do with the same arguments; reads tokenizer, config and weight headers only.

    `held_out` are prompts of an evaluation split: rows that contain one are named in `leaked`. Raises what `train`
    would raise for the same rows.
    """
    codec = Codec.load(base_dir)
    chosen, held = prepare(settings, examples, validation, codec)
    adapted = adapted_by(base_dir, settings.target_modules)
    lengths, cuts = [len(row.ids) for row in chosen.rows], [row.cut for row in chosen.rows]
    tokens, labels = Spread.of(lengths), Spread.of([row.labels for row in chosen.rows])
    work = expected_flops(base_dir, tokens.total, labels.total, tokens.total / len(lengths)) * settings.epochs
    work *= (
        1.5 if settings.gradient_checkpointing else 1.0
    )  # the forward pass again: six products where there were four
    size = parameters(base_dir)
    return Audit(
        rows=len(examples),
        usable=len(chosen.rows),
        validation=len(held.rows),
        tokens=tokens,
        labels=labels,
        cut_rows=sum(cut > 0 for cut in cuts),
        cut_tokens=sum(cuts),
        cut_most=max(cuts),
        overlong=settings.overlong,
        findings=chosen.findings,
        validation_findings=held.findings,
        leaked=_leaked(examples, held_out),
        system_merged=sum(codec.merges_system(examples[row.row]) for row in chosen.rows),
        rendered=codec.text(examples[chosen.rows[0].row]),
        steps=step_count(settings, len(lengths)),
        parameters=size,
        flops_6nd=six_nd(size, tokens.total * settings.epochs),
        flops_expected=work,
        seconds=estimate.seconds(work, settings),
        memory_bytes=estimate.memory(base_dir, settings, tokens.most, labels.most),
        dtype=estimate.precision(settings),
        adapted_tensors=adapted.tensors,
        adapted=str(adapted),
    )


def step_count(settings: TrainSettings, rows: int) -> int:
    """Optimizer steps of a training that is not stopped early."""
    batches = -(-rows // settings.batch)
    return settings.epochs * -(-batches // settings.gradient_accumulation)


def _leaked(examples: Sequence[TrainingExample], held_out: Sequence[str]) -> tuple[int, ...]:
    """Rows whose text holds a held-out prompt, both compared word by word, whatever their case and punctuation."""
    begun: dict[tuple[str, ...], list[list[str]]] = {}
    for words in map(_words, held_out):
        if words:
            begun.setdefault(tuple(words[:_KEY]), []).append(words)
    sizes = sorted({len(key) for key in begun})
    texts = (_words(" ".join([*(m.content for m in e.prompt), e.completion])) for e in examples)
    return tuple(row for row, text in enumerate(texts) if _holds(text, begun, sizes))


def _holds(text: list[str], begun: Mapping[tuple[str, ...], list[list[str]]], sizes: Sequence[int]) -> bool:
    """Whether the words hold one of those that begin with a key: every place is looked up, not every prompt tried."""
    return any(
        text[at : at + len(words)] == words
        for at in range(len(text))
        for size in sizes
        for words in begun.get(tuple(text[at : at + size]), ())
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
