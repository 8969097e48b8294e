"""The kept examples of a run: export, review and lineage."""
