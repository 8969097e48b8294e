"""Exports a run's kept examples as a dataset: a file in a format that trainers read, a dataset card and, if a trainer
is chosen, a file that describes the data to that trainer.

The rows are those that `train` uses, so training on the file is equivalent to training on the run. Existing files are
not overwritten. An example that UTF-8 cannot encode, or that seems to contain a secret, is refused, not changed.
"""

import hashlib
import io
import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nanoflux_local import __version__
from nanoflux_local.errors import DataError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.examples.trainers import (
    ALPACA,
    CHAT,
    PREFERENCE,
    PROMPT_COMPLETION,
    ExportRow,
    find_trainer,
)
from nanoflux_local.files import write_new
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import digest
from nanoflux_local.redaction import redact
from nanoflux_local.run.rule_sets import PAPER, describe_rules
from nanoflux_local.seeds.datasets import find_dataset_licence, list_seed_datasets
from nanoflux_local.train.choice import Choice, build_example
from nanoflux_local.train.conversation import format_completion
from nanoflux_local.train.data import TrainingExample, data_digest
from nanoflux_local.train.origin import describe_origin
from nanoflux_local.train.run_rows import OnScore, RunRow, RunRows, load_run_rows
from nanoflux_local.train.solutions import list_wrong_defences
from nanoflux_local.transcript import dataset_digest
from nanoflux_models.errors import ModelsError
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

UNKNOWN_LICENCE = "unknown; ask the publisher"


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """An exported file, as `export --json` prints it.

    `rows` and `data_digest` describe the file, `examples` and `digest` the examples in it. `without_rejected` counts
    the examples that are left out because they have no preference pair. `seeds` maps the benchmarks of the seeds to
    their licences, and `models` maps the models that wrote the examples to theirs. `description` is the path of the
    file that describes the data to a trainer, and `command` the shell command that starts the trainer from that file's
    folder; both are "" if no trainer was chosen.
    """

    run: str
    domain: str
    rows: int
    examples: int
    without_rejected: int
    digest: str
    data_digest: str
    reasons: Mapping[str, int]
    levels: Mapping[str, int]
    rules: str
    pass_rates: Mapping[str, int]
    choice: Mapping[str, Any]
    seeds: Mapping[str, str]
    models: Mapping[str, str]
    format: str
    file: str
    sha256: str
    card: str
    description: str = ""
    command: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def export(
    home: Home,
    run: str,
    file_format: str,
    out: Path,
    choice: Choice | None = None,
    base: str = "",
    on_score: OnScore = lambda _done, _total: None,
    trainer_name: str = "",
) -> ExportSummary:
    """Write the kept examples of a run (all, or those that `choice` selects) to the file `out`, and their dataset card
    next to it. `base` is the model whose likelihoods the solution rule "likeliest" compares. With `trainer_name`, also
    write the file that describes the data to this trainer.

    Raises:
        NothingMatchedError: the run is unknown or kept nothing, no example matches the selection, or none has a
            wrong answer for a preference pair.
        UsageError: one of the files exists, the format or the trainer is unknown, or the trainer does not read the
            format.
        RefusedError: an example seems to contain a secret.
    """
    if file_format not in FORMATS:
        raise UsageError(f"unknown format {file_format!r}", f"choose one of: {', '.join(FORMATS)}")
    trainer = find_trainer(trainer_name) if trainer_name else None
    if trainer:
        trainer.check_format(file_format)
    card = out.with_suffix(".md")
    if card == out:
        raise UsageError(
            f"{out} is the path where the dataset card is written", "choose a file name that does not end in .md"
        )
    resolved_choice = Choice() if choice is None else choice
    source = load_run_rows(home, run, resolved_choice, base, file_format == PREFERENCE, on_score)
    dataset = _Dataset.build(home, file_format, source)
    rows = [trainer.adapt(row) for row in dataset.rows] if trainer else dataset.rows
    content = _encode_rows(file_format, rows)
    summary = dataset.summarize(file_format, out, card, content)
    files: dict[Path, bytes] = {}
    if trainer:
        description_path = trainer.description_path(out)
        files[description_path] = trainer.render_description(out, file_format, rows).encode()
        start_command = trainer.build_command(out, file_format)
        summary = replace(summary, description=str(description_path), command=start_command)
    write_new({**files, card: _render_card(dataset, summary, out.name).encode(), out: content})
    return summary


