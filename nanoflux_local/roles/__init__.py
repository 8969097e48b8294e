"""The three roles of the paper (§3): each turns a prompt into a parsed record. The attacker and the judge can also be
built-in programs.
"""
