"""The model under training: a frozen base, its LoRA weights, and the loss on completions.

This module handles loading, precision, padding (which FlashAttention does not need) and the positions to which the head
is applied. `lora` handles the optimizer and epochs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanoflux_local.errors import DataError, UsageError
from nanoflux_local.records import derive_seed
from nanoflux_local.train.attention import register as register_attention
from nanoflux_local.train.data import EncodedExample
from nanoflux_local.train.flops import Matrices
from nanoflux_local.train.four_bit import build_quantization, keep_gradients
from nanoflux_local.train.fused import HeadLoss, fuse
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.targets import resolve_targets_in

_LOGIT_OPERATIONS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Configuration keys of operations on the logits. Models with such an operation use their own forward pass."""


def choose_device(name: str) -> torch.device:
    """The device to train on: for `auto`, the first GPU, or the CPU if there is none; otherwise torch's device `name`.
    Raises UsageError if torch does not know the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"torch does not know the device {name!r}", "use auto, cpu or cuda") from error


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The base's precision: for `auto`, bfloat16 if the hardware supports products in it, otherwise float32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def choose_attention(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The name, in transformers, of the attention to load the model with. On a CPU, `auto` is this project's attention
    (`train.attention`); on a GPU, it is FlashAttention if FlashAttention is installed and the base is in bfloat16,
    otherwise torch's own.
    """
    if name != "auto":
        return name
    if device.type == "cpu":
        return register_attention()
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if dtype is torch.bfloat16 and is_flash_attn_2_available() else "sdpa"


def collect_lora_weights(model: Any) -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's file names, sorted, on the CPU."""
    from peft import get_peft_model_state_dict

    return {name: weight.detach().cpu() for name, weight in sorted(get_peft_model_state_dict(model).items())}


