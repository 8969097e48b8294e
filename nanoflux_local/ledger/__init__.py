"""The ledger: one SQLite file that remembers every call and holds runs, examples, trainings, evaluations and jobs."""