@dataclass(frozen=True, slots=True)
class _Dataset:
    """The exported examples (`source`), the rows of the file, and, for the card, the licences of the seeds' benchmarks
    and of the models. In the preference format, `without_rejected` counts the examples that are left out because they
    have no pair.
    """

    source: RunRows
    rows: list[ExportRow]
    without_rejected: int
    seeds: Mapping[str, str]
    models: Mapping[str, str]

    @classmethod
    def build(cls, home: Home, file_format: str, source: RunRows) -> "_Dataset":
        """Build the rows of the file. Raises NothingMatchedError if there are none."""
        # A single answer of the defender is not a pass rate.
        has_pass_rates = any(run_row.columns["tries"] != 1 for run_row in source.rows)
        exported_examples: list[RunRow] = []
        rows: list[ExportRow] = []
        for run_row in source.rows:
            export_rows = _build_rows(file_format, run_row, has_pass_rates, source.domain.cites)
            if export_rows:
                exported_examples.append(run_row)
                rows += export_rows
        if not rows:
            fix = "export another format; runs with --set samples=N record more answers of the defender"
            raise NothingMatchedError(
                f"none of the chosen examples of run {source.run['id']} records a wrong answer of the defender", fix
            )
        dataset_names = source.config.get("datasets") or list_seed_datasets(source.domain)
        seeds = {name: find_dataset_licence(name) or UNKNOWN_LICENCE for name in dataset_names}
        without_rejected = len(source.rows) - len(exported_examples)
        exported_source = replace(source, rows=tuple(exported_examples))
        return cls(exported_source, rows, without_rejected, seeds, _list_models(home, source))

    def summarize(self, file_format: str, out: Path, card: Path, content: bytes) -> ExportSummary:
        """The summary of the file `out` with this content."""
        example_records = [row.columns for row in self.source.rows]
        levels = Counter(str(record["level"]) for record in example_records if record.get("level") is not None)
        reasons = Counter(record["reason"] for record in example_records)
        if file_format == PREFERENCE:
            rows_digest = digest([[row["prompt"], row["chosen"], row["rejected"]] for row in self.rows])
        else:
            rows_digest = data_digest(self.source.examples)
        return ExportSummary(
            run=self.source.run["id"],
            domain=self.source.domain.name,
            rows=len(self.rows),
            examples=len(example_records),
            without_rejected=self.without_rejected,
            digest=dataset_digest(build_example(record) for record in example_records),
            data_digest=rows_digest,
            reasons=dict(sorted(reasons.items())),
            levels=dict(sorted(levels.items())),
            rules=self.source.config.get("rules", PAPER),
            pass_rates=_count_pass_rates(example_records),
            choice=dict(self.source.record),
            seeds=dict(self.seeds),
            models=dict(self.models),
            format=file_format,
            file=str(out),
            sha256=hashlib.sha256(content).hexdigest(),
            card=str(card),
        )


