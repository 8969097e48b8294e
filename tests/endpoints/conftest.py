"""Shared by the tests of endpoints: no long pauses."""

import pytest

from nanoflux_local.endpoints.remote import retries


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts that a test can wait for; how many attempts there are stays as it is."""
    monkeypatch.setattr(retries, "BASE_S", 0.001)
    monkeypatch.setattr(retries, "LONGEST_S", 0.01)
