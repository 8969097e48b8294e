"""The ledger: one SQLite file that stores all calls, runs, examples, trainings, evaluations and jobs."""
