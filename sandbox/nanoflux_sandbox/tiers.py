"""The tiers of isolation by name, strongest first, and which of them a setting allows."""

from __future__ import annotations

import sys

LAYERS = ("namespaces", "landlock", "seccomp")

AUTOMATIC = ("namespaces+landlock+seccomp", "landlock+seccomp")
"""What `auto` tries in turn; each holds by itself. With less it is `unavailable`."""

EXPLICIT = ("namespaces+seccomp", "seccomp")
"""Fewer layers, for whoever asks for them by name; every result says so."""


def tiers_for(backend: str) -> tuple[str, ...]:
    """The tiers to try for the setting `backend`, best first. Raises ValueError for a name that is none."""
    if backend == "auto":
        return AUTOMATIC
    name = backend.removeprefix("linux:")
    if name not in (*AUTOMATIC, *EXPLICIT):
        names = ", ".join(("auto", *(full_name(tier) for tier in (*AUTOMATIC, *EXPLICIT))))
        raise ValueError(f"no sandbox backend is called {backend!r}; there are: {names}")
    return (name,)


def full_name(tier: str) -> str:
    """How results and reports call a tier."""
    return f"linux:{tier}"


def why_unsupported() -> str:
    """Why this system can have no tier at all; empty where it can."""
    if sys.platform != "linux":
        return f"there is no backend for {sys.platform}; Linux is needed"
    return ""
