"""The tools of a judge's checks: Python in the sandbox, and search."""
