"""Everything that answers a request: models behind an interface, and the fakes that stand for them in tests."""
