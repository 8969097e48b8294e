"""Chat templates of model folders: finds a model's template, and tests which messages the template accepts.

A template is tested by rendering messages with transformers' renderer; neither a tokenizer nor torch is loaded. A model
without a template is a pretrained base, which cannot chat.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ManifestError
from nanoflux_models.manifest import Chat
from nanoflux_models.offline import go_offline

TEMPLATE_FILE = "chat_template.jinja"
"""The file with the chat template in a model's folder."""
LEGACY_TEMPLATE_FILE = "chat_template.json"
REASONING_TOKENS = 8192
"""The default number of tokens for reasoning: the authors of Qwen3 and of the R1 distillations recommend it for
ordinary questions."""
HARMONY_TOKEN = "<|channel|>"
"""A token that occurs only in templates of the harmony format (gpt-oss)."""
THINKING_VARIABLES = ("enable_thinking", "thinking")
"""Template variables that turn thinking on and off."""

Render = Callable[..., str | None]
"""Renders one message of each given role, with the content "text of ROLE", and sets the given template variables.
Returns None if the template refuses the messages."""


def read_template(folder: Path) -> str:
    """The chat template in a model's folder, from any of the files that may contain it; "" if there is none."""
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text("utf-8")
    for name in ("tokenizer_config.json", LEGACY_TEMPLATE_FILE):
        template = _read_json(folder / name).get("chat_template")
        if isinstance(template, list):  # several named templates
            template_by_name = {entry["name"]: entry["template"] for entry in template}
            template = template_by_name.get("default")
        if template:
            return str(template)
    return ""


def require_template(name: str, folder: Path) -> None:
    """Require that a model's folder has a chat template.

    Raises:
        ManifestError: the folder has none.
    """
    if not read_template(folder):
        fix = (
            f"import it again with a template: nanoflux models import PATH --name {name} --chat-template TEMPLATE_FILE"
        )
        raise ManifestError(f"{name} has no chat template, which chat, training and evaluation need", fix)


def examine_template(folder: Path) -> Chat:
    """Find out which messages a folder's chat template accepts, and whether the model thinks before it answers.

    A template that fails on a single plain question may need other variables; the result is then the default `Chat`.
    """
    template = read_template(folder)
    if not template:
        return Chat(template=False)
    render = _make_renderer(template, _read_special_tokens(folder))
    if render("user") is None:
        return Chat()
    prompt_with_system = render("system", "user")
    thinks = _detect_thinking(template, render)
    return Chat(
        system_role=prompt_with_system is not None and "text of system" in prompt_with_system,
        alternation=render("user", "user") is None,
        thinks=thinks,
        reasoning_tokens=REASONING_TOKENS if thinks else 0,
        reasoning_tags=("think",) if thinks and HARMONY_TOKEN not in template else (),
    )


def choose_reasoning_parser(template: str, architecture: str) -> str:
    """vLLM's name of the parser that separates the model's reasoning from its answers."""
    if HARMONY_TOKEN in template:
        return "openai_gptoss"
    return "qwen3" if architecture.startswith("Qwen3") else "deepseek_r1"


def _detect_thinking(template: str, render: Render) -> bool:
    """Whether the model's replies start with reasoning if no template variable is set."""
    if HARMONY_TOKEN in template:
        return True
    default_prompt = render("user", add_generation_prompt=True) or ""
    if default_prompt.rstrip().endswith("<think>"):  # the template opens the reasoning
        return True
    for variable in THINKING_VARIABLES:
        if variable in template:
            thinking_prompt = render("user", add_generation_prompt=True, **{variable: True})
            plain_prompt = render("user", add_generation_prompt=True, **{variable: False})
            if thinking_prompt != plain_prompt:
                return default_prompt == thinking_prompt
    return "</think>" in template  # the template removes the reasoning of earlier replies


def _make_renderer(template: str, special_tokens: dict[str, str]) -> Render:
    """A function that renders messages with `template`, which may use each special token as a variable."""
    go_offline()
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(*roles: str, **variables: Any) -> str | None:
        messages = [{"role": role, "content": f"text of {role}"} for role in roles]
        try:
            rendered, _ = render_jinja_template([messages], chat_template=template, **special_tokens, **variables)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError):
            return None
        return str(rendered[0])

    return render


def _read_special_tokens(folder: Path) -> dict[str, str]:
    """The text of each special token, by the name of its template variable, such as `bos_token`."""
    entries = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
    special_tokens: dict[str, str] = {}
    for name, entry in entries.items():
        if not name.endswith("_token"):
            continue
        text = entry["content"] if isinstance(entry, dict) else entry
        if isinstance(text, str):
            special_tokens[name] = text
    return special_tokens


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if the file is missing or contains something else."""
    try:
        return dict(json.loads(path.read_text("utf-8-sig")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
