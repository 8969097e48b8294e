"""The terminal application: shows what the ledger holds, and acts by starting the commands that others type.

Runs no model and writes no ledger of its own accord, so that closing it, or killing it, hurts nothing.
"""
