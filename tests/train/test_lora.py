"""The training loop lowers the loss, is reproducible bit for bit, and agrees with PEFT's own layers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers.utils import is_flash_attn_2_available

from nanoflux_local.errors import RefusedError, UsageError
from nanoflux_local.train.data import Codec, EncodedExample, TrainingExample
from nanoflux_local.train.events import CheckpointEvent, EpochEvent, ResumeEvent, StepEvent, TrainEvent
from nanoflux_local.train.lora import compute_learning_rate, plan_steps, train
from nanoflux_local.train.model import TrainableModel
from nanoflux_local.train.settings import TrainSettings

FAST_SETTINGS = {"epochs": 2, "learning_rate": 3e-3, "dtype": "float32", "threads": 1}


def read_adapter_weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_training_lowers_the_validation_loss_and_reports_every_step(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    events: list[TrainEvent] = []
    result = train(TrainSettings(**FAST_SETTINGS | {"epochs": 6}), examples, (), tiny_base, tmp_path, events.append)
    reported_steps = [event.step for event in events if isinstance(event, StepEvent)]
    reported_epochs = [event.epoch for event in events if isinstance(event, EpochEvent)]
    assert reported_steps == list(range(1, result.steps + 1))
    assert reported_epochs == list(range(7)), "epoch 0 must be reported before the first step"
    assert result.finished and result.initial_val_loss and result.val_loss
    assert result.val_loss < result.initial_val_loss - 0.2
    assert sum(isinstance(event, CheckpointEvent) for event in events) >= 6, "every epoch must end with a checkpoint"
    assert {"train_loss", "val_loss", "flops", "tokens_per_s", "truncated", "steps"} <= result.to_json().keys()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_repeated_training_is_bit_identical(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path, dtype: str
) -> None:
    settings = TrainSettings(**FAST_SETTINGS | {"dtype": dtype})
    for name in ("one", "two"):
        train(settings, examples, (), tiny_base, tmp_path / name)
    assert read_adapter_weights(tmp_path / "one") == read_adapter_weights(tmp_path / "two")
    train(settings.model_copy(update={"seed": 1}), examples, (), tiny_base, tmp_path / "three")
    assert read_adapter_weights(tmp_path / "three") != read_adapter_weights(tmp_path / "one")


def test_resumed_training_is_bit_identical(tiny_base: Path, examples: list[TrainingExample], tmp_path: Path) -> None:
    """The training run is stopped after every step and resumed until it finishes."""
    settings = TrainSettings(**FAST_SETTINGS)
    train(settings, examples, (), tiny_base, tmp_path / "uninterrupted")
    events: list[TrainEvent] = []
    for _ in range(20):
        result = train(settings, examples, (), tiny_base, tmp_path / "resumed", events.append, should_stop=lambda: True)
        if result.finished:
            break
    assert sum(isinstance(event, ResumeEvent) for event in events) >= 5
    assert read_adapter_weights(tmp_path / "resumed") == read_adapter_weights(tmp_path / "uninterrupted")


def test_checkpoint_of_another_training_run_is_refused(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    train(TrainSettings(**FAST_SETTINGS), examples, (), tiny_base, tmp_path)
    with pytest.raises(RefusedError, match="other settings"):
        train(TrainSettings(**FAST_SETTINGS | {"r": 4}), examples, (), tiny_base, tmp_path)


def test_error_on_an_unknown_target_names_the_target(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        train(TrainSettings(**FAST_SETTINGS | {"target_modules": ("nowhere",)}), examples, (), tiny_base, tmp_path)


def test_learning_rate_falls_linearly_to_zero() -> None:
    settings = TrainSettings()
    rates = [compute_learning_rate(settings, step, 10) for step in range(10)]
    assert rates[0] == settings.learning_rate
    assert rates == pytest.approx([2e-4 * (1 - step / 10) for step in range(10)])
    warmup_settings = TrainSettings(warmup_steps=4)
    warmup_rates = [compute_learning_rate(warmup_settings, step, 10) for step in (0, 3, 4, 9)]
    assert warmup_rates == pytest.approx([2e-4 * factor for factor in (0.2, 0.8, 1.0, 1 / 6)])


def test_plan_contains_every_row_once_per_epoch() -> None:
    settings = TrainSettings(epochs=3, batch=4, gradient_accumulation=2)
    steps = plan_steps(settings, list(range(18)))
    for epoch in (1, 2, 3):
        micro_batches = [batch for step in steps if step.epoch == epoch for batch in step.micro_batches]
        assert sorted(row for batch in micro_batches for row in batch) == list(range(18))
    assert [step.ends_epoch for step in steps] == [False, False, True] * 3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_equal_those_of_peft(
    tiny_base: Path, examples: list[TrainingExample], checkpointing: bool
) -> None:
    """In float32 and without dropout, the loss and the gradients equal those that PEFT's own layers compute from logits
    at every position, up to rounding.
    """
    settings = TrainSettings(dropout=0.0, gradient_checkpointing=checkpointing)
    model = TrainableModel(settings, tiny_base, torch.device("cpu"), torch.float32)
    for name, weight in model.peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)  # B starts at zero, which would give zero gradients for A
    codec = Codec.load(tiny_base)
    rows = [codec.encode(example, index) for index, example in enumerate(examples[:4])]
    our_loss = model.compute_loss(rows)
    our_loss.backward()
    our_gradients = [weight.grad.clone() for weight in model.trainable_weights]
    model.peft_model.zero_grad()
    for layer in model.peft_model.modules():
        layer.__dict__.pop("forward", None)  # restore PEFT's own forward pass
    reference_loss = sum(compute_reference_loss(model, row) for row in rows)
    reference_loss.backward()
    assert our_loss.item() == pytest.approx(reference_loss.item(), rel=1e-5)
    for our_gradient, weight in zip(our_gradients, model.trainable_weights, strict=True):
        torch.testing.assert_close(our_gradient, weight.grad, rtol=1e-3, atol=1e-4)


def test_joined_and_padded_rows_have_equal_loss_and_gradients(tiny_base: Path, examples: list[TrainingExample]) -> None:
    """For FlashAttention, the rows of a batch are joined into one sequence without padding. transformers uses the
    position ids to keep the rows apart, also in torch's own attention, so the test needs no GPU.
    """
    settings = TrainSettings(dropout=0.0, attention="sdpa")
    model = TrainableModel(settings, tiny_base, torch.device("cpu"), torch.float32)
    codec = Codec.load(tiny_base)
    rows = [codec.encode(example, index) for index, example in enumerate(examples[:5])]
    assert len({len(row.ids) for row in rows}) > 1, "all rows have the same length, so none would be padded"

    def compute_loss_and_gradients(padding_free: bool) -> tuple[float, list[torch.Tensor]]:
        model.padding_free = padding_free
        model.peft_model.zero_grad()
        loss = model.compute_loss(rows)
        loss.backward()
        return loss.item(), [weight.grad.clone() for weight in model.trainable_weights]

    padded_loss, padded_gradients = compute_loss_and_gradients(padding_free=False)
    joined_loss, joined_gradients = compute_loss_and_gradients(padding_free=True)
    assert joined_loss == pytest.approx(padded_loss, rel=1e-5)
    for padded_gradient, joined_gradient in zip(padded_gradients, joined_gradients, strict=True):
        torch.testing.assert_close(padded_gradient, joined_gradient, rtol=1e-3, atol=1e-4)


def test_attention_implementation_that_is_not_installed_is_refused(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    if is_flash_attn_2_available():
        pytest.skip("FlashAttention is installed")
    with pytest.raises(UsageError, match="flash_attention_2"):
        train(TrainSettings(**FAST_SETTINGS | {"attention": "flash_attention_2"}), examples, (), tiny_base, tmp_path)


def compute_reference_loss(model: TrainableModel, row: EncodedExample) -> torch.Tensor:
    """The loss of one row alone, from the model's own forward pass with logits at every position."""
    ids = torch.tensor([row.ids])
    labels = ids.masked_fill(torch.arange(ids.shape[1])[None] < row.prompt_length, -100)
    logits = model.causal_model(input_ids=ids).logits
    return F.cross_entropy(logits[0, :-1].float(), labels[0, 1:], ignore_index=-100, reduction="sum")


