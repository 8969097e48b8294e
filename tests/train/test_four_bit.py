"""A base in four bits: it equals bitsandbytes' own layers, keeps its gradients after a validation, and is refused
without bitsandbytes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanoflux_local.train.data import Codec, TrainingExample
from nanoflux_local.train.four_bit import is_four_bit
from nanoflux_local.train.lora import train
from nanoflux_local.train.model import Completions
from nanoflux_local.train.settings import TrainSettings

SETTINGS = TrainSettings(qlora=True, epochs=4, batch=4, learning_rate=3e-3, dtype="float32", threads=1)


def gradients(model: Completions, rows: list) -> tuple[float, list[torch.Tensor]]:
    model.peft.zero_grad()
    loss = model.loss(rows)
    loss.backward()
    return loss.item(), [weight.grad.clone() for weight in model.trained]


def test_four_bit_gradients_equal_those_of_bitsandbytes(tiny_base: Path, examples: list[TrainingExample]) -> None:
    settings = SETTINGS.model_copy(update={"dropout": 0.0})
    model = Completions(settings, tiny_base, torch.device("cpu"), torch.float32)
    layers = [module for module in model.peft.modules() if hasattr(module, "base_layer")]
    assert len(layers) == 14 and all(is_four_bit(layer.base_layer) for layer in layers)
    assert all(layer.base_layer.weight.quant_state.nested for layer in layers)
    for name, weight in model.peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    codec = Codec.load(tiny_base)
    rows = [codec.encode(example, i) for i, example in enumerate(examples[:4])]
    ours, slopes = gradients(model, rows)
    with model.inference_mode():
        model.loss(rows)  # bitsandbytes would repack the layers here
    for layer in layers:
        del layer.__dict__["forward"]
    theirs, others = gradients(model, rows)
    assert ours == pytest.approx(theirs, rel=1e-4)
    for one, other in zip(slopes, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_four_bit_training_learns_and_is_reproducible(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    first = train(SETTINGS, examples, (), tiny_base, tmp_path / "one")
    train(SETTINGS, examples, (), tiny_base, tmp_path / "two", should_stop=lambda: True)
    again = train(SETTINGS, examples, (), tiny_base, tmp_path / "two")
    assert first.val_loss and first.initial_val_loss and first.val_loss < first.initial_val_loss - 0.2
    assert first.train_losses == again.train_losses
    whole = train(SETTINGS.model_copy(update={"qlora": False}), examples, (), tiny_base, tmp_path / "whole")
    assert whole.train_losses[0] != first.train_losses[0] == pytest.approx(whole.train_losses[0], rel=0.2)


@pytest.mark.real_model
def test_four_bit_training_of_the_real_model_learns(
    real_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    settings = TrainSettings(qlora=True, epochs=2, learning_rate=1e-3)
    result = train(settings, examples, (), real_base, tmp_path)
    assert result.val_loss and result.initial_val_loss and result.val_loss < 0.8 * result.initial_val_loss


WITHOUT = """
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


def test_four_bit_without_bitsandbytes_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert "QLoRA needs bitsandbytes" in done.stdout and "without qlora" in done.stdout, done.stderr
