"""The ledger: one SQLite file that stores all calls, runs, examples, training runs, evaluations and jobs."""