def load_lora_weights(model: Any, weights: dict[str, Tensor]) -> None:
    """Set the adapter's tensors to those that `collect_lora_weights` returned."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, weights)


class TrainableModel:
    """A base with LoRA weights; computes the loss of rows, summed over their label tokens."""

    def __init__(self, settings: TrainSettings, base_dir: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.attention = choose_attention(settings.attention, device, dtype)
        self.padding_free = self.attention == "flash_attention_2"
        self.peft_model = _add_lora(_load_base(base_dir, dtype, device, self.attention, settings.qlora), settings)
        self.causal_model = self.peft_model.get_base_model()
        self.trainable_weights = [weight for weight in self.peft_model.parameters() if weight.requires_grad]
        self.head = self.causal_model.get_output_embeddings()
        self.plain_head = has_plain_head(self.causal_model, self.head)
        if settings.gradient_checkpointing:
            has_new_name = hasattr(self.causal_model, "activation_checkpointing_enable")  # since transformers 5.23
            method_name = "activation_checkpointing_enable" if has_new_name else "gradient_checkpointing_enable"
            getattr(self.causal_model, method_name)({"use_reentrant": False})
        fuse(self.peft_model)
        self.peft_model.train()

    def compute_loss(self, rows: Sequence[EncodedExample]) -> Tensor:
        """Sum of cross-entropies in nats over the labels of `rows` (one forward pass; a scalar in float32).

        Rows are padded on the right to the longest. No mask is needed: attention is causal, so no token of a row
        attends to padding, and no label is padding. If `padding_free` is true, the rows are joined into a single row.
        Position ids restart at 0 for each original row, so that the attention can separate them.
        """
        inputs, positions, labels = self._join_rows(rows) if self.padding_free else self._pad_rows(rows)
        if not self.plain_head:
            logits = self.causal_model(**inputs, use_cache=False).logits
            return F.cross_entropy(logits.flatten(0, 1)[positions].float(), labels, reduction="sum")
        hidden = self.causal_model.get_decoder()(**inputs, use_cache=False).last_hidden_state
        label_states = hidden.flatten(0, 1).index_select(0, positions)
        total: Tensor = HeadLoss.apply(label_states, self.head.weight, labels)  # type: ignore[no-untyped-call]
        return total

    def _pad_rows(self, rows: Sequence[EncodedExample]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The model's inputs, with token ids (rows, longest); the positions in the flattened ids whose next token is a
        label; and the labels (one per position).
        """
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
        longest = ids.shape[1]
        starts = [index * longest for index in range(len(rows))]
        positions, labels = self._select_labels(rows, starts, ids)
        return {"input_ids": ids.to(self.device)}, positions, labels

    def _join_rows(self, rows: Sequence[EncodedExample]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Like `_pad_rows`, but with all rows joined into one: token and position ids have the shape (1, tokens)."""
        ids = torch.tensor([[token for row in rows for token in row.ids]])
        position_ids = torch.tensor([[position for row in rows for position in range(len(row.ids))]])
        starts = list(accumulate((len(row.ids) for row in rows[:-1]), initial=0))
        positions, labels = self._select_labels(rows, starts, ids)
        return {"input_ids": ids.to(self.device), "position_ids": position_ids.to(self.device)}, positions, labels

    def _select_labels(
        self, rows: Sequence[EncodedExample], starts: Sequence[int], ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The positions in the flattened `ids` whose next token is a label, and these labels. `starts` are the
        positions of the rows' first tokens.
        """
        position_list: list[int] = []
        for start, row in zip(starts, rows, strict=True):
            position_list += range(start + row.prompt_length - 1, start + len(row.ids) - 1)
        positions = torch.tensor(position_list)
        return positions.to(self.device), ids.flatten()[positions + 1].to(self.device)

    def measure_matrices(self) -> Matrices:
        """The sizes that determine the FLOPs of a step."""
        from peft.tuners.lora import LoraLayer

        modules = list(self.causal_model.get_decoder().modules())
        low_rank_weights: list[Tensor] = []
        for module in modules:
            if isinstance(module, LoraLayer):
                low_rank_weights += [*module.lora_A.parameters(), *module.lora_B.parameters()]
        low_rank_ids = {id(weight) for weight in low_rank_weights}
        frozen_layers = [
            module for module in modules if isinstance(module, nn.Linear) and id(module.weight) not in low_rank_ids
        ]
        layer_configs = self.causal_model.config.get_text_config().per_layer_config
        return Matrices(
            linear=sum(layer.in_features * layer.out_features for layer in frozen_layers),
            low_rank=sum(weight.numel() for weight in low_rank_weights),
            head=self.head.in_features * self.head.out_features,
            attention=sum(_compute_attention_width(layer_config) for layer_config in layer_configs),
        )

    @contextmanager
    def inference_mode(self) -> Iterator[None]:
        """Switch off dropout and gradients in the block."""
        self.peft_model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.peft_model.train()


def load_untuned(base_dir: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The model in `base_dir` for inference, without an adapter, dropout or gradients. Raises DataError if the folder
    has no usable model.
    """
    model = _load_base(base_dir, dtype, device, choose_attention("auto", device, dtype), qlora=False)
    return model.eval().requires_grad_(False)


def _compute_attention_width(layer_config: Any) -> int:
    """The number of heads times the head size of one layer. Layers of a model may differ in both."""
    head_size = getattr(layer_config, "head_dim", None) or layer_config.hidden_size // layer_config.num_attention_heads
    return int(layer_config.num_attention_heads * head_size)


def _load_base(base_dir: Path, dtype: torch.dtype, device: torch.device, attention: str, qlora: bool) -> Any:
    """The model in `base_dir` on `device`, with transformers' attention `attention`; `qlora` loads it in four bits."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    four_bit_options = {"quantization_config": build_quantization(dtype), "device_map": {"": device}} if qlora else {}
    try:
        base = AutoModelForCausalLM.from_pretrained(
            base_dir, dtype=dtype, local_files_only=True, attn_implementation=attention, **four_bit_options
        )
    except ImportError as error:
        raise UsageError(f"attention {attention!r} cannot be used: {error}", "leave attention at auto") from error
    except (OSError, ValueError) as error:
        fix = "pass a folder in transformers' format"
        raise DataError(f"{base_dir} has no model to train: {error}", fix) from error
    if not qlora:
        return base.to(device)
    keep_gradients(base)
    return base


def _add_lora(base: Any, settings: TrainSettings) -> Any:
    """PEFT's model: a frozen base with LoRA weights in float32, initialised with the settings' seed."""
    from peft import LoraConfig, get_peft_model

    modules = resolve_targets_in(base, settings.target_modules).modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
    )
    torch.manual_seed(derive_seed(settings.seed, "init"))
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise UsageError(f"LoRA cannot be attached: {error}", "set target_modules to names the base has") from error


def has_plain_head(causal_model: Any, head: Any) -> bool:
    """Whether logits are hidden states times one frozen matrix, with no further operation."""
    text_config = causal_model.config.get_text_config()
    has_extra_operation = any(getattr(text_config, name, None) not in (None, 1.0) for name in _LOGIT_OPERATIONS)
    is_plain_linear = type(head) is nn.Linear and getattr(head, "bias", None) is None
    return is_plain_linear and not head.weight.requires_grad and not has_extra_operation
