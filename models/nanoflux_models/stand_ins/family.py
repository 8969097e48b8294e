"""A family of models: architecture class, control tokens, chat template and sizes.

Owns the record; each family is one object in a separate file, and `FAMILIES` in this package lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture and chat format.

    `control` maps control tokens to their ids; those in `marks` stay in decoded text (the thinking tags). `tiny` is the
    configuration of a stand-in; like the published files it leaves defaults to the class. `full` has the published
    configuration of each catalog model, by name. `write` gives the text that a model generates for thoughts and an
    answer, including its end-of-turn token.
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
    """Standard deviation of a stand-in's weights: ten times the usual one, so that its logits differ clearly."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Factors for weights of a stand-in, by the ending of their names, if the class's initial values are unlike trained
    ones."""
    server_args: tuple[str, ...] = ()
    """Arguments besides the manifest's with which vLLM for CPUs serves a stand-in of this family."""
    differs: str = ""
    """How a stand-in differs from the published weights, as a sentence to show; "" if only in size and values."""

    def configuration(self, model: str = "") -> Json:
        """The published `config.json` of a catalog model, or that of a tiny stand-in if no model is named.

        Raises:
            KeyError: `full` does not have `model`.
        """
        values = self.full[model] if model else self.tiny
        return {"architectures": [self.architecture], "model_type": self.model_type, **values}
