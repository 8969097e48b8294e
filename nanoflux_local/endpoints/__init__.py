"""Everything that answers a request: models behind one interface, and the fakes that replace them in tests."""
