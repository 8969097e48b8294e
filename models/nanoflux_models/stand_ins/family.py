"""What a family of models shares: its architecture class, its control tokens, its chat template and its sizes.

Owns the record alone; each family is one object in a separate file, and `FAMILIES` in this package lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture that chat in one format.

    `control` places control tokens in the vocabulary, `marks` those that stay in decoded text (the thinking tags).
    `tiny` is the configuration of a stand-in, as the makers publish theirs: keys that their file leaves to the class
    are left out here too. `full` has the true configuration of each catalog model, by name. `write` gives the text
    that a model of the family generates for some thoughts and an answer, up to its end-of-turn token.
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
    server_args: tuple[str, ...] = ()
    """What a vLLM for CPUs needs besides the manifest's own arguments, for a stand-in of this family."""
    differs: str = ""
    """How a stand-in differs from the published weights, for people; "" if only in size and values."""

    def configuration(self, model: str = "") -> Json:
        """The published `config.json` of a catalog model, or that of a tiny stand-in if no model is named.

        Raises:
            KeyError: the true sizes of `model` are not in `full`.
        """
        values = self.full[model] if model else self.tiny
        return {"architectures": [self.architecture], "model_type": self.model_type, **values}
