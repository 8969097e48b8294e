"""Adapters: their identity, where they are stored, and how they are imported, merged and exported."""