def test_early_stopping_keeps_the_best_epoch(tiny_base: Path, examples: list[TrainingExample], tmp_path: Path) -> None:
    """With a learning rate that is far too high, the validation loss rises, and training ends two epochs after the
    epoch with the lowest validation loss.
    """
    settings = TrainSettings(
        **FAST_SETTINGS | {"epochs": 12, "learning_rate": 30.0, "early_stopping": 2, "max_grad_norm": 1e3}
    )
    result = train(settings, examples, (), tiny_base, tmp_path)
    val_losses = [result.initial_val_loss, *result.val_losses]
    best_epoch = val_losses.index(min(val_losses))
    epoch_count = len(result.val_losses)
    assert epoch_count == best_epoch + 2 and epoch_count < 12


def test_modules_for_an_audit_do_not_import_torch() -> None:
    modules = ("audit", "data", "estimate", "events", "flops", "publishing", "settings", "summary", "trainings")
    imports = "; ".join(f"import nanoflux_local.train.{module}" for module in modules)
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real_model
def test_training_of_the_real_model_matches_peft_and_lowers_the_loss(
    real_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    settings = TrainSettings(dropout=0.0)
    model = TrainableModel(settings, real_base, torch.device("cpu"), torch.float32)
    codec = Codec.load(real_base)
    rows = [codec.encode(example, index) for index, example in enumerate(examples[:4])]
    with model.inference_mode():
        our_loss = model.compute_loss(rows)
        reference_loss = sum(compute_reference_loss(model, row) for row in rows)
    assert our_loss.item() == pytest.approx(reference_loss.item(), rel=1e-4)
    result = train(TrainSettings(epochs=2, learning_rate=1e-3), examples, (), real_base, tmp_path)
    assert result.val_loss and result.initial_val_loss and result.val_loss < 0.8 * result.initial_val_loss
