"""The settings of a training run, with the paper's values as defaults (paper A.1).

This module defines names, ranges and defaults, and refuses unknown keys and values out of range. The value `auto` is
resolved when the training run starts, because it depends on the hardware.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanoflux_local.errors import ConfigError
from nanoflux_local.value_errors import describe_value_error

Overlong = Literal["truncate", "drop", "refuse"]
"""What happens to a row with more than `max_length` tokens."""


class TrainSettings(BaseModel):
    """Everything that determines a training run, except data and base model. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(8, ge=1, description="LoRA rank")
    alpha: float = Field(32.0, gt=0, description="LoRA scale; the update is multiplied by alpha / r")
    dropout: float = Field(0.05, ge=0, lt=1, description="share of a LoRA input's values set to zero")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description="the linear layers that get LoRA weights: names, regular expressions that match full "
        "module names, or all-linear (of the text tower); the base's manifest may set another default",
    )
    learning_rate: float = Field(2e-4, gt=0, description="learning rate of the first step; it falls linearly to zero")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    batch: int = Field(4, ge=1, description="examples in one forward pass")
    gradient_accumulation: int = Field(1, ge=1, description="forward passes before one optimizer step")
    max_length: int = Field(512, ge=8, description="tokens of prompt and completion together")
    overlong: Overlong = Field("truncate", description="what happens to longer examples; always reported")
    bad_rows: Literal["drop", "refuse"] = Field(
        "drop", description="what happens to rows that cannot be trained on; always reported"
    )
    epochs: int = Field(5, ge=1)
    val_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of the usable rows to validate on, unless validation rows are passed"
    )
    early_stopping: int = Field(
        0,
        ge=0,
        description="epochs without a lower validation loss until training stops and keeps the best weights; "
        "0 disables it",
    )
    seed: int = Field(0, ge=0)
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="precision of the frozen base and of matrix products; LoRA weights are always float32"
    )
    qlora: bool = Field(False, description="hold the frozen base in 4 bits: NF4 with double quantisation")
    device: str = Field("auto", description="auto uses a GPU if there is one")
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto",
        description="auto uses FlashAttention, without padding, if there is a GPU and the package is installed, else "
        "torch's own",
    )
    threads: int = Field(0, ge=0, description="number of CPU threads; 0 leaves the choice to torch")
    gradient_checkpointing: bool = Field(False, description="less memory for about a third more time")
    checkpoint_every: int = Field(25, ge=1, description="steps between checkpoints")


def parse_train_settings(values: Mapping[str, Any]) -> TrainSettings:
    """Build settings from plain values, such as those of `--set KEY=VALUE`. Strings are converted to the type of the
    key.

    Raises:
        ConfigError: a key is unknown or has an unusable value; the message names all such keys.
    """
    try:
        return TrainSettings.model_validate(dict(values))
    except ValidationError as error:
        details = error.errors()
        problems = "; ".join(f"{detail['loc'][0]}: {describe_value_error(detail)}" for detail in details)
        fix = f"choose among the keys: {', '.join(TrainSettings.model_fields)}"
        if all(detail["type"] != "extra_forbidden" for detail in details):
            keys = dict.fromkeys(str(detail["loc"][0]) for detail in details)
            fix = f"give {' and '.join(keys)} another value"
        raise ConfigError(f"training settings cannot be used: {problems}", fix) from None
