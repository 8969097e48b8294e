"""Training on a 4-bit base has the gradients of bitsandbytes' own layers, is reproducible, and is refused if
bitsandbytes is not installed.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanoflux_local.train.data import Codec, TrainingExample
from nanoflux_local.train.four_bit import is_four_bit
from nanoflux_local.train.lora import train
from nanoflux_local.train.model import TrainableModel
from nanoflux_local.train.settings import TrainSettings

SETTINGS = TrainSettings(qlora=True, epochs=4, batch=4, learning_rate=3e-3, dtype="float32", threads=1)


def compute_gradients(model: TrainableModel, rows: list) -> tuple[float, list[torch.Tensor]]:
    """The loss of the rows and its gradient for each LoRA weight."""
    model.peft_model.zero_grad()
    loss = model.compute_loss(rows)
    loss.backward()
    return loss.item(), [weight.grad.clone() for weight in model.trainable_weights]


def test_four_bit_gradients_equal_those_of_bitsandbytes(tiny_base: Path, examples: list[TrainingExample]) -> None:
    settings = SETTINGS.model_copy(update={"dropout": 0.0})
    model = TrainableModel(settings, tiny_base, torch.device("cpu"), torch.float32)
    layers = [module for module in model.peft_model.modules() if hasattr(module, "base_layer")]
    assert len(layers) == 14 and all(is_four_bit(layer.base_layer) for layer in layers)
    assert all(layer.base_layer.weight.quant_state.nested for layer in layers)
    for name, weight in model.peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)  # B starts at zero, which would give zero gradients for A
    codec = Codec.load(tiny_base)
    rows = [codec.encode(example, index) for index, example in enumerate(examples[:4])]
    our_loss, our_gradients = compute_gradients(model, rows)
    with model.inference_mode():
        model.compute_loss(rows)  # by default, bitsandbytes would repack the layers here
    for layer in layers:
        del layer.__dict__["forward"]  # restore PEFT's own forward pass
    reference_loss, reference_gradients = compute_gradients(model, rows)
    assert our_loss == pytest.approx(reference_loss, rel=1e-4)
    for our_gradient, reference_gradient in zip(our_gradients, reference_gradients, strict=True):
        torch.testing.assert_close(our_gradient, reference_gradient, rtol=1e-2, atol=1e-3)


def test_four_bit_training_lowers_the_validation_loss_and_is_reproducible(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    first_result = train(SETTINGS, examples, (), tiny_base, tmp_path / "one")
    train(SETTINGS, examples, (), tiny_base, tmp_path / "two", should_stop=lambda: True)  # stops after one step
    resumed_result = train(SETTINGS, examples, (), tiny_base, tmp_path / "two")
    assert first_result.val_loss and first_result.initial_val_loss
    assert first_result.val_loss < first_result.initial_val_loss - 0.2
    assert first_result.train_losses == resumed_result.train_losses
    unquantized_settings = SETTINGS.model_copy(update={"qlora": False})
    unquantized_result = train(unquantized_settings, examples, (), tiny_base, tmp_path / "unquantized")
    four_bit_loss, unquantized_loss = first_result.train_losses[0], unquantized_result.train_losses[0]
    assert four_bit_loss != unquantized_loss
    assert four_bit_loss == pytest.approx(unquantized_loss, rel=0.2)


@pytest.mark.real_model
def test_four_bit_training_of_the_real_model_lowers_the_validation_loss(
    real_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    settings = TrainSettings(qlora=True, epochs=2, learning_rate=1e-3)
    result = train(settings, examples, (), real_base, tmp_path)
    assert result.val_loss and result.initial_val_loss and result.val_loss < 0.8 * result.initial_val_loss


MISSING_LIBRARY_SCRIPT = """
import sys
sys.modules["bitsandbytes"] = None
import torch
from nanoflux_local.errors import RefusedError
from nanoflux_local.train.four_bit import build_quantization
try:
    build_quantization(torch.float32)
except RefusedError as error:
    print(error)
"""
"""Builds the 4-bit configuration in a process that cannot import bitsandbytes, and prints the error."""


def test_four_bit_without_bitsandbytes_is_refused() -> None:
    process = subprocess.run([sys.executable, "-c", MISSING_LIBRARY_SCRIPT], capture_output=True, text=True)
    assert "QLoRA needs bitsandbytes" in process.stdout and "without qlora" in process.stdout, process.stderr
