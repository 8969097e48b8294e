"""Landlock with an empty ruleset: this process and its children cannot access files or TCP ports, or the sockets and
processes outside their Landlock domain.

The restriction applies to everything that is opened afterwards; open descriptors keep working. Rights that the kernel's
Landlock version does not know are omitted.
"""

from __future__ import annotations

import ctypes
import os
import struct

from nanoflux_sandbox.kernel.libc import system_call

_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_GET_VERSION = 1

_FILE_RIGHT_COUNTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""The number of file rights by the first Landlock version that has them."""
_NET_SINCE, _NET_RIGHTS = 4, 0b11
"""The first Landlock version that restricts TCP, and its rights: to bind and to connect."""
_SCOPE_SINCE, _SCOPES = 6, 0b11
"""The first Landlock version with scopes, and its scopes: abstract unix sockets of other processes, and signals."""


def read_version() -> int:
    """The Landlock version of this kernel. Raises OSError if the kernel has no Landlock."""
    return system_call("landlock_create_ruleset", _CREATE_RULESET, None, 0, _GET_VERSION)


def _build_attributes(version: int) -> bytes:
    """The kernel's `struct landlock_ruleset_attr`, with every right that this Landlock version can deny."""
    file_right_count = max(count for since, count in _FILE_RIGHT_COUNTS.items() if since <= version)
    rights = [(1 << file_right_count) - 1]
    if version >= _NET_SINCE:
        rights.append(_NET_RIGHTS)
    if version >= _SCOPE_SINCE:
        rights.append(_SCOPES)
    return struct.pack(f"={len(rights)}Q", *rights)


def deny_everything() -> None:
    """Restrict this process irrevocably with an empty ruleset. Needs no_new_privs. Raises OSError if it fails."""
    attributes = _build_attributes(read_version())
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = system_call("landlock_create_ruleset", _CREATE_RULESET, buffer, len(attributes), 0)
    try:
        system_call("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
