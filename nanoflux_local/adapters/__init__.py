"""Identifies, stores, imports, merges and exports LoRA adapters."""
