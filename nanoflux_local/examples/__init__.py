"""The kept examples of a run: their export, their review and their lineage."""
