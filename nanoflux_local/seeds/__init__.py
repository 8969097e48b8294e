"""Where seed questions come from: the built-in templates and items, and benchmark files imported into the ledger."""
