"""Exports the kept examples of a run, records people's reviews of them, and traces their lineage."""