def _count_pass_rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of rows by pass rate, the hardest first: {"0 of 4": 3, "1 of 4": 5}."""
    rated_rows = [row for row in rows if row["tries"]]
    rated_rows.sort(key=lambda row: (row["pass_rate"], row["tries"]))
    return dict(Counter(f"{row['passes']} of {row['tries']}" for row in rated_rows))


def _list_models(home: Home, source: RunRows) -> dict[str, str]:
    """The models whose text the examples contain, each with the licence of its weights."""
    config = source.config
    environment = json.loads(source.run["environment"])
    endpoint_names = [config["roles"][role]["endpoint"] for role in ("attacker", "defender", "judge")]
    if "solution" in source.record:  # a solution rule was applied, so a solver may have written a chosen solution
        endpoint_names += config["judge"].get("solvers", ())
    licences = {}
    for name in dict.fromkeys(endpoint_names):
        identity = environment["identities"].get(name)
        if identity is None:
            licences[name] = "a built-in program"
            continue
        licence = UNKNOWN_LICENCE
        with suppress(ModelsError):
            licence = read_record(weights_dir(identity["model"], home.root)).licence
        revision = f", revision {identity['revision'][:12]}" if identity["revision"] else ""
        licences[f"{identity['model']}{revision}"] = licence
    return licences


def _format_chat(example: TrainingExample) -> ExportRow:
    """A conversation that ends with the answer."""
    answer = {"role": "assistant", "content": example.completion}
    return {"messages": [*(asdict(message) for message in example.prompt), answer]}


def _format_prompt_completion(example: TrainingExample) -> ExportRow:
    """A prompt and its completion, each as a list of messages."""
    messages = _format_chat(example)["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def _format_alpaca(example: TrainingExample) -> ExportRow:
    """One question and its answer. A system message, and earlier pairs of question and answer, have separate keys."""
    messages = list(example.prompt)
    row: ExportRow = {}
    if messages[0].role == "system":
        row["system"] = messages.pop(0).content
    *earlier_texts, question = [message.content for message in messages]
    if earlier_texts:
        row["history"] = [list(pair) for pair in zip(earlier_texts[::2], earlier_texts[1::2], strict=True)]
    return {**row, "instruction": question, "input": "", "output": example.completion}


FORMATTERS: dict[str, Callable[[TrainingExample], ExportRow]] = {
    CHAT: _format_chat,
    PROMPT_COMPLETION: _format_prompt_completion,
    ALPACA: _format_alpaca,
    "parquet": _format_chat,
}
"""The functions that turn an example into a row, by format. `PREFERENCE` is missing, because it can turn one example
into several rows.
"""
FORMATS = (*FORMATTERS, PREFERENCE)


def _format_pairs(row: RunRow) -> list[ExportRow]:
    """A preference pair for each wrong answer of the defender: "chosen" is the solution to learn, "rejected" the wrong
    answer.
    """
    assert row.attempt is not None, "pairs need the attempt's defences"
    right_row = _format_prompt_completion(row.example)
    prompt, chosen = right_row["prompt"], right_row["completion"]
    wrong_completions = [
        format_completion(defence.solution, defence.answer) for defence in list_wrong_defences(row.attempt)
    ]
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": [{"role": "assistant", "content": completion}]}
        for completion in dict.fromkeys(wrong_completions)
        if completion != row.example.completion
    ]


def _build_rows(file_format: str, row: RunRow, has_pass_rates: bool, cites: bool) -> list[ExportRow]:
    """The rows of the file for one example. The columns "id", "turn", "reason" and "level" trace a row to its turn.
    "origin" is added if the attacker did not write the solution, "pass_rate" if the run has pass rates, and "citations"
    if the seeds are passages of documents (`cites`). Parquet rows also have the columns "question", "solution" and
    "answer".
    """
    parquet_columns = ("question", "solution", "answer") if file_format == "parquet" else ()
    keys = ("id", "turn", "reason", "level", "origin", *parquet_columns)
    columns = {key: row.columns[key] for key in keys if row.columns.get(key) is not None}
    message_rows = _format_pairs(row) if file_format == PREFERENCE else [FORMATTERS[file_format](row.example)]
    if has_pass_rates:
        columns["pass_rate"] = [row.columns["passes"], row.columns["tries"]]
    if cites and row.attempt is not None:
        columns["citations"] = [asdict(citation) for citation in row.attempt.citations]
    return [{**columns, **messages} for messages in message_rows]


def _encode_rows(file_format: str, rows: Sequence[ExportRow]) -> bytes:
    """The content of the file."""
    lines = [encode_line(row) for row in rows]  # also for Parquet, since this refuses secrets and invalid text
    return _encode_parquet(rows) if file_format == "parquet" else b"".join(lines)


def encode_line(row: ExportRow) -> bytes:
    """One row as a line of JSON in UTF-8. U+2028 and U+2029 are escaped, because some readers split lines at them.

    Raises:
        RefusedError: the row seems to contain a secret.
        DataError: the row contains a lone surrogate.
    """
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


def _encode_parquet(rows: Sequence[ExportRow]) -> bytes:
    """The rows as the content of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def _render_card(dataset: _Dataset, summary: ExportSummary, name: str) -> str:
    """The card of the exported file `name`, in the format of the Hugging Face Hub, so that it can be the README.md of a
    dataset there.
    """
    loader = "parquet" if summary.format == "parquet" else "json"
    source = dataset.source
    environment = json.loads(source.run["environment"])
    pass_rates = ", ".join(f"{rate}: {count}" for rate, count in summary.pass_rates.items())
    extra_rows = "".join(f"\n| {label} | {text} |" for label, text in _list_card_entries(dataset, summary))
    examples = format_quantity(summary.examples, "example")
    text = f"""---
pretty_name: {source.run["id"]}
tags: [synthetic, nanoflux-local]
configs:
- config_name: default
  data_files: {json.dumps(name, ensure_ascii=False)}
---
# {source.domain.title}: {examples} of run {source.run["id"]}

Questions that an attacker built from seed questions. A judge accepted each solution, and the run kept the questions
that its rules choose by the defender's answers. NanoFlux Local {__version__} wrote this file. The run used
{_format_versions(environment)}; domain `{source.domain.name}`, settings `{source.run["config_hash"]}`.

| property | value |
|---|---|
| format | {summary.format}, `{name}` |
| SHA-256 of the file | `{summary.sha256}` |
| digest of the examples | `{summary.digest}` (as in `run show` if all examples were chosen) |
| digest of the rows | `{summary.data_digest}` (as in the record of an adapter trained on them) |
| chosen by | {_describe_choice(summary.choice)} |{extra_rows}
| kept because | {_format_counts(summary.reasons)} |
| quality level | {_format_counts(summary.levels) or "not scored"} |
| rules | {describe_rules(source.config)} |
| right answers of the defender | {pass_rates} |

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
{_render_training_hint(summary, name)}"""
    return redact(text)


