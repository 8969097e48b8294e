"""Fixture for the endpoint tests: short pauses between retries."""

import pytest

from nanoflux_local.endpoints.remote import retries


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between retries; the number of retries is unchanged."""
    monkeypatch.setattr(retries, "BASE_S", 0.001)
    monkeypatch.setattr(retries, "MAX_PAUSE_S", 0.01)
