"""The kept examples of a run: export, review, lineage."""