def _render_training_hint(summary: ExportSummary, name: str) -> str:
    """How to train on the exported file `name`; "" for Parquet, which `nanoflux train` does not read."""
    if summary.format == "parquet":
        return ""
    if summary.command:
        return f"\nor, in this folder: `{summary.command}`\n"
    if summary.format == PREFERENCE:
        return "\nTRL's `DPOTrainer` trains on the columns `prompt`, `chosen` and `rejected`.\n"
    return f"\nor `nanoflux train --data {shlex.quote(name)} --base MODEL`.\n"


def _list_card_entries(dataset: _Dataset, summary: ExportSummary) -> list[tuple[str, str]]:
    """Further entries of the card, as (label, text): whose solutions the rows contain, how the pairs are made, and how
    many examples are left out. An entry that would state a default is omitted.
    """
    entries = describe_origin(summary.choice)
    if summary.format == PREFERENCE:
        entries.append(("pairs", f"{summary.rows}: a right solution, and each wrong answer of the defender"))
    if dataset.without_rejected:
        entries.append(("left out", f"{dataset.without_rejected} without a wrong answer of the defender"))
    return entries


def _describe_choice(choice: Mapping[str, Any]) -> str:
    """The query that chose the examples, with its values, and how many of the matches were drawn."""
    sample_note = f", {choice['rows']} of {choice['matched']} drawn by seed {choice['seed']}" if choice["size"] else ""
    query = " ".join(choice["query"].split()).replace("|", "\\|")
    return f"`{query}`, values `{json.dumps(choice['values'])}`{sample_note}"


def _format_versions(environment: Mapping[str, Any]) -> str:
    """The software versions that the run recorded at its start."""
    return ", ".join(f"{name} {version}" for name, version in environment["versions"].items())


def _format_counts(counts: Mapping[str, int]) -> str:
    """Counts as text: "kept_failed 3, kept_novel 1"."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _format_table(licence_by_name: Mapping[str, str]) -> str:
    """The rows of a table of licences."""
    return "\n".join(f"| {name} | {licence} |" for name, licence in licence_by_name.items())
