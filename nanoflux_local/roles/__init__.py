"""The three roles of the paper (§3): attacker, defender and judge. A role sends a prompt to a model and parses the
reply into a record. The attacker and the judge can also be built-in programs.
"""
