"""A decoder whose rows advance together: it computes the logits of the in-process endpoint.

A row's logits depend only on the row's tokens, and not on the other rows, the row's index, or the step at which the
row was filled. Four design choices ensure this:

- a prompt is processed alone, at its exact length, in one pass or two: a prefix that prompts share is always processed
  separately, so its cached keys and values are bit-identical to those of a new computation;
- a decoding step always runs all rows, used or not, so that every matrix multiplication has the same shape;
- a row's keys and values start at position 0, without left padding;
- attention reads up to a multiple of `GRANULE` positions, so that longer rows in the batch add only blocks of exact
  zeros to a row's attention.

`is_batch_invariant` tests on the loaded model that a row's logits do not depend on the other rows. Import this module
only to run a model, since it imports torch.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from nanoflux_local.errors import EndpointError, RefusedError

ATTENTION = "nanoflux_rows"
"""The name under which `attend` is registered with transformers."""
GRANULE = 64
"""The number of positions of a block; attention reads whole blocks."""
ALLOCATION_STEP = 256
"""Storage for positions is allocated in multiples of this number."""
MAX_PREFIXES = 4
"""The maximum number of prompt prefixes that are cached."""
MIN_SIMILARITY = 0.99
"""The cosine similarity above which two rows of logits agree up to rounding."""
MIN_EFFECT = 1e-4
"""The smallest change of a logit, in float32, that counts as an adapter's effect; an all-zero adapter has none."""
TEST_TOKENS = [7, 11, 13, 17, 19, 23, 29]
"""The token ids on which a loaded model is tested; any ids that every vocabulary contains would do."""
ONEDNN_BATCH_SIZE = 32
"""The batch size for which oneDNN chooses the memory format of a weight."""


