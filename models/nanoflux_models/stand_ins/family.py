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

    `control` maps control tokens to their ids; the tokens in `marks` (the thinking tags) remain in decoded text. `tiny`
    is the configuration of a stand-in; like the published files, it omits the defaults of the class. `full` contains
    the published configuration of each catalog model, by name. `write` returns the text that a model generates for
    given thoughts and a given answer, including its end-of-turn token.
    """

    architecture: str
    model_type: str
    vocabulary: int
    control: Mapping[str, int]
    template: str
    bos: str
    eos: str
    pad: str
    ends: tuple[str, ...]
    tiny: Json
    write: Callable[[str, str], str]
    full: Mapping[str, Json] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    adds_bos: bool = False
    tokenizer: Json = field(default_factory=dict)
    files: Mapping[str, Json] = field(default_factory=dict)
    spread: float = 0.2
    """The standard deviation of a stand-in's weights: ten times the usual value, so that its logits differ clearly."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Factors for weights of a stand-in, by the ending of their names. They correct initial values of the class that
    differ much from trained values."""
    server_args: tuple[str, ...] = ()
    """Additional arguments that vLLM for CPUs needs to serve a stand-in of this family."""
    differs: str = ""
    """How a stand-in differs from the published weights, as a sentence for the user; "" if it differs only in size and
    values."""

    def configuration(self, model: str = "") -> Json:
        """The published `config.json` of a catalog model; that of a tiny stand-in if `model` is "".

        Raises:
            KeyError: `full` does not contain `model`.
        """
        values = self.full[model] if model else self.tiny
        return {"architectures": [self.architecture], "model_type": self.model_type, **values}
