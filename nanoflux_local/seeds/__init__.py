"""The sources of seed questions: the built-in templates and items, and benchmark files imported into the ledger."""
