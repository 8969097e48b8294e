"""Formats a count with its noun, in the singular for one."""


def format_quantity(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun, such as "1 turn" or "2 turns"; `plural` is needed unless it is the noun with an s."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
