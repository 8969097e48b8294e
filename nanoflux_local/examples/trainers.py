"""The external trainers that read exported files: the formats that each trainer reads, and the file that describes the
data to it.

The descriptions follow TRL 1.16, LLaMA-Factory 0.9.5 and axolotl 0.19. They name the exported file without its
folder, so that the folder can be moved.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.errors import UsageError

ExportRow = dict[str, Any]
CHAT, PROMPT_COMPLETION, ALPACA, PREFERENCE = "chat", "prompt-completion", "alpaca", "preference"
COLUMNS = {
    CHAT: ("messages",),
    PROMPT_COMPLETION: ("prompt", "completion"),
    PREFERENCE: ("prompt", "chosen", "rejected"),
}
"""The columns that a trainer reads, by format. All other columns of a row state its origin."""
ROLE_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
"""The keys and the roles of a message, by LLaMA-Factory's names for them."""
ALPACA_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}
"""The keys of the format "alpaca", by LLaMA-Factory's names for them."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """A trainer with the formats that it reads.

    `description_name` is the name of the file that describes the data, in which `{stem}` stands for the exported file's
    name without its suffix. `render_description` returns the text of that file, and `build_command` the command that
    starts the training, both for an exported file and its format. `adapt` converts a row to the form that the trainer
    expects.
    """

    title: str
    formats: tuple[str, ...]
    description_name: str
    render_description: Callable[[Path, str, Sequence[ExportRow]], str]
    build_command: Callable[[Path, str], str]
    adapt: Callable[[ExportRow], ExportRow] = dict

    def check_format(self, file_format: str) -> None:
        """Raise UsageError if the trainer does not read this format."""
        if file_format not in self.formats:
            formats = ", ".join(self.formats)
            raise UsageError(f"{self.title} does not read the format {file_format!r}", f"choose one of: {formats}")

    def description_path(self, out: Path) -> Path:
        """The path of the description, next to the exported file."""
        return out.with_name(self.description_name.format(stem=out.stem))


def find_trainer(name: str) -> Trainer:
    """The trainer with this name.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in TRAINERS:
        raise UsageError(f"unknown trainer {name!r}", f"choose one of: {', '.join(TRAINERS)}")
    return TRAINERS[name]


def _render_trl_description(out: Path, file_format: str, _rows: Sequence[ExportRow]) -> str:
    """A configuration for TRL's command line."""
    return f"""\
# Data for TRL. Run in this folder:
# {_build_trl_command(out, file_format)}
datasets:
  - path: json
    data_files: {json.dumps(out.name)}
    columns: [{", ".join(COLUMNS[file_format])}]
"""


def _build_trl_command(out: Path, file_format: str) -> str:
    method = "dpo" if file_format == PREFERENCE else "sft"
    return f"trl {method} --config {shlex.quote(f'{out.stem}.trl.yaml')} --model_name_or_path MODEL --output_dir DIR"


def _render_axolotl_description(out: Path, file_format: str, _rows: Sequence[ExportRow]) -> str:
    """A configuration for axolotl, to which the user adds the base model and the training settings."""
    is_preference = file_format == PREFERENCE
    return f"""\
# Data for axolotl. Add base_model and the training settings, then run in this folder:
# {_build_axolotl_command(out, file_format)}
{"rl: dpo" if is_preference else "chat_template: tokenizer_default"}
datasets:
  - path: {json.dumps(out.name)}
    ds_type: json
    split: train
    type: {"chat_template.default" if is_preference else "chat_template"}
    field_messages: {"prompt" if is_preference else "messages"}
"""


def _build_axolotl_command(out: Path, _file_format: str) -> str:
    return f"axolotl train {shlex.quote(f'{out.stem}.axolotl.yaml')}"


def _render_llama_factory_description(out: Path, file_format: str, rows: Sequence[ExportRow]) -> str:
    """A `dataset_info.json` with one dataset, which has the name of the exported file without its suffix."""
    entry: dict[str, Any] = {"file_name": out.name}
    if file_format == ALPACA:
        present_keys = {key for row in rows for key in row}
        columns = {name: key for name, key in ALPACA_COLUMNS.items() if key in present_keys}
        entry |= {"formatting": "alpaca", "columns": columns}
    elif file_format == PREFERENCE:
        columns = {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"}
        entry |= {"formatting": "sharegpt", "ranking": True, "columns": columns, "tags": ROLE_TAGS}
    else:
        entry |= {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": ROLE_TAGS}
    return json.dumps({out.stem: entry}, indent=2, ensure_ascii=False) + "\n"


def _build_llama_factory_command(out: Path, file_format: str) -> str:
    stage = "dpo" if file_format == PREFERENCE else "sft"
    return (
        f"llamafactory-cli train --stage {stage} --do_train --finetuning_type lora --dataset_dir . --dataset "
        f"{shlex.quote(out.stem)}"
        " --model_name_or_path MODEL --template TEMPLATE --output_dir DIR"
    )


def _unwrap_answers(row: ExportRow) -> ExportRow:
    """A preference pair in which each answer is a single message. LLaMA-Factory ignores answers that are lists of one
    message.
    """
    return {key: value[-1] if key in ("chosen", "rejected") else value for key, value in row.items()}


TRAINERS = {
    "trl": Trainer(
        "TRL", (CHAT, PROMPT_COMPLETION, PREFERENCE), "{stem}.trl.yaml", _render_trl_description, _build_trl_command
    ),
    "llama-factory": Trainer(
        "LLaMA-Factory",
        (CHAT, ALPACA, PREFERENCE),
        "dataset_info.json",
        _render_llama_factory_description,
        _build_llama_factory_command,
        _unwrap_answers,
    ),
    "axolotl": Trainer(
        "axolotl", (CHAT, PREFERENCE), "{stem}.axolotl.yaml", _render_axolotl_description, _build_axolotl_command
    ),
}
