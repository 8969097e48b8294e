"""Training examples that the tests' tiny base can learn from, and the folder of the real base."""

import random
from pathlib import Path

import pytest

from nanoflux_local.records import Message
from nanoflux_local.train.data import TrainingExample


def make_examples(count: int, seed: int = 0) -> list[TrainingExample]:
    """Sums as training examples. Fillers of random length give the examples different numbers of tokens."""
    rng = random.Random(seed)
    examples = []
    for number in range(count):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        filler = "so " * rng.randint(0, 12)
        prompt = (Message("user", f"{filler}{a} and {b}?"),)
        examples.append(TrainingExample(prompt, f"{filler}ANSWER: {a + b}", f"sum-{number}"))
    return examples


@pytest.fixture
def examples() -> list[TrainingExample]:
    """18 different sums; by default, two of them are held out for validation."""
    return make_examples(18)


@pytest.fixture(scope="session")
def real_base(request: pytest.FixtureRequest) -> Path:
    """The folder of SmolLM2-135M; the test is skipped if the suite has no fixture `smollm2_dir`."""
    try:
        return Path(request.getfixturevalue("smollm2_dir"))
    except pytest.FixtureLookupError:
        pytest.skip("no fixture smollm2_dir")
