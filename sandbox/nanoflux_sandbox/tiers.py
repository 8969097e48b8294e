"""The tiers of isolation: their names, strongest first, and the tiers that a setting allows."""

from __future__ import annotations

import sys

LAYERS = ("namespaces", "landlock", "seccomp")
"""The isolation layers. The name of a tier joins the names of its layers with "+"."""

AUTOMATIC = ("namespaces+landlock+seccomp", "landlock+seccomp")
"""The tiers that `auto` tries in this order; each isolates programs completely."""

EXPLICIT = ("namespaces+seccomp", "seccomp")
"""Tiers with fewer layers, used only if named explicitly; every result names its tier."""


def list_tiers(backend: str) -> tuple[str, ...]:
    """The tiers to try for the setting `backend`, best first. Raises ValueError for an unknown name."""
    if backend == "auto":
        return AUTOMATIC
    name = backend.removeprefix("linux:")
    if name not in (*AUTOMATIC, *EXPLICIT):
        names = ", ".join(("auto", *(full_name(tier) for tier in (*AUTOMATIC, *EXPLICIT))))
        raise ValueError(f"there is no sandbox backend {backend!r}; choose one of: {names}")
    return (name,)


def full_name(tier: str) -> str:
    """The name of a tier in results and reports."""
    return f"linux:{tier}"


def explain_unsupported() -> str:
    """Why this operating system supports no tier; "" if it supports tiers."""
    if sys.platform != "linux":
        return f"there is no backend for {sys.platform}; the sandbox needs Linux"
    return ""
