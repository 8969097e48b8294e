"""The three roles of the paper (§3): each turns a prompt into a parsed record. Built-in programs can play attacker and
judge.
"""
