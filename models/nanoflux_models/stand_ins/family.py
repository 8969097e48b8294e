"""A family of models: architecture class, control tokens, chat template and sizes.

Each family is one `Family` object in a separate file, and `FAMILIES` in this package lists all families.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture and chat format.

    `vocabulary` is the size of a stand-in's vocabulary. `control_tokens` maps control tokens to their ids;
    `visible_tokens`, such as thinking tags, remain in decoded text. `bos`, `eos` and `pad` are the control tokens with
    these functions, and `end_tokens` are those that end a reply. If `adds_bos` is true, the tokenizer puts `bos` before
    every text. `extra_files` contains further JSON files of the model's folder, by name. `tiny_config` is the
    configuration of a stand-in; like the published files, it omits the defaults of the class. `full_configs` contains
    the published configuration of each catalog model, by name. `render_reply` takes the reasoning and the answer of a
    reply, and returns the reply as a model of the family would write it, including its end-of-turn token.
    """

    architecture: str
    model_type: str
    vocabulary: int
    control_tokens: Mapping[str, int]
    chat_template: str
    bos: str
    eos: str
    pad: str
    end_tokens: tuple[str, ...]
    tiny_config: Json
    render_reply: Callable[[str, str], str]
    full_configs: Mapping[str, Json] = field(default_factory=dict)
    visible_tokens: tuple[str, ...] = ()
    adds_bos: bool = False
    tokenizer_options: Json = field(default_factory=dict)
    extra_files: Mapping[str, Json] = field(default_factory=dict)
    weight_std: float = 0.2
    """The standard deviation of a stand-in's weights: ten times the usual value, so that its logits differ clearly."""
    weight_scales: Mapping[str, float] = field(default_factory=dict)
    """Factors for weights of a stand-in, by the suffix of their names. They correct initial values of the class that
    differ much from trained values."""
    difference: str = ""
    """How a stand-in differs from the published weights, as a sentence for the user; "" if it differs only in size and
    values."""

    def build_config(self, model: str = "") -> Json:
        """The published `config.json` of a catalog model; that of a tiny stand-in if `model` is "".

        Raises:
            KeyError: `full_configs` does not contain `model`.
        """
        values = self.full_configs[model] if model else self.tiny_config
        return {"architectures": [self.architecture], "model_type": self.model_type, **values}
