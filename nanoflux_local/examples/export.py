"""Export a run's kept examples as a dataset: one file in a format that trainers read, and its card.

The rows are those that `train` uses, so a model tuned on the file is tuned on the run. Existing files are not
overwritten; text that is not valid UTF-8 or looks like a secret is refused rather than changed.
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
from nanoflux_local.train.choice import Choice, example_of, select
from nanoflux_local.train.data import TrainingExample, data_digest
from nanoflux_local.train.trainings import training_example
from nanoflux_local.transcript import dataset_digest
from nanoflux_models.errors import ModelsError
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

Row = dict[str, Any]
UNKNOWN = "unknown; ask the publisher"


def export(home: Home, run: str, kind: str, out: Path, choice: Choice | None = None) -> dict[str, Any]:
    """Write the kept examples of a run, all or a selection, to `out` and their card next to it.

    Returns what `export --json` prints.

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
    content = _bytes(kind, dataset)
    summary = dataset.summary() | {"format": kind, "file": str(out), "sha256": hashlib.sha256(content).hexdigest()}
    write_new({card: _card(dataset, summary, out.name).encode(), out: content})
    return summary | {"card": str(card)}


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
        rows, chosen = select(view, row["id"], choice)
        domain = load_domain(row["domain"], home.root)
        config = json.loads(row["config"])
        budgets = config["budgets"]
        examples = [
            training_example(domain, budgets, each["question"], each["solution"], each["answer"], each["id"])
            for each in rows
        ]
        seeds = {name: find_licence(name) or UNKNOWN for name in config.get("datasets") or seed_datasets(domain)}
        return cls(row, domain, rows, examples, chosen, seeds, _models(home, row))

    def summary(self) -> dict[str, Any]:
        levels = Counter(str(row["level"]) for row in self.rows if row.get("level") is not None)
        return {
            "run": self.run["id"],
            "domain": self.domain.name,
            "rows": len(self.rows),
            "digest": dataset_digest(example_of(row) for row in self.rows),
            "data_digest": data_digest(self.examples),
            "reasons": dict(sorted(Counter(row["reason"] for row in self.rows).items())),
            "levels": dict(sorted(levels.items())),
            "choice": dict(self.choice),
            "seeds": dict(self.seeds),
            "models": dict(self.models),
        }


def _models(home: Home, run: Mapping[str, Any]) -> dict[str, str]:
    """The models that played and the licences of their weights, since their texts are in the examples."""
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


def _chat(example: TrainingExample) -> Row:
    answer = {"role": "assistant", "content": example.completion}
    return {"messages": [*(asdict(message) for message in example.prompt), answer]}


def _prompt_completion(example: TrainingExample) -> Row:
    messages = _chat(example)["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def _alpaca(example: TrainingExample) -> Row:
    """One question and its answer; a system message and what was said before stand in keys of their own."""
    system = [message.content for message in example.prompt[:1] if message.role == "system"]
    *before, last = [message.content for message in example.prompt[len(system) :]]
    history = [list(pair) for pair in zip(before[::2], before[1::2], strict=True)]
    more = {**({"system": system[0]} if system else {}), **({"history": history} if history else {})}
    return {**more, "instruction": last, "input": "", "output": example.completion}


FORMATS: dict[str, Callable[[TrainingExample], Row]] = {
    "chat": _chat,
    "prompt-completion": _prompt_completion,
    "alpaca": _alpaca,
    "parquet": _chat,
}


def _bytes(kind: str, dataset: _Dataset) -> bytes:
    """The file: each row with its id, turn, reason and level, so that it can be led back; Parquet has its parts too."""
    parts = ("question", "solution", "answer") if kind == "parquet" else ()
    kept = [key for key in ("id", "turn", "reason", "level", *parts) if dataset.rows[0].get(key) is not None]
    shaped = [
        {**{key: row[key] for key in kept}, **FORMATS[kind](example)}
        for row, example in zip(dataset.rows, dataset.examples, strict=True)
    ]
    lines = [_line(row) for row in shaped]
    return _parquet(shaped) if kind == "parquet" else b"".join(lines)


def _line(row: Row) -> bytes:
    """One row as JSON in UTF-8. Line breaks that JSON may hold as they are, but other readers split at, are escaped."""
    text = json.dumps(row, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    leave = f"leave it out with --where \"id <> '{row['id']}'\""
    if redact(text) != text:
        raise RefusedError(
            f"example {row['id']} seems to contain a secret",
            f"inspect it with `nanoflux examples show {row['id']}`, or {leave}",
        )
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError as error:
        raise DataError(f"example {row['id']} contains a lone surrogate, which UTF-8 cannot encode", leave) from error


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def _card(dataset: _Dataset, summary: Mapping[str, Any], name: str) -> str:
    """The card in the hub's format: beside the file it is read by people, as README.md of a data set by the hub."""
    loader = "parquet" if summary["format"] == "parquet" else "json"
    train = "" if loader == "parquet" else f"\nor `nanoflux train --data {name} --base MODEL`.\n"
    environment = json.loads(dataset.run["environment"])
    text = f"""---
pretty_name: {dataset.run["id"]}
tags: [synthetic, nanoflux-local]
configs:
- config_name: default
  data_files: {json.dumps(name, ensure_ascii=False)}
---
# {dataset.domain.title}: {summary["rows"]} examples of run {dataset.run["id"]}

Questions that an attacker made from seed questions, each with a solution that passed a judge and that a defender failed
or met in a new way. NanoFlux Local {__version__} wrote this file. The run was made with {_versions(environment)};
domain `{dataset.domain.name}`, settings `{dataset.run["config_hash"]}`.

| what | |
|---|---|
| format | {summary["format"]}, `{name}` |
| SHA-256 of the file | `{summary["sha256"]}` |
| digest of the examples | `{summary["digest"]}` (that of `run show` where all are taken) |
| digest of the rows | `{summary["data_digest"]}` (that of an adapter trained on them) |
| chosen by | {_chosen(summary["choice"])} |
| kept because | {_counts(summary["reasons"])} |
| quality level | {_counts(summary["levels"]) or "not scored"} |

## Licences

What the seeds and the models allow holds for what was made from them; nothing is added here.

| seeds of | licence |
|---|---|
{_table(summary["seeds"])}

| written by | licence |
|---|---|
{_table(summary["models"])}

## Loading

    datasets.load_dataset("{loader}", data_files={json.dumps(name, ensure_ascii=False)}, split="train")
{train}"""
    return redact(text)


def _chosen(choice: Mapping[str, Any]) -> str:
    drawn = f", {choice['rows']} of {choice['matched']} drawn by seed {choice['seed']}" if choice["size"] else ""
    query = " ".join(choice["query"].split()).replace("|", "\\|")
    return f"`{query}`, values `{json.dumps(choice['values'])}`{drawn}"


def _versions(environment: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in environment["versions"].items())


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())


def _table(entries: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {licence} |" for name, licence in entries.items())
