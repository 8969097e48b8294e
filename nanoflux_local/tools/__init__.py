"""The tools with which a judge checks: Python in the sandbox, and search."""
