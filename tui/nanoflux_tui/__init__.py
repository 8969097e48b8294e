"""The terminal application: shows what the ledger holds and acts by starting `nanoflux` commands.

It runs no model and writes no ledger itself, so that closing or killing it loses nothing.
"""
