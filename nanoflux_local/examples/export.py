"""Export a run's kept examples as a dataset: one file in a format that trainers read, and its card.

The rows are those that `train` uses, so training on the file equals training on the run. Existing files are not
overwritten; text that is not valid UTF-8 or looks like a secret is refused, not changed.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanoflux_local import __version__
from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import DataError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.files import write_new
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.redaction import redact
from nanoflux_local.seeds.datasets import find_licence, seed_datasets
from nanoflux_local.train.choice import Choice, choose_rows, example_of
from nanoflux_local.train.data import TrainingExample, data_digest
from nanoflux_local.train.trainings import build_training_example
from nanoflux_local.transcript import dataset_digest
from nanoflux_models.errors import ModelsError
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

Row = dict[str, Any]
UNKNOWN = "unknown; ask the publisher"


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """An exported file, as `export --json` prints it. `digest` identifies the examples, `data_digest` the rows that a
    training learns from them; `seeds` and `models` map names to licences."""

    run: str
    domain: str
    rows: int
    digest: str
    data_digest: str
    reasons: Mapping[str, int]
    levels: Mapping[str, int]
    choice: Mapping[str, Any]
    seeds: Mapping[str, str]
    models: Mapping[str, str]
    format: str
    file: str
    sha256: str
    card: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def export(home: Home, run: str, kind: str, out: Path, choice: Choice | None = None) -> ExportSummary:
    """Write the kept examples of a run, all or a selection, to `out` and their card next to it.

    Raises:
        NothingMatchedError: the run is unknown, kept nothing, or has no example that matches the selection.
        UsageError: the file or its card exists, or the format is unknown.
        RefusedError: an example seems to contain a secret.
    """
    if kind not in FORMATS:
        raise UsageError(f"unknown format {kind!r}", f"choose one of: {', '.join(FORMATS)}")
    card = out.with_suffix(".md")
    if card == out:
        raise UsageError(f"{out} is the path of the card itself", "choose a file name that does not end in .md")
    with LedgerView(home.ledger) as view:
        dataset = _Dataset.read(home, view, run, choice or Choice())
    content = _encode_rows(kind, dataset)
    summary = dataset.summarize(kind, out, card, content)
    write_new({card: _write_card(dataset, summary, out.name).encode(), out: content})
    return summary


@dataclass(frozen=True, slots=True)
class _Dataset:
    """The selected examples and the facts for their card."""

    run: Mapping[str, Any]
    domain: Domain
    rows: list[dict[str, Any]]
    examples: list[TrainingExample]
    choice: Mapping[str, Any]
    seeds: Mapping[str, str]
    models: Mapping[str, str]

    @classmethod
    def read(cls, home: Home, view: LedgerView, run: str, choice: Choice) -> "_Dataset":
        row = dict(view.find_run(run))
        if not view.row("SELECT 1 FROM examples WHERE run = ?", row["id"]):
            raise NothingMatchedError(f"run {run} kept no examples", f"see why with `nanoflux run show {run}`")
        rows, choice_record = choose_rows(view, row["id"], choice)
        domain = load_domain(row["domain"], home.root)
        config = json.loads(row["config"])
        budgets = config["budgets"]
        examples = [
            build_training_example(domain, budgets, each["question"], each["solution"], each["answer"], each["id"])
            for each in rows
        ]
        seeds = {name: find_licence(name) or UNKNOWN for name in config.get("datasets") or seed_datasets(domain)}
        return cls(row, domain, rows, examples, choice_record, seeds, _list_models(home, row))

    def summarize(self, kind: str, out: Path, card: Path, content: bytes) -> ExportSummary:
        levels = Counter(str(row["level"]) for row in self.rows if row.get("level") is not None)
        return ExportSummary(
            run=self.run["id"],
            domain=self.domain.name,
            rows=len(self.rows),
            digest=dataset_digest(example_of(row) for row in self.rows),
            data_digest=data_digest(self.examples),
            reasons=dict(sorted(Counter(row["reason"] for row in self.rows).items())),
            levels=dict(sorted(levels.items())),
            choice=dict(self.choice),
            seeds=dict(self.seeds),
            models=dict(self.models),
            format=kind,
            file=str(out),
            sha256=hashlib.sha256(content).hexdigest(),
            card=str(card),
        )


def _list_models(home: Home, run: Mapping[str, Any]) -> dict[str, str]:
    """The models of the roles and the licences of their weights, since the examples contain their texts."""
    config, environment = json.loads(run["config"]), json.loads(run["environment"])
    endpoints = dict.fromkeys(config["roles"][role]["endpoint"] for role in ("attacker", "defender", "judge"))
    licences = {}
    for name in endpoints:
        identity = environment["identities"].get(name)
        if identity is None:
            licences[name] = "a built-in program"
            continue
        licence = UNKNOWN
        with suppress(ModelsError):
            licence = read_record(weights_dir(identity["model"], home.root)).licence
        revision = f", revision {identity['revision'][:12]}" if identity["revision"] else ""
        licences[f"{identity['model']}{revision}"] = licence
    return licences


def _format_chat(example: TrainingExample) -> Row:
    answer = {"role": "assistant", "content": example.completion}
    return {"messages": [*(asdict(message) for message in example.prompt), answer]}


def _format_prompt_completion(example: TrainingExample) -> Row:
    messages = _format_chat(example)["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def _format_alpaca(example: TrainingExample) -> Row:
    """One question and its answer; a system message and earlier messages have separate keys."""
    system = [message.content for message in example.prompt[:1] if message.role == "system"]
    *earlier, last = [message.content for message in example.prompt[len(system) :]]
    history = [list(pair) for pair in zip(earlier[::2], earlier[1::2], strict=True)]
    extra_keys = {**({"system": system[0]} if system else {}), **({"history": history} if history else {})}
    return {**extra_keys, "instruction": last, "input": "", "output": example.completion}


FORMATS: dict[str, Callable[[TrainingExample], Row]] = {
    "chat": _format_chat,
    "prompt-completion": _format_prompt_completion,
    "alpaca": _format_alpaca,
    "parquet": _format_chat,
}


def _encode_rows(kind: str, dataset: _Dataset) -> bytes:
    """The content of the file. Each row has its id, turn, reason and level, by which its origin can be found; Parquet
    rows also have question, solution and answer as columns."""
    parts = ("question", "solution", "answer") if kind == "parquet" else ()
    keys = [key for key in ("id", "turn", "reason", "level", *parts) if dataset.rows[0].get(key) is not None]
    shaped = [
        {**{key: row[key] for key in keys}, **FORMATS[kind](example)}
        for row, example in zip(dataset.rows, dataset.examples, strict=True)
    ]
    lines = [_encode_line(row) for row in shaped]
    return _encode_parquet(shaped) if kind == "parquet" else b"".join(lines)


def _encode_line(row: Row) -> bytes:
    """One row as JSON in UTF-8. U+2028 and U+2029 are escaped: JSON allows them, but some readers split lines there."""
    text = json.dumps(row, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    fix = f"leave it out with --where \"id <> '{row['id']}'\""
    if redact(text) != text:
        raise RefusedError(
            f"example {row['id']} seems to contain a secret",
            f"inspect it with `nanoflux examples show {row['id']}`, or {fix}",
        )
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError as error:
        raise DataError(f"example {row['id']} contains a lone surrogate, which UTF-8 cannot encode", fix) from error


def _encode_parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def _write_card(dataset: _Dataset, summary: ExportSummary, name: str) -> str:
    """The card in the hub's format, so that it can serve as README.md of a dataset there."""
    loader = "parquet" if summary.format == "parquet" else "json"
    train = "" if loader == "parquet" else f"\nor `nanoflux train --data {name} --base MODEL`.\n"
    environment = json.loads(dataset.run["environment"])
    text = f"""---
pretty_name: {dataset.run["id"]}
tags: [synthetic, nanoflux-local]
configs:
- config_name: default
  data_files: {json.dumps(name, ensure_ascii=False)}
---
# {dataset.domain.title}: {summary.rows} examples of run {dataset.run["id"]}

Questions that an attacker built from seed questions. A judge accepted each solution, and the defender either failed the
question or solved it in a new way. NanoFlux Local {__version__} wrote this file. The run used
{_format_versions(environment)}; domain `{dataset.domain.name}`, settings `{dataset.run["config_hash"]}`.

| property | value |
|---|---|
| format | {summary.format}, `{name}` |
| SHA-256 of the file | `{summary.sha256}` |
| digest of the examples | `{summary.digest}` (as in `run show` if all examples were chosen) |
| digest of the rows | `{summary.data_digest}` (as in the record of an adapter trained on them) |
| chosen by | {_describe_choice(summary.choice)} |
| kept because | {_format_counts(summary.reasons)} |
| quality level | {_format_counts(summary.levels) or "not scored"} |

## Licences

The licences of the seeds and of the models apply to the examples made from them; no further terms are added.

| seeds from | licence |
|---|---|
{_format_table(summary.seeds)}

| written by | licence |
|---|---|
{_format_table(summary.models)}

## Loading

    datasets.load_dataset("{loader}", data_files={json.dumps(name, ensure_ascii=False)}, split="train")
{train}"""
    return redact(text)


def _describe_choice(choice: Mapping[str, Any]) -> str:
    drawn = f", {choice['rows']} of {choice['matched']} drawn by seed {choice['seed']}" if choice["size"] else ""
    query = " ".join(choice["query"].split()).replace("|", "\\|")
    return f"`{query}`, values `{json.dumps(choice['values'])}`{drawn}"


def _format_versions(environment: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in environment["versions"].items())


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())


def _format_table(entries: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {licence} |" for name, licence in entries.items())
