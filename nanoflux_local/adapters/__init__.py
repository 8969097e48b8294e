"""Adapters: how they are identified, stored, imported, merged and exported."""
