"""The terminal application, which shows the content of the ledger and acts by starting `nanoflux` commands.

It runs no model and never writes to the ledger itself, so closing or killing it loses nothing.
"""
