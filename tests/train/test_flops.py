"""The measured FLOPs agree with the count that the architecture predicts and with the convention 6·N·D."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.flops import Matrices, TrainingVolume, count_parameters, explain_flops
from nanoflux_local.train.lora import train
from nanoflux_local.train.model import TrainableModel
from nanoflux_local.train.settings import TrainSettings
from nanoflux_models.stand_ins import FAMILIES, make_stand_in


def lengthen_completions(examples: list[TrainingExample]) -> list[TrainingExample]:
    """The examples with completions of very different lengths, so that padding and the number of labels matter."""
    rng = random.Random(3)
    return [replace(example, completion=f"{example.completion} " * rng.randint(1, 9)) for example in examples]


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"target_modules": ("q_proj", "down_proj")}])
def test_measured_flops_equal_the_expected_flops(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path, changes: dict
) -> None:
    settings = TrainSettings(epochs=2, dtype="float32", **changes)
    result = train(settings, lengthen_completions(examples), (), tiny_base, tmp_path)
    flops = result.to_json()["flops"]
    components = dict(flops["explained"])
    total = components.pop("total")
    assert flops["measured"] == pytest.approx(total, rel=0.06)
    assert sum(components.values()) == pytest.approx(total)


@pytest.mark.real_model
def test_measured_flops_agree_with_6nd_of_the_real_model(
    real_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    """SmolLM2: the measured count is within 2% of the count that the architecture predicts, which is 50% to 85% of
    6·N·D, because frozen weights need no gradients, and embeddings no multiplications.
    """
    settings = TrainSettings(epochs=1, val_fraction=0)
    result = train(settings, lengthen_completions(examples)[:8], (), real_base, tmp_path)
    components = dict(result.flops_explained)
    total = components.pop("total")
    assert result.flops_measured == pytest.approx(total, rel=0.02)
    assert result.flops_6nd == 6 * count_parameters(real_base) * result.tokens
    assert 0.5 < total / result.flops_6nd < 0.85
    assert components["frozen"] == max(components.values())


def test_expected_flops_are_counted_by_component() -> None:
    frozen_only = explain_flops(
        Matrices(linear=1000, low_rank=0, head=0, attention=0),
        TrainingVolume(positions=7, squares=0, label_count=0),
    )
    assert frozen_only["total"] == frozen_only["frozen"] == 4 * 1000 * 7
    all_components = explain_flops(
        Matrices(linear=1000, low_rank=10, head=500, attention=20),
        TrainingVolume(positions=7, squares=49, label_count=3),
        checkpointing=True,
    )
    assert all_components == {"frozen": 42000, "low_rank": 560, "attention": 17640, "head": 6000, "total": 66200}


def test_matrices_count_layers_of_different_head_sizes(tmp_path: Path) -> None:
    """Of the six layers of this Gemma 4 stand-in, one has heads of size 64 and the others of size 32; each has 4."""
    base = make_stand_in(FAMILIES["Gemma4UnifiedForConditionalGeneration"], tmp_path / "base")
    settings = TrainSettings(target_modules=("q_proj",), attention="sdpa")
    matrices = TrainableModel(settings, base, torch.device("cpu"), torch.float32).measure_matrices()
    assert matrices.attention == 4 * (5 * 32 + 64)