class CacheRows:
    """The KV cache of every row and layer, and the filled length of each row.

    The cache of a layer has the shape (rows, positions, heads, width). `fill` appends a prompt to the row with index
    `row_to_fill`, which is None in a decoding step; `append` adds one position to each row in a decoding step.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.lengths = [0] * count
        self.row_to_fill: int | None = None
        self._reserved = 0
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._slots = torch.zeros(0, dtype=torch.long)  # each row's next position, in a cache with rows flattened
        self._masks: dict[int | None, torch.Tensor] = {}

    def reserve(self, positions: int) -> None:
        """Allocate storage for rows of `positions` positions."""
        reserved = _round_up(positions, ALLOCATION_STEP)
        if reserved <= self._reserved:
            return
        for cache_by_layer in (self._keys, self._values):
            for layer, old_cache in cache_by_layer.items():
                new_cache = old_cache.new_zeros(self.count, reserved, *old_cache.shape[2:])
                new_cache[:, : self._reserved] = old_cache
                cache_by_layer[layer] = new_cache
        self._reserved = reserved

    def begin_step(self, device: torch.device) -> torch.Tensor:
        """Determine where this step's keys and values are stored; return the next position of each row."""
        positions = torch.tensor(self.lengths, device=device)
        self._slots = positions + torch.arange(self.count, device=device) * self._reserved
        self._masks = {}
        return positions

    def fill(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a prompt's keys and values, shaped (1, heads, positions, width), after the positions that the row has
        already filled; return all keys and values of the row.
        """
        assert self.row_to_fill is not None
        self._allocate(layer, keys, values)
        start = self.lengths[self.row_to_fill]
        end = start + keys.shape[2]
        for cache, new_entries in ((self._keys[layer], keys), (self._values[layer], values)):
            cache[self.row_to_fill, start:end] = new_entries[0].transpose(0, 1)
        if not start:
            return keys, values
        all_keys = self._keys[layer][self.row_to_fill, :end]
        all_values = self._values[layer][self.row_to_fill, :end]
        return all_keys.transpose(0, 1)[None], all_values.transpose(0, 1)[None]

    @torch.inference_mode()
    def copy_out(self, row: int) -> "Prefix":
        """Return a copy of a row's keys and values."""
        length = self.lengths[row]
        keys = {layer: cache[row, :length].clone() for layer, cache in self._keys.items()}
        values = {layer: cache[row, :length].clone() for layer, cache in self._values.items()}
        return Prefix(length, keys, values)

    @torch.inference_mode()
    def copy_in(self, row: int, prefix: "Prefix") -> None:
        """Start a row with the keys and values of a cached prefix."""
        for layer, keys in prefix.keys.items():
            self._keys[layer][row, : prefix.length] = keys
            self._values[layer][row, : prefix.length] = prefix.values[layer]
        self.lengths[row] = prefix.length

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one position of each row; return all keys and values to attend to, shaped (rows, heads, positions,
        width).
        """
        self._allocate(layer, keys, values)
        length = self._read_length
        for cache, new_entries in ((self._keys[layer], keys), (self._values[layer], values)):
            flattened_cache = cache.view(-1, *cache.shape[2:])
            flattened_cache.index_copy_(0, self._slots, new_entries[:, :, 0])
        return self._keys[layer][:, :length].transpose(1, 2), self._values[layer][:, :length].transpose(1, 2)

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor:
        """The attention mask of a decoding step, of shape (rows, 1, 1, positions). Each row attends to its filled
        positions; with a sliding `window`, only to the last `window` of them.
        """
        if window not in self._masks:
            newest_positions = torch.tensor(self.lengths, device=device).view(-1, 1, 1, 1)
            positions = torch.arange(self._read_length, device=device)
            filled = positions <= newest_positions
            self._masks[window] = filled if window is None else filled & (positions > newest_positions - window)
        return self._masks[window]

    @property
    def _read_length(self) -> int:
        """The number of positions that attention reads in a decoding step: the longest row, in whole blocks."""
        return min(_round_up(max(self.lengths) + 1, GRANULE), self._reserved)

    def _allocate(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Create a layer's caches, unless they exist. Their sizes are known once the layer's first keys arrive."""
        if layer not in self._keys:
            self._keys[layer] = keys.new_zeros(self.count, self._reserved, keys.shape[1], keys.shape[3])
            self._values[layer] = values.new_zeros(self.count, self._reserved, values.shape[1], values.shape[3])


def _round_up(number: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `number`."""
    return math.ceil(number / multiple) * multiple


@dataclass(frozen=True, slots=True)
class Prefix:
    """The keys and values of a prompt's prefix by layer, each of shape (positions, heads, width)."""

    length: int
    keys: dict[int, torch.Tensor]
    values: dict[int, torch.Tensor]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    nanoflux_rows: CacheRows | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over the keys and values in `nanoflux_rows`, with the signature that transformers expects.

    `attention_mask` is always None: this function computes the masks itself.
    """
    assert nanoflux_rows is not None and attention_mask is None
    layer, device, length = int(module.layer_idx), query.device, query.shape[2]  # type: ignore[arg-type]
    mask: torch.Tensor | None
    if nanoflux_rows.row_to_fill is not None:
        keys, values = nanoflux_rows.fill(layer, key, value)
        total_length = keys.shape[2]
        # A whole prompt without a sliding window needs only the causal mask, which torch computes itself.
        needs_mask = total_length > length or (sliding_window and sliding_window < length)
        mask = _band_mask(length, total_length, sliding_window, device) if needs_mask else None
        attended = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None and length > 1, scale=scaling, enable_gqa=True
        )
        return attended.transpose(1, 2).contiguous(), None
    keys, values = nanoflux_rows.append(layer, key, value)
    mask = nanoflux_rows.mask(sliding_window, device)
    # The query heads that share a key head are treated as positions of one head, so that keys are not copied in memory.
    grouped_query = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
    attended = functional.scaled_dot_product_attention(grouped_query, keys, values, attn_mask=mask, scale=scaling)
    return attended.reshape(query.shape[0], 1, query.shape[1], -1), None


def _band_mask(length: int, total_length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """The attention mask of the last `length` of `total_length` positions, of shape (length, total_length). A position
    attends to itself and to the earlier positions; with a sliding `window`, only to the last `window` of them.
    """
    positions = torch.arange(total_length, device=device)
    distance = positions[total_length - length :, None] - positions[None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0


class Decoder:
    """A causal language model with a batch of rows, which are filled and freed separately but advance together."""

    def __init__(self, folder: Path, adapter: Path | None, rows: int, device: str, dtype: str) -> None:
        self.device = torch.device(device)
        self.model = load_model(folder, adapter, getattr(torch, dtype)).to(self.device)
        config = self.model.config.get_text_config()
        if getattr(config, "attn_logit_softcapping", None):
            raise EndpointError(
                f"{folder.name} caps attention logits, which this decoder does not support", "serve it with vLLM"
            )
        self.context = int(config.max_position_embeddings)
        self.rows = CacheRows(rows)
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        if self.device.type == "cpu" and dtype == "bfloat16":
            pack_linears(self.model)

    def prefill(self, row: int, ids: list[int], max_length: int, prefix_length: int = 0) -> torch.Tensor:
        """Fill a row with a prompt; return the float32 logits of the next token. `max_length` is the greatest length
        that the row can reach. The keys and values of the first `prefix_length` tokens are cached, since other prompts
        are likely to begin with these tokens too.
        """
        self.rows.reserve(max_length)
        self.rows.lengths[row] = 0
        if 0 < prefix_length < len(ids):
            self._start_with_prefix(row, ids[:prefix_length])
        return self._process_prompt(row, ids[self.rows.lengths[row] :])

    def _start_with_prefix(self, row: int, ids: list[int]) -> None:
        """Fill an empty row with a prefix, from the cache if possible. The most recently used prefixes are kept."""
        key = tuple(ids)
        if key in self._prefixes:
            self.rows.copy_in(row, self._prefixes[key])
        else:
            self._process_prompt(row, ids)
            self._prefixes[key] = self.rows.copy_out(row)
        self._prefixes.move_to_end(key)
        while len(self._prefixes) > MAX_PREFIXES:
            self._prefixes.popitem(last=False)

    def _process_prompt(self, row: int, ids: list[int]) -> torch.Tensor:
        """Append a prompt's tokens to a row; return the float32 logits of the next token."""
        start, end = self.rows.lengths[row], self.rows.lengths[row] + len(ids)
        with self._select_row_to_fill(row):
            logits = self._run_model(torch.tensor([ids]), torch.arange(start, end)[None])
        self.rows.lengths[row] = end
        return logits[0]

    def step(self, tokens: list[int]) -> torch.Tensor:
        """Append one token to each row in use (length above 0); return the logits of all rows in float32."""
        positions = self.rows.begin_step(self.device)
        logits = self._run_model(torch.tensor(tokens)[:, None], positions[:, None])
        self.rows.lengths = [length + 1 if length else 0 for length in self.rows.lengths]
        return logits

    def release(self, row: int) -> None:
        """Free a row."""
        self.rows.lengths[row] = 0

    def is_batch_invariant(self) -> bool:
        """Whether a row's logits are bit-identical when the row is alone and when it is at another index, next to
        longer rows.
        """
        prompt, other_prompt = TEST_TOKENS[:5], [23, 29, 31] * (GRANULE // 2)
        last_row = self.rows.count - 1
        logits_alone = self._probe({0: prompt})
        other_prompts = {row: other_prompt[row:] for row in range(last_row)}
        logits_with_others = self._probe({last_row: prompt, **other_prompts})
        return torch.equal(logits_alone[0], logits_with_others[last_row])

    def agrees_with_transformers(self) -> bool:
        """Whether `prefill` (in one pass and in two) and `step` agree with transformers' forward pass, up to
        rounding.
        """
        ids = TEST_TOKENS
        step_logits = [
            self._probe({0: ids[:-1]}, token=ids[-1], prefix_length=prefix_length)[0] for prefix_length in (0, 4)
        ]
        self.model.set_attn_implementation("sdpa")
        try:
            with torch.inference_mode():
                transformers_logits = self.model(
                    input_ids=torch.tensor([ids], device=self.device), use_cache=False
                ).logits[0, -1]
        finally:
            self.model.set_attn_implementation(ATTENTION)
        reference = transformers_logits.float().to(step_logits[0].device)
        similarities = [float(functional.cosine_similarity(logits, reference, dim=0)) for logits in step_logits]
        return min(similarities) > MIN_SIMILARITY

    def _probe(self, prompt_by_row: dict[int, list[int]], token: int = 37, prefix_length: int = 0) -> torch.Tensor:
        """The logits of all rows after the given prompts and `token`; the rows are free again afterwards."""
        for row, ids in prompt_by_row.items():
            self.prefill(row, ids, len(ids) + 1, prefix_length)
        logits = self.step([token if row in prompt_by_row else 0 for row in range(self.rows.count)])
        for row in prompt_by_row:
            self.release(row)
        return logits

    def _run_model(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The logits of the last position of each row, in float32 on the CPU. `ids` and `positions` have the shape
        (rows, tokens).
        """
        with torch.inference_mode():
            output = self.model(
                input_ids=ids.to(self.device),
                position_ids=positions.to(self.device),
                use_cache=False,
                logits_to_keep=1,
                nanoflux_rows=self.rows,
            )
            logits: torch.Tensor = output.logits[:, -1].float().cpu()
            return logits

    @contextmanager
    def _select_row_to_fill(self, row: int) -> Iterator[None]:
        """Make the model's forward passes inside the block append their tokens to this row."""
        self.rows.row_to_fill = row
        try:
            yield
        finally:
            self.rows.row_to_fill = None


def load_model(folder: Path, adapter: Path | None, dtype: torch.dtype) -> Any:
    """Load the model of a weights folder, and merge `adapter` into its weights unless it is None.

    The merge is computed in float32, and its result is rounded once. A merged model decodes as fast as the base.

    Raises:
        RefusedError: the adapter has no effect.
    """
    from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, lambda *_args, **_kwargs: None)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32 if adapter else dtype, attn_implementation=ATTENTION, local_files_only=True
    )
    if adapter:
        from peft import PeftModel

        tuned_model = PeftModel.from_pretrained(model, str(adapter)).eval()
        if _measure_effect(tuned_model) < MIN_EFFECT:
            message = f"adapter {adapter.name[:12]} has no effect: the base's logits are the same without it"
            raise RefusedError(
                message, "train it again, or use another adapter; with this one the base would be compared with itself"
            )
        model = tuned_model.merge_and_unload().to(dtype)
    return model.eval()


def _measure_effect(model: Any) -> float:
    """The largest change of a logit that the adapter causes, over a short sequence of tokens."""
    ids = torch.tensor([TEST_TOKENS])
    base = model.get_base_model()
    base.set_attn_implementation("sdpa")
    try:
        with torch.inference_mode():
            tuned_logits = model(input_ids=ids, use_cache=False).logits
            with model.disable_adapter():
                base_logits = model(input_ids=ids, use_cache=False).logits
            return float((tuned_logits - base_logits).abs().max())
    finally:
        base.set_attn_implementation(ATTENTION)


class PackedLinear(torch.nn.Module):
    """A linear layer whose weight is stored in oneDNN's memory format, so that no multiplication has to reorder it."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ONEDNN_BATCH_SIZE)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


def pack_linears(model: torch.nn.Module) -> None:
    """Pack every linear layer if this version of torch supports it. On CPUs, packed layers are 1.4 to 2 times as
    fast, and their outputs are bit-identical.
    """
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child))
