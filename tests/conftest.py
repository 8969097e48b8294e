"""Shared by all tests: no call leaves this machine; a home with the real small models, pulled once and found intact
afterwards.
"""

import os
from pathlib import Path

import pytest

from nanoflux_models import guard

# Before anything imports torch: tests often share their cores with other work.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

guard.install()

DEFAULT_HOME = Path(__file__).parents[1] / ".nanoflux" / "test-home"


@pytest.fixture(scope="session")
def test_home() -> Path:
    """The home that keeps weights between test runs; NANOFLUX_TEST_HOME moves it."""
    return Path(os.environ.get("NANOFLUX_TEST_HOME") or DEFAULT_HOME)


@pytest.fixture(scope="session")
def smollm2_dir(test_home: Path) -> Path:
    """The installed weights of the small chat model."""
    return _pulled("smollm2-135m", test_home)


@pytest.fixture(scope="session")
def minilm_dir(test_home: Path) -> Path:
    """The installed weights of the small embedder."""
    return _pulled("all-minilm-l6-v2", test_home)


def _pulled(name: str, home: Path) -> Path:
    from nanoflux_models.weights import pull

    return pull(name, home)
